"""What a moderator's word would teach the next model most is put in the queue."""

import random
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from uuid import UUID

import numpy as np
from django.conf import settings
from django.db import transaction
from django.db.models import Exists, F, OuterRef, QuerySet
from django.utils import timezone

from apps.classifier.normalise import normalise
from apps.classifier.scorer import Scorer
from apps.classifier.selection import Reason, Selection, select
from apps.moderation import triage
from apps.moderation.actions.intake import queue
from apps.moderation.errors import ModerationError
from apps.moderation.models import Policy, QueueItem, Submission
from apps.predictions.models import Prediction
from apps.registry import serving
from apps.registry.models import Alias, ModelArtifact

CANDIDATES = 10_000
TRAFFIC = timedelta(days=7)
DAY = timedelta(days=1)


def queue_to_learn_when_due() -> list[QueueItem]:
    """Once a day put as many comments to learn from into the queue as `LABELS_PER_DAY` leaves room for.

    Those that still wait count, so that what nobody has time for does not pile up. Any number of schedulers
    may call it at once.

    Raises:
        NoModelError, ModerationError: as in `queue_to_learn`.
    """
    with transaction.atomic():
        _wait_in_line()
        last = _last_draw()
        room = (
            settings.LABELS_PER_DAY
            - QueueItem.objects.open().filter(kind=QueueItem.Kind.ACTIVE_LEARNING).count()
        )
        if room <= 0 or (last is not None and last > timezone.now() - DAY):
            return []
        return queue_to_learn(count=room)


@transaction.atomic
def queue_to_learn(*, count: int) -> list[QueueItem]:
    """Put the comments into the queue by which the next model learns most; see `selection.choose`.

    Looked at are the newest 10,000 comments since the last draw, at most a week old, that were stored, that
    nobody has seen and that the policy approved or was not asked about. Champion and challenger score them
    anew. The random share become audits. Each keeps the chance that it was seen by, at intake or in this
    draw, and the audits that were begun at intake are given the same, so estimates from audits stay honest.

    Returns:
        The items, at most `count`.

    Raises:
        NoModelError: no model is in service.
        ModerationError: no policy is active, or the count is not positive.
    """
    if count < 1:
        raise ModerationError("Choose at least one comment.")
    _wait_in_line()
    now = timezone.now()
    since = max(now - TRAFFIC, _last_draw() or now - TRAFFIC)
    rows = list(_candidates(since)[:CANDIDATES])
    if len(rows) == CANDIDATES:
        since = rows[-1][1]
    if not rows:
        return []
    chosen = _choose([text or "" for _, _, text in rows], count)
    drawn = [choice.probability for choice in chosen if choice.reason == Reason.RANDOM]
    if drawn:
        QueueItem.objects.filter(
            kind=QueueItem.Kind.AUDIT,
            submission__outcome=Submission.Outcome.APPROVE,
            submission__prediction__created_at__gte=since,
        ).update(sampling_chance=F("sampling_chance") + (1 - F("sampling_chance")) * drawn[0])
    return _queue({rows[choice.row][0]: choice for choice in chosen})


def _wait_in_line() -> None:
    """Let one draw go on at a time.

    Raises:
        ModerationError: no policy is active.
    """
    active = Policy.objects.filter(status=Policy.Status.ACTIVE, community="")
    if not active.select_for_update(no_key=True).values_list("pk"):
        raise ModerationError("No policy is active: run `manage.py install_default_policy`.")


def _last_draw() -> datetime | None:
    drawn = QueueItem.objects.filter(kind=QueueItem.Kind.ACTIVE_LEARNING).order_by("-pk")
    return drawn.values_list("created_at", flat=True).first()


def _candidates(since: datetime) -> QuerySet[Prediction, tuple[UUID, datetime, str | None]]:
    return (
        Prediction.objects.filter(created_at__gt=since, text__isnull=False)
        .exclude(Exists(QueueItem.objects.filter(submission=OuterRef("pk"))))
        .exclude(Exists(Submission.objects.filter(pk=OuterRef("pk"), outcome=Submission.Outcome.REJECT)))
        .order_by("-created_at")
        .values_list("pk", "created_at", "text")
    )


def _choose(texts: Sequence[str], count: int) -> list[Selection]:
    scorer = serving.current().scorer
    rival = ModelArtifact.objects.filter(version__alias=Alias.CHALLENGER).select_related("version").first()
    return select(
        scorer.score_many(texts),
        scorer.thresholds,
        count=count,
        keys=np.array([triage.sketch(normalise(text)[0]) for text in texts], dtype=np.int64),
        other=_scores(rival, texts) if rival else None,
        seed=random.getrandbits(32),
    )


def _scores(artifact: ModelArtifact, texts: Sequence[str]) -> np.ndarray:
    return Scorer.load(artifact.artifact(), expected_sha256=artifact.version.sha256).score_many(texts)


def _queue(chosen: Mapping[UUID, Selection]) -> list[QueueItem]:
    submissions = Submission.objects.select_related("prediction", "policy", "author").in_bulk(chosen)
    policies: dict[str, Policy | None] = {}
    items = []
    for pk, prediction in Prediction.objects.in_bulk(chosen).items():
        choice, community = chosen[pk], prediction.community
        if community not in policies:
            policies[community] = Policy.objects.active_for(community)
        policy = policies[community]
        assert policy is not None  # the default one is locked
        submission = submissions.get(pk) or Submission.objects.create(
            prediction=prediction,
            client_id=prediction.client_id,
            community=community,
            policy=policy,
            outcome=Submission.Outcome.NOT_MODERATED,
        )
        is_drawn = choice.reason == Reason.RANDOM
        audited = submission.policy.audit_share if submission.outcome == Submission.Outcome.APPROVE else 0.0
        items.append(
            queue(
                submission=submission,
                policy=policy,
                kind=QueueItem.Kind.AUDIT if is_drawn else QueueItem.Kind.ACTIVE_LEARNING,
                label=triage.nearest_label(prediction.probabilities, list(policy.rules.all())),
                chance=audited + (1 - audited) * choice.probability if is_drawn else 1.0,
                selection_reason="" if is_drawn else choice.reason.value,
            )
        )
    return items
