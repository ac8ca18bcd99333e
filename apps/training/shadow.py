"""A challenger in the shadow: it scores what the champion has answered, and the two are compared."""

from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

import numpy as np
from django.conf import settings
from django.utils import timezone

from apps.accounts.models import User
from apps.accounts.permissions import require
from apps.classifier.labels import LABELS
from apps.classifier.scorer import Scorer
from apps.moderation import actions as moderation
from apps.moderation.models import QueueItem
from apps.predictions.models import Prediction, pack_labels, unpack_labels
from apps.registry import actions as registry
from apps.registry.models import Alias, ModelVersion
from apps.training.models import ShadowScore

NEWEST = timedelta(hours=1)
BATCH = 1_000  # comments at a time
COMPARED, KEPT = 5_000, 50_000  # of the newest
SHOWN = 20


def score_in_shadow() -> int:
    """Have the challenger score a share of the champion's newest stored comments; return how many.

    Comments that were not to be stored have no text, so are never among them. Which are chosen is decided by
    their ids: any number of schedulers may call it at once, and each comment is scored once.
    """
    challenger, champion = (
        ModelVersion.objects.with_alias(alias) for alias in (Alias.CHALLENGER, Alias.CHAMPION)
    )
    if challenger is None or champion is None or not settings.SHADOW_SHARE:
        return 0
    newest = (
        Prediction.objects.filter(
            created_at__gte=timezone.now() - NEWEST, text__isnull=False, model_version=champion
        )
        .order_by("-id")
        .values_list("pk", flat=True)[: int(BATCH / max(settings.SHADOW_SHARE, 0.01))]
    )
    chosen = [pk for pk in newest if _is_chosen(pk)]
    done = ShadowScore.objects.filter(version=challenger, prediction__in=chosen)
    todo = set(chosen) - set(done.values_list("prediction", flat=True))
    texts = dict(Prediction.objects.filter(pk__in=todo).values_list("pk", "text"))
    if not texts:
        return 0
    scorer = Scorer.load(challenger.modelartifact.artifact(), expected_sha256=challenger.sha256)
    scores = scorer.score_many([text or "" for text in texts.values()])
    ShadowScore.objects.bulk_create(
        [
            ShadowScore(
                prediction_id=pk,
                version=challenger,
                label_mask=pack_labels(row >= scorer.thresholds),
                **dict(zip(LABELS, row.tolist(), strict=True)),
            )
            for pk, row in zip(texts, scores, strict=True)
        ],
        ignore_conflicts=True,
    )
    for pk in ShadowScore.objects.values_list("pk", flat=True)[KEPT : KEPT + 1]:
        ShadowScore.objects.filter(pk__lte=pk).delete()
    return len(texts)


def _is_chosen(pk: UUID) -> bool:
    # A UUIDv7 ends in random bits.
    return pk.int % 2**32 < settings.SHADOW_SHARE * 2**32


@dataclass(frozen=True)
class LabelComparison:
    """How often two models give a label, agree on it, and their mean distance."""

    label: str
    champion: float
    challenger: float
    agreement: float
    distance: float


@dataclass(frozen=True)
class Difference:
    """A comment on which two models differ, and the label on which they differ most."""

    prediction: Prediction
    label: str
    champion: float
    challenger: float
    is_queued: bool


@dataclass(frozen=True)
class Comparison:
    """Two models on the same comments; shares are from 0 to 1, None without comments."""

    count: int
    labels: list[LabelComparison]
    agreement: float | None
    flagged: tuple[float, float] | None
    differences: list[Difference]


def compare(
    *, challenger: ModelVersion, champion: ModelVersion, communities: list[str] | None = None
) -> Comparison:
    """Compare two models on the newest comments that both have scored.

    Args:
        communities: compare on the comments of these communities; None for all.
    """
    found = ShadowScore.objects.filter(version=challenger, prediction__model_version=champion).order_by("-pk")
    if communities is not None:
        found = found.filter(prediction__community__in=communities)
    rows = list(
        found.values_list(
            "prediction",
            "prediction__label_mask",
            "label_mask",
            *(f"prediction__{label}" for label in LABELS),
            *LABELS,
        )[:COMPARED]
    )
    if not rows:
        return Comparison(0, [], None, None, [])
    figures = np.array([row[3:] for row in rows])
    theirs, own = figures[:, : len(LABELS)], figures[:, len(LABELS) :]
    flags = np.array([[list(unpack_labels(mask).values()) for mask in row[1:3]] for row in rows])
    distance = np.abs(own - theirs)
    labels = [
        LabelComparison(
            label=label,
            champion=float(flags[:, 0, column].mean()),
            challenger=float(flags[:, 1, column].mean()),
            agreement=float((flags[:, 0, column] == flags[:, 1, column]).mean()),
            distance=float(distance[:, column].mean()),
        )
        for column, label in enumerate(LABELS)
    ]
    toxic: np.ndarray = np.any(flags, axis=2)
    order = np.argsort(-distance.max(axis=1), kind="stable")[:SHOWN]
    predictions = Prediction.objects.in_bulk([rows[row][0] for row in order])
    queued = set(
        QueueItem.objects.filter(submission__in=list(predictions)).values_list("submission", flat=True)
    )
    differences = []
    for row in order:
        column = int(distance[row].argmax())
        pk = rows[row][0]
        differences.append(
            Difference(
                prediction=predictions[pk],
                label=LABELS[column],
                champion=float(theirs[row, column]),
                challenger=float(own[row, column]),
                is_queued=pk in queued,
            )
        )
    return Comparison(
        count=len(rows),
        labels=labels,
        agreement=float((toxic[:, 0] == toxic[:, 1]).mean()),
        flagged=(float(toxic[:, 0].mean()), float(toxic[:, 1].mean())),
        differences=differences,
    )


def ask_for_labels(*, comparison: Comparison, by: User) -> int:
    """Put the comments on which two models differ most in the moderation queue; return how many.

    Raises:
        PermissionDenied: the user may not promote, or not see the queue of a comment's community.
        ModerationError: no policy is active.
    """
    require(by, registry.PROMOTE_PERMISSION)
    asked = [
        moderation.request_review(prediction=difference.prediction, by=by)
        for difference in comparison.differences
        if not difference.is_queued
    ]
    return sum(item is not None for item in asked)
