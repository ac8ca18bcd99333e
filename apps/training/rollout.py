"""How a challenger becomes champion: measured at its gates, tried as a canary, promoted."""

import logging
from math import exp, hypot, sqrt

from django.db.models import Avg, Count, F, Q, QuerySet, Value, Variance
from django.db.models.functions import Ln

from apps.accounts.permissions import Actor, require
from apps.core.permissions import SystemActor
from apps.core.statistics import wilson
from apps.predictions.models import Prediction
from apps.registry import actions as registry
from apps.registry.exceptions import RegistryError
from apps.registry.gates import Rule, compare, describe
from apps.registry.models import Canary, CanaryEnd, CanaryFailure, ModelVersion, Promotion
from apps.training import runs
from apps.training.models import Gate, GateReport

logger = logging.getLogger(__name__)

CANARY_WATCH = SystemActor("canary watch")
ENOUGH = 1_000  # comments that a canary has to score
FEWEST = 30  # comments of each model, before their latencies and flag rates are compared
Z = 3.0
MAX_ERROR_RATE = 0.001
MAX_SLOWDOWN = 1.5
MAX_FLAG_SHIFT, MAX_RELATIVE_FLAG_SHIFT = 0.02, 0.25
NOT_MEASURED = Gate(name="the gates are measured", figure=None, bound=None, passed=False)


class GateError(RegistryError):
    """A version fails its gates; `gates` are all of them."""

    def __init__(self, message: str, verdicts: list[Gate]) -> None:
        super().__init__(message)
        self.gates = verdicts


def send_measuring(*, actor: Actor, version: ModelVersion) -> None:
    """Have a worker measure a version at its gates, see `actions.measure_gates`.

    Raises:
        PermissionDenied: the user may not promote.
    """
    require(actor, registry.PROMOTE_PERMISSION)
    runs.send("measure_gates", version.pk, expires=3_600)


def promote(*, actor: Actor, version: ModelVersion, reason: str, force: bool = False) -> Promotion:
    """Make a version champion if it passed its gates, or if it is forced; both are recorded.

    A report that speaks of another champion, data set or day doesn't count: measure again.

    Raises:
        PermissionDenied: the user may not promote, or not force.
        RegistryError: no reason, champion already, or a gate failed or was not measured.
        ArtifactError: the version's artifact is damaged.
    """
    verdicts = _verdicts(version, reason, force)
    return registry.promote(
        actor=actor,
        version=version,
        reason=reason,
        gates=verdicts,
        forced=not all(gate["passed"] for gate in verdicts),
    )


def _verdicts(version: ModelVersion, reason: str, force: bool) -> list[Gate]:
    """Return what the version's gates say, where they let it pass.

    Raises:
        GateError: a gate failed, and it isn't forced.
    """
    if not reason.strip():
        raise RegistryError("Give a reason: it is kept with the promotion.")
    report = GateReport.objects.standing(version)
    verdicts: list[Gate] = report.gates if report else [NOT_MEASURED]
    failed = [describe(gate) for gate in verdicts if not gate["passed"]]
    if failed and not force:
        raise GateError(
            f"{version} fails its gates: {'; '.join(failed)}. If it must be, add --force and say why.",
            verdicts,
        )
    return verdicts


def start_canary(
    *,
    actor: Actor,
    version: ModelVersion,
    share: float,
    reason: str,
    force: bool = False,
) -> Canary:
    """Let a version serve a share of the requests if it passed its gates, or if it is forced.

    Raises:
        PermissionDenied, RegistryError, ArtifactError: as in `promote`, and as in `registry.start_canary`.
    """
    verdicts = _verdicts(version, reason, force)
    return registry.start_canary(
        version=version,
        share=share,
        reason=reason,
        actor=actor,
        gates=verdicts,
        forced=not all(gate["passed"] for gate in verdicts),
    )


