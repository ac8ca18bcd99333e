"""Register, promote, try and export model versions. Training, the admin and management commands call them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from django.db import transaction
from django.db.models import Max

from apps.accounts.permissions import Actor, communities_of, require, user_or_none
from apps.classifier.artifact import Artifact
from apps.classifier.scorer import Scorer
from apps.core.exceptions import PermissionDeniedError
from apps.core.permissions import SystemActor
from apps.registry.exceptions import GateError, RegistryError
from apps.registry.gates import Gate, describe
from apps.registry.models import (
    MAX_SHARE,
    Alias,
    Canary,
    CanaryEnd,
    EvaluationArtifact,
    ModelArtifact,
    ModelVersion,
    Promotion,
)

BASE_MODEL = Path(__file__).parent / "base_model"
PROMOTE_PERMISSION, OVERRIDE_PERMISSION = "registry.change_modelversion", "registry.override_gates"
ALL_COMMUNITIES = (
    "The model scores the comments of every community: only users with access to all of them may promote, "
    "try or roll back a version."
)
CARD, EVALUATION = "MODEL_CARD.md", "evaluation"


def _lock_aliases() -> None:
    """Serialize changes of aliases on PostgreSQL; SQLite has one writer at a time anyway."""
    list(ModelVersion.objects.select_for_update().exclude(alias=None).values_list("pk"))


@transaction.atomic
def register_version(
    *,
    artifact: Artifact,
    evaluation: Artifact | None = None,
    recipe: str,
    metrics: Mapping[str, Any],
    card: str = "",
    mlflow_run_id: str = "",
    mlflow_version: str = "",
    alias: Alias | None = Alias.CHALLENGER,
) -> ModelVersion:
    """Store a trained model as a new version, by default as the challenger in place of the current one.

    Args:
        evaluation: the evaluation model: the same recipe fitted without the held-out rows, for the gates.

    Raises:
        ArtifactError: the artifact is damaged. Nothing is stored.
    """
    Scorer.load(artifact)
    _lock_aliases()
    if alias:
        ModelVersion.objects.filter(alias=alias).update(alias=None)
    version = ModelVersion.objects.create(
        number=(ModelVersion.objects.aggregate(last=Max("number"))["last"] or 0) + 1,
        alias=alias,
        recipe=recipe,
        sha256=artifact.sha256,
        manifest=json.loads(artifact.manifest),
        metrics=dict(metrics),
        card=card,
        mlflow_run_id=mlflow_run_id,
        mlflow_version=mlflow_version,
    )
    ModelArtifact.objects.create(version=version, manifest=artifact.manifest, weights=artifact.weights)
    if evaluation:
        EvaluationArtifact.objects.create(
            version=version, manifest=evaluation.manifest, weights=evaluation.weights
        )
    return version


@transaction.atomic
def promote(
    *,
    actor: Actor,
    version: ModelVersion,
    reason: str,
    gates: Sequence[Gate] = (),
    force: bool = False,
    kind: Promotion.Kind = Promotion.Kind.PROMOTE,
    canary: Canary | None = None,
    guardrails: Sequence[Gate] = (),
) -> Promotion:
    """Make a version the champion; the replaced champion becomes `previous`. Every process swaps in seconds.

    A running canary ends: as completed if it is this version, else as withdrawn.

    Args:
        gates: the results of the version's gates, see `apps.registry.gates`.
        force: promote even if a gate failed.
        canary: the canary that must be running still, if it decided about the promotion.
        guardrails: the results of the guardrails of this version's canary.

    Raises:
        PermissionDeniedError: the actor may not promote or force, or lacks access to a community.
        GateError: a gate failed.
        RegistryError: the reason is missing, the version is the champion, or the canary has ended.
        ArtifactError: the version's artifact is damaged; the champion remains.
    """
    record = _check_request(actor, reason, version, gates, force)
    _lock_aliases()
    version.refresh_from_db()
    if version.alias == Alias.CHAMPION:
        raise RegistryError(f"{version} is the champion already.")
    version.load_scorer()
    running = _running_canary(canary)
    if running:
        is_canary = running.version_id == version.pk
        outcome = CanaryEnd.Outcome.COMPLETED if is_canary else CanaryEnd.Outcome.WITHDRAWN
        _end_canary(actor, running, outcome, f"{version} became champion. {reason}", guardrails)
    champion = ModelVersion.objects.with_alias(Alias.CHAMPION)
    ModelVersion.objects.filter(alias=Alias.PREVIOUS).update(alias=None)
    if champion:
        ModelVersion.objects.filter(pk=champion.pk).update(alias=Alias.PREVIOUS)
    ModelVersion.objects.filter(pk=version.pk).update(alias=Alias.CHAMPION, share=None)
    version.refresh_from_db()
    return Promotion.objects.create(kind=kind, version=version, replaced=champion, **record)


@transaction.atomic
def rollback(*, actor: Actor, reason: str, version: ModelVersion | None = None) -> Promotion:
    """Make the previous champion the champion again.

    Args:
        version: the previous champion, if a person has chosen it. A second request does not undo the first.

    Raises:
        PermissionDeniedError: the actor may not promote, or lacks access to a community.
        RegistryError: there is no previous champion, it is not the version, or the reason is missing.
    """
    _lock_aliases()
    previous = ModelVersion.objects.with_alias(Alias.PREVIOUS)
    if previous is None:
        raise RegistryError("There is no previous champion to roll back to.")
    if version not in (None, previous):
        raise RegistryError(f"The previous champion is {previous} now, not {version}.")
    return promote(actor=actor, version=previous, reason=reason, kind=Promotion.Kind.ROLLBACK)


@transaction.atomic
def start_canary(
    *,
    actor: Actor,
    version: ModelVersion,
    share: float,
    reason: str,
    gates: Sequence[Gate] = (),
    force: bool = False,
) -> Canary:
    """Let a version serve a share of the requests. Every process starts to route them within seconds.

    Args:
        share: above 0 and at most `MAX_SHARE`.
        gates: the results of the version's gates, see `apps.registry.gates`.
        force: start even if a gate failed.

    Raises:
        PermissionDeniedError: the actor may not promote or force, or lacks access to a community.
        GateError: a gate failed.
        RegistryError: the reason is missing, the share is out of range, a canary is running, there is no
            other version as champion, or the version is the one to roll back to.
        ArtifactError: the version's artifact is damaged.
    """
    record = _check_request(actor, reason, version, gates, force)
    if not 0 < share <= MAX_SHARE:
        raise RegistryError(f"A canary's share is above 0 and at most {MAX_SHARE:.0%}.")
    _lock_aliases()
    if running := Canary.objects.running():
        raise RegistryError(f"{running} is running: end it first.")
    champion = ModelVersion.objects.with_alias(Alias.CHAMPION)
    version.refresh_from_db()
    if champion is None or champion == version:
        raise RegistryError("A canary needs a champion to be compared with, other than itself.")
    if version.alias == Alias.PREVIOUS:
        raise RegistryError(f"{version} is the previous champion: roll back to it instead.")
    version.load_scorer()
    ModelVersion.objects.filter(pk=version.pk).update(alias=Alias.CANARY, share=share)
    version.refresh_from_db()
    return Canary.objects.create(version=version, champion=champion, share=share, **record)


@transaction.atomic
def end_canary(
    *,
    actor: Actor,
    outcome: CanaryEnd.Outcome,
    reason: str,
    canary: Canary | None = None,
    guardrails: Sequence[Gate] = (),
) -> CanaryEnd:
    """Stop the canary. It becomes the challenger again, unless there is a newer challenger.

    Args:
        canary: the canary that must be running still, if the decision was about it.

    Raises:
        PermissionDeniedError: the actor may not promote, or lacks access to a community.
        RegistryError: the reason is missing, no canary is running, or not this one.
    """
    _require_reason(actor, reason)
    _lock_aliases()
    running = _running_canary(canary)
    if running is None:
        raise RegistryError("No canary is running.")
    return _end_canary(actor, running, outcome, reason, guardrails)


def _running_canary(expected: Canary | None) -> Canary | None:
    """Return the running canary. If another one is expected, raise RegistryError."""
    running = Canary.objects.running()
    if expected not in (None, running):
        raise RegistryError(f"{expected} has ended meanwhile.")
    return running


def _require_reason(actor: Actor, reason: str) -> None:
    require(actor, PROMOTE_PERMISSION)
    if communities_of(actor) is not None:
        raise PermissionDeniedError(ALL_COMMUNITIES)
    if not reason.strip():
        raise RegistryError("Give a reason: it is recorded.")


def _check_request(
    actor: Actor, reason: str, version: ModelVersion, gates: Sequence[Gate], force: bool
) -> dict[str, Any]:
    """Check the actor's permissions, the reason and the gates; return the fields that record them."""
    _require_reason(actor, reason)
    failed = [describe(gate) for gate in gates if not gate["passed"]]
    if failed and not force:
        raise GateError(
            f"{version} fails its gates: {'; '.join(failed)}. Override the gates only for a good reason."
        )
    if failed:
        require(actor, OVERRIDE_PERMISSION)
    return _actor_fields(actor, reason) | {"gates": list(gates), "forced": bool(failed)}


