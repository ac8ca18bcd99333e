"""What is done with model versions. Every change of champion leaves a `Promotion`."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.db.models import Max

from apps.accounts.models import User
from apps.classifier.artifact import Artifact
from apps.classifier.scorer import Scorer
from apps.registry.exceptions import RegistryError
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
PROMOTE, OVERRIDE = "registry.change_modelversion", "registry.override_gates"
CARD, EVALUATION = "MODEL_CARD.md", "evaluation"


def require(user: User | None, permission: str) -> None:
    """Let the user pass, or nobody: the command line's operator.

    Raises:
        PermissionDenied: the user lacks the permission.
    """
    if user and not user.has_perm(permission):
        raise PermissionDenied(f"{user.get_username()} lacks the permission “{permission}”.")


def _lock() -> None:
    """Let changes of aliases happen one after another (SQLite's transactions are immediate: alone anyhow)."""
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
    """Store a trained model as a new version; as challenger it takes the place of the one before.

    Args:
        evaluation: the same recipe fitted without the held-out rows, which gates compare.

    Raises:
        ArtifactError: the artifact is damaged. Nothing is stored.
    """
    Scorer.load(artifact)
    _lock()
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
    version: ModelVersion,
    reason: str,
    actor: str,
    by: User | None = None,
    gates: Sequence[Mapping[str, Any]] = (),
    forced: bool = False,
    kind: Promotion.Kind = Promotion.Kind.PROMOTE,
    bands: Sequence[Mapping[str, Any]] = (),
) -> Promotion:
    """Make a version the champion; the one before becomes `previous`. Every process swaps within seconds.

    A running canary ends by it: completed if it is this version, else withdrawn.

    Args:
        bands: where this version's canary stood.

    Raises:
        PermissionDenied: the user may not promote, or not force. The command line's operator may.
        RegistryError: no reason, the version is champion already, or a gate failed and it is not forced.
        ArtifactError: the version's artifact is damaged; the champion stays.
    """
    require(by, PROMOTE)
    if forced:
        require(by, OVERRIDE)
    if not reason.strip():
        raise RegistryError("Give a reason: it is kept with the promotion.")
    if not forced and any(not gate["passed"] for gate in gates):
        failed = ", ".join(gate["name"] for gate in gates if not gate["passed"])
        raise RegistryError(f"{version} fails its gates: {failed}. Force it with a reason if it must be.")
    _lock()
    version.refresh_from_db()
    if version.alias == Alias.CHAMPION:
        raise RegistryError(f"{version} is the champion already.")
    Scorer.load(version.modelartifact.artifact(), expected_sha256=version.sha256)
    if canary := Canary.objects.running():
        is_it = canary.version_id == version.pk
        outcome = CanaryEnd.Outcome.COMPLETED if is_it else CanaryEnd.Outcome.WITHDRAWN
        _end(canary, outcome, f"{version} became champion. {reason}", actor, by, bands)
    champion = ModelVersion.objects.with_alias(Alias.CHAMPION)
    ModelVersion.objects.filter(alias=Alias.PREVIOUS).update(alias=None)
    if champion:
        ModelVersion.objects.filter(pk=champion.pk).update(alias=Alias.PREVIOUS)
    ModelVersion.objects.filter(pk=version.pk).update(alias=Alias.CHAMPION, share=None)
    version.refresh_from_db()
    return Promotion.objects.create(
        kind=kind,
        version=version,
        replaced=champion,
        by=by,
        actor=actor,
        reason=reason,
        forced=forced,
        gates=list(gates),
    )


@transaction.atomic
def rollback(*, reason: str, actor: str, by: User | None = None) -> Promotion:
    """Make the previous champion the champion again.

    Raises:
        RegistryError: there is no previous champion, or no reason was given.
    """
    previous = ModelVersion.objects.with_alias(Alias.PREVIOUS)
    if previous is None:
        raise RegistryError("There is no previous champion to roll back to.")
    return promote(version=previous, reason=reason, actor=actor, by=by, kind=Promotion.Kind.ROLLBACK)


@transaction.atomic
def start_canary(
    *,
    version: ModelVersion,
    share: float,
    reason: str,
    actor: str,
    by: User | None = None,
    gates: Sequence[Mapping[str, Any]] = (),
    forced: bool = False,
) -> Canary:
    """Let a version serve a share of the requests, on trial. Every process sees it within seconds.

    Raises:
        PermissionDenied: the user may not promote, or not force.
        RegistryError: no reason, no such share, a canary runs already, or there is no other champion.
        ArtifactError: the version's artifact is damaged.
    """
    require(by, PROMOTE)
    if forced:
        require(by, OVERRIDE)
    if not reason.strip():
        raise RegistryError("Give a reason: it is kept with the canary.")
    if not 0 < share <= MAX_SHARE:
        raise RegistryError(f"A canary's share is above 0 and at most {MAX_SHARE:.0%}.")
    _lock()
    if running := Canary.objects.running():
        raise RegistryError(f"{running} is running: end it first.")
    champion = ModelVersion.objects.with_alias(Alias.CHAMPION)
    version.refresh_from_db()
    if champion is None or champion == version:
        raise RegistryError("A canary needs a champion to be compared with, other than itself.")
    Scorer.load(version.modelartifact.artifact(), expected_sha256=version.sha256)
    ModelVersion.objects.filter(pk=version.pk).update(alias=Alias.CANARY, share=share)
    version.refresh_from_db()
    return Canary.objects.create(
        version=version,
        champion=champion,
        share=share,
        by=by,
        actor=actor,
        reason=reason,
        gates=list(gates),
        forced=forced,
    )


@transaction.atomic
def end_canary(
    *,
    outcome: CanaryEnd.Outcome,
    reason: str,
    actor: str,
    by: User | None = None,
    bands: Sequence[Mapping[str, Any]] = (),
) -> CanaryEnd:
    """Take the canary out of service; it is the challenger again unless there is another by now.

    Raises:
        PermissionDenied: the user may not promote.
        RegistryError: no reason, or no canary is running.
    """
    require(by, PROMOTE)
    if not reason.strip():
        raise RegistryError("Give a reason: it is kept with the canary.")
    _lock()
    canary = Canary.objects.running()
    if canary is None:
        raise RegistryError("No canary is running.")
    return _end(canary, outcome, reason, actor, by, bands)


def _end(
    canary: Canary,
    outcome: CanaryEnd.Outcome,
    reason: str,
    actor: str,
    by: User | None,
    bands: Sequence[Mapping[str, Any]],
) -> CanaryEnd:
    alias = None if ModelVersion.objects.with_alias(Alias.CHALLENGER) else Alias.CHALLENGER
    ModelVersion.objects.filter(pk=canary.version_id).update(alias=alias, share=None)
    return CanaryEnd.objects.create(
        canary=canary, outcome=outcome, reason=reason, actor=actor, by=by, bands=list(bands)
    )


def export_version(*, version: ModelVersion, folder: Path) -> None:
    """Write a version to a folder as `install_base_model` reads it: artifact, evaluation twin, model card.

    Raises:
        OSError: the folder can't be written.
    """
    version.modelartifact.artifact().write(folder)
    (folder / CARD).write_text(version.card, encoding="utf-8")
    if evaluation := EvaluationArtifact.objects.filter(version=version).first():
        evaluation.artifact().write(folder / EVALUATION)


@transaction.atomic
def install_base_model() -> ModelVersion | None:
    """Install the shipped base model as champion where there is none; return it, or None if there was one."""
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
        version=version,
        reason="The base model shipped with this release.",
        actor="install_base_model",
        kind=Promotion.Kind.INSTALL,
    )
    return version
