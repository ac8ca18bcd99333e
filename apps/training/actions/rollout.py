"""Promote a challenger whose gates pass, start a canary, and end a canary by its guardrails."""

import logging

from apps.accounts.permissions import Actor
from apps.core.permissions import SystemActor
from apps.registry import actions as registry
from apps.registry.exceptions import RegistryError
from apps.registry.gates import Gate, describe
from apps.registry.models import Canary, CanaryEnd, ModelVersion, Promotion
from apps.training.guardrails import measure_guardrails
from apps.training.models import GateReport

logger = logging.getLogger(__name__)

CANARY_CHECK = SystemActor("canary check")
CANARY_COMMENTS = 1_000  # that a canary has to score
NOT_MEASURED = Gate(name="the gates are measured", figure=None, bound=None, passed=False)


def promote(*, actor: Actor, version: ModelVersion, reason: str, force: bool = False) -> Promotion:
    """Make a version the champion if its gates pass, or if it is forced, and store the gates.

    A report about another champion, data set or day does not count: measure the gates again.

    Raises:
        PermissionDeniedError, RegistryError, ArtifactError: as in `registry.promote`.
        GateError: a gate failed or was not measured.
    """
    return registry.promote(
        actor=actor, version=version, reason=reason, gates=_current_gates(version), force=force
    )


def start_canary(
    *, actor: Actor, version: ModelVersion, share: float, reason: str, force: bool = False
) -> Canary:
    """Let a version serve a share of the requests if its gates pass, or if it is forced.

    Raises:
        PermissionDeniedError, RegistryError, ArtifactError: as in `registry.start_canary`.
        GateError: a gate failed or was not measured.
    """
    return registry.start_canary(
        actor=actor, version=version, share=share, reason=reason, gates=_current_gates(version), force=force
    )


def _current_gates(version: ModelVersion) -> list[Gate]:
    report = GateReport.objects.current(version)
    return report.gates if report else [NOT_MEASURED]


def check_canary() -> CanaryEnd | None:
    """End the canary if it violated a guardrail or has scored enough comments; return its end, or None.

    In the first case the canary is rolled back. In the second it becomes the champion, unless it was started
    although gates failed: then it becomes the challenger again, and a person decides. Several schedulers may
    call it at the same time.
    """
    canary = Canary.objects.running()
    if canary is None:
        return None
    count, guardrails = measure_guardrails(canary)
    violated = [describe(guardrail) for guardrail in guardrails if not guardrail["passed"]]
    try:
        if violated:
            return registry.end_canary(
                actor=CANARY_CHECK,
                canary=canary,
                outcome=CanaryEnd.Outcome.ROLLED_BACK,
                reason=f"It violated a guardrail: {'; '.join(violated)}.",
                guardrails=guardrails,
            )
        if count >= CANARY_COMMENTS and canary.forced:
            return registry.end_canary(
                actor=CANARY_CHECK,
                canary=canary,
                outcome=CanaryEnd.Outcome.FINISHED,
                reason=f"It kept its guardrails for {count} comments. It was started although gates failed, "
                "so a person decides whether it becomes champion.",
                guardrails=guardrails,
            )
        if count >= CANARY_COMMENTS:
            registry.promote(
                actor=CANARY_CHECK,
                version=canary.version,
                reason=f"Its canary kept its guardrails for {count} comments. {canary.reason}",
                gates=canary.gates,
                canary=canary,
                guardrails=guardrails,
            )
            return CanaryEnd.objects.get(canary=canary)
    except RegistryError as error:
        # Another scheduler or a person ended it at the same time.
        logger.info("The canary was not ended: %s", error)
    return None