def _actor_fields(actor: Actor, reason: str) -> dict[str, Any]:
    return {"by": user_or_none(actor), "actor": actor.get_username(), "reason": reason}


def _end_canary(
    actor: Actor,
    canary: Canary,
    outcome: CanaryEnd.Outcome,
    reason: str,
    guardrails: Sequence[Gate],
) -> CanaryEnd:
    alias = None if ModelVersion.objects.with_alias(Alias.CHALLENGER) else Alias.CHALLENGER
    ModelVersion.objects.filter(pk=canary.version_id).update(alias=alias, share=None)
    return CanaryEnd.objects.create(
        canary=canary,
        outcome=outcome,
        guardrails=list(guardrails),
        **_actor_fields(actor, reason),
    )


def export_version(*, version: ModelVersion, folder: Path) -> None:
    """Write a version to a folder that `install_base_model` can read: artifact, evaluation model, model card.

    Raises:
        OSError: the folder can't be written.
    """
    version.modelartifact.artifact().write(folder)
    (folder / CARD).write_text(version.card, encoding="utf-8")
    if evaluation := EvaluationArtifact.objects.filter(version=version).first():
        evaluation.artifact().write(folder / EVALUATION)


@transaction.atomic
def install_base_model() -> ModelVersion | None:
    """Install the shipped base model as the champion; return None if there is a champion already."""
    if ModelVersion.objects.with_alias(Alias.CHAMPION):
        return None
    artifact = Artifact.read(BASE_MODEL)
    evaluation = BASE_MODEL / EVALUATION
    version = register_version(
        artifact=artifact,
        evaluation=Artifact.read(evaluation) if evaluation.is_dir() else None,
        recipe="two_level",
        metrics=json.loads(artifact.manifest)["metrics"],
        card=(BASE_MODEL / CARD).read_text(encoding="utf-8"),
        alias=None,
    )
    promote(
        actor=SystemActor("install_base_model"),
        version=version,
        reason="The base model shipped with this release.",
        kind=Promotion.Kind.INSTALL,
    )
    return version