def watch_canary() -> CanaryEnd | None:
    """End the canary where it has left a band or has served enough; return its end, or None.

    The first rolls it back. The second makes it champion, unless it was started although gates failed: then
    it ends as challenger, and a person decides. Any number of schedulers may call it at once.
    """
    canary = Canary.objects.running()
    if canary is None:
        return None
    count, found = bands(canary)
    broken = [describe(band) for band in found if not band["passed"]]
    try:
        if broken:
            return registry.end_canary(
                outcome=CanaryEnd.Outcome.ROLLED_BACK,
                reason=f"It left its band: {'; '.join(broken)}.",
                actor=CANARY_WATCH,
                guardrails=found,
            )
        if count >= ENOUGH and canary.forced:
            return registry.end_canary(
                outcome=CanaryEnd.Outcome.FINISHED,
                reason=f"It kept within the bands for {count} comments. It was started although "
                "gates failed, so a person decides whether it becomes champion.",
                actor=CANARY_WATCH,
                guardrails=found,
            )
        if count >= ENOUGH:
            registry.promote(
                version=canary.version,
                reason=f"Its canary kept within the bands for {count} comments. {canary.reason}",
                actor=CANARY_WATCH,
                gates=canary.gates,
                guardrails=found,
            )
            return CanaryEnd.objects.get(canary=canary)
    except RegistryError as error:
        # Another scheduler, or a person, ended it at this moment.
        logger.info("The canary is left alone: %s", error)
    return None


def bands(canary: Canary) -> tuple[int, list[Gate]]:
    """Return how many comments a canary has scored, and where it stands in each band since it began.

    A band is left where the whole interval lies outside: three standard errors wide, since it is looked at
    many times. The flag rates' difference has Newcombe's (1998) interval, the failures' rate Wilson's (1927),
    the latency that of a ratio of geometric means.
    """
    since = Prediction.objects.filter(created_at__gte=canary.created_at)
    own, theirs = (_Traffic(since.filter(model_version=which)) for which in (canary.version, canary.champion))
    failures = CanaryFailure.objects.filter(version=canary.version, created_at__gte=canary.created_at).count()
    found = []
    if rate := wilson(failures, failures + own.count, z=Z):
        found.append(
            _guardrail(
                "error rate",
                Rule.INTERVAL_REACHES_AT_MOST,
                failures / (failures + own.count),
                MAX_ERROR_RATE,
                rate,
            )
        )
    if min(own.count, theirs.count) >= FEWEST:
        ratio = exp(own.latency - theirs.latency)
        error = Z * sqrt(own.variance / own.count + theirs.variance / theirs.count)
        interval = (ratio * exp(-error), ratio * exp(error))
        found.append(
            _guardrail(
                "latency, times the champion's",
                Rule.INTERVAL_REACHES_AT_MOST,
                ratio,
                MAX_SLOWDOWN,
                interval,
            )
        )
        shift, interval = own.shift(theirs)
        bound = max(MAX_FLAG_SHIFT, MAX_RELATIVE_FLAG_SHIFT * theirs.flagged / theirs.count)
        found.append(
            _guardrail(
                "flag rate, away from the champion's",
                Rule.INTERVAL_REACHES_WITHIN,
                shift,
                bound,
                interval,
            )
        )
    return own.count, found


def _guardrail(name: str, rule: Rule, figure: float, bound: float, interval: tuple[float, float]) -> Gate:
    passed = compare(rule, figure, bound, interval)
    return Gate(name=name, figure=figure, bound=bound, passed=passed, rule=rule, interval=interval)


class _Traffic:
    """What some predictions have in common: how many, how many flagged, mean and variance of log(1 + µs)."""

    def __init__(self, predictions: QuerySet[Prediction]) -> None:
        latency = Ln(F("latency_us") + Value(1.0))
        row = predictions.aggregate(
            count=Count("pk"),
            flagged=Count("pk", filter=~Q(label_mask=0)),
            latency=Avg(latency),
            variance=Variance(latency),
        )
        self.count: int = row["count"]
        self.flagged: int = row["flagged"]
        self.latency: float = row["latency"] or 0.0
        self.variance: float = row["variance"] or 0.0

    def shift(self, other: "_Traffic") -> tuple[float, tuple[float, float]]:
        """Return how much higher this flag rate is than the other, and the interval."""
        own, theirs = self.flagged / self.count, other.flagged / other.count
        (low, high), (low_other, high_other) = (
            wilson(each.flagged, each.count, z=Z) or (0.0, 1.0) for each in (self, other)
        )
        difference = own - theirs
        return difference, (
            difference - hypot(own - low, high_other - theirs),
            difference + hypot(high - own, theirs - low_other),
        )
