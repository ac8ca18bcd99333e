"""Score comments with the challenger in the background, and request labels where the models disagree."""

from datetime import timedelta
from uuid import UUID

from django.conf import settings
from django.utils import timezone

from apps.accounts.models import User
from apps.accounts.permissions import require
from apps.classifier.labels import LABELS
from apps.moderation import actions as moderation
from apps.predictions.models import Prediction, pack_labels
from apps.registry.actions import PROMOTE_PERMISSION
from apps.registry.models import Alias, ModelVersion
from apps.training.models import ShadowScore
from apps.training.shadow import Comparison

NEWEST = timedelta(hours=1)
COMMENTS_PER_TASK = 1_000
MAX_SHADOW_SCORES = 50_000  # older ones are deleted


def score_in_shadow() -> int:
    """Score a share of the champion's newest stored comments with the challenger; return how many.

    The ids decide which comments are scored, so that several schedulers may call it at the same time and each
    comment is scored once. Comments that must not be stored have no text and are never scored.
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
        .values_list("pk", flat=True)[: int(COMMENTS_PER_TASK / max(settings.SHADOW_SHARE, 0.01))]
    )
    sampled = [pk for pk in newest if _is_sampled(pk)]
    scored = ShadowScore.objects.filter(version=challenger, prediction__in=sampled)
    pending = set(sampled) - set(scored.values_list("prediction", flat=True))
    texts = dict(Prediction.objects.filter(pk__in=pending).values_list("pk", "text"))
    if not texts:
        return 0
    scorer = challenger.load_scorer()
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
    for pk in ShadowScore.objects.values_list("pk", flat=True)[MAX_SHADOW_SCORES : MAX_SHADOW_SCORES + 1]:
        ShadowScore.objects.filter(pk__lte=pk).delete()
    return len(texts)


def _is_sampled(pk: UUID) -> bool:
    # A UUIDv7 ends in random bits.
    return pk.int % 2**32 < settings.SHADOW_SHARE * 2**32


def request_labels(*, actor: User, comparison: Comparison) -> int:
    """Send the comments on which two models disagree most to moderators; return how many.

    Raises:
        PermissionDeniedError: the actor may not promote, or may not see the queue of a comment's community.
        ModerationError: no policy is active.
    """
    require(actor, PROMOTE_PERMISSION)
    items = [
        moderation.request_review(prediction=disagreement.prediction, by=actor)
        for disagreement in comparison.disagreements
        if not disagreement.is_queued
    ]
    return sum(item is not None for item in items)
