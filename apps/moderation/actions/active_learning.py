"""Queue the comments whose labels improve the next model most."""

import random
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from functools import cache
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.db.models import Exists, F, OuterRef, QuerySet
from django.utils import timezone

from apps.classifier import encoder
from apps.classifier.normalise import normalise
from apps.classifier.selection import Reason, Selection, select
from apps.moderation import triage
from apps.moderation.actions.policies import active_policy
from apps.moderation.actions.queue import enqueue_item
from apps.moderation.exceptions import ModerationError
from apps.moderation.models import Policy, QueueItem, Submission
from apps.predictions.models import Prediction
from apps.registry import serving
from apps.registry.models import Alias, ModelVersion

CANDIDATES = 10_000
TRAFFIC = timedelta(days=7)
DAY = timedelta(days=1)


def queue_for_labeling_if_due() -> list[QueueItem]:
    """Queue comments for active learning once a day, so that at most `LABELS_PER_DAY` are open.

    Concurrent calls are safe.

    Raises:
        NoModelError, ModerationError: as in `queue_for_labeling`.
    """
    last = _last_draw()
    open_items = QueueItem.objects.open().filter(kind=QueueItem.Kind.ACTIVE_LEARNING)
    count = settings.LABELS_PER_DAY - open_items.count()
    if count <= 0 or (last is not None and last > timezone.now() - DAY):
        return []
    return queue_for_labeling(count=count)


def queue_for_labeling(*, count: int) -> list[QueueItem]:
    """Queue the comments that active learning selects; see `apps.classifier.selection.select`.

    The candidates are the newest 10,000 stored comments since the last draw, at most a week old, that were
    approved or only scored, have no queue item and have not been edited since. Champion and challenger score
    them. The random part of the selection becomes audits. The sampling chance of these audits, and of those
    that the policy has sampled from the same comments, is the probability of being sampled in either of the
    two ways, so estimates from audits are unbiased.

    The comments are scored before the transaction begins, because with SQLite nobody else could write
    meanwhile. Those that were queued, rejected or edited since then are left out.

    Returns:
        The items, at most `count`; no items if another draw has ended meanwhile.

    Raises:
        NoModelError: no model is being served.
        ModerationError: no policy is active, or the count is not positive.
    """
    if count < 1:
        raise ModerationError("Choose at least one comment.")
    default_policy = Policy.objects.filter(status=Policy.Status.ACTIVE, community="")
    if not default_policy.exists():
        raise ModerationError("No policy is active: run `manage.py install_default_policy`.")
    now, last = timezone.now(), _last_draw()
    since = max(now - TRAFFIC, last or now - TRAFFIC)
    rows = list(_candidates(since).filter(created_at__lte=now)[:CANDIDATES])
    if len(rows) == CANDIDATES:
        since = rows[-1][1]
    if not rows:
        return []
    selections = _select([text or "" for _, _, text in rows], count)
    probabilities = [selection.probability for selection in selections if selection.reason == Reason.RANDOM]
    selected = {rows[selection.row][0]: selection for selection in selections}
    with transaction.atomic():
        default_policy.select_for_update(no_key=True).get()  # one draw ends at a time
        if _last_draw() != last:
            return []
        if probabilities:
            QueueItem.objects.filter(
                kind=QueueItem.Kind.AUDIT,
                submission__outcome=Submission.Outcome.APPROVE,
                submission__prediction__created_at__range=(since, now),
            ).update(sampling_chance=F("sampling_chance") + (1 - F("sampling_chance")) * probabilities[0])
        # A request for a review and an edited comment hold these locks too.
        list(Prediction.objects.select_for_update().filter(pk__in=selected).order_by("pk").values_list("pk"))
        still_candidates = _candidates(now - TRAFFIC).filter(pk__in=selected).values_list("pk", flat=True)
        return _enqueue({pk: selected[pk] for pk in still_candidates})


def _last_draw() -> datetime | None:
    items = QueueItem.objects.filter(kind=QueueItem.Kind.ACTIVE_LEARNING).order_by("-pk")
    return items.values_list("created_at", flat=True).first()


def _candidates(since: datetime) -> QuerySet[Prediction, tuple[UUID, datetime, str | None]]:
    return (
        Prediction.objects.filter(created_at__gt=since, text__isnull=False)
        .exclude(Exists(QueueItem.objects.filter(submission=OuterRef("pk"))))
        .exclude(Exists(Submission.objects.filter(pk=OuterRef("pk"), outcome=Submission.Outcome.REJECT)))
        .exclude(Exists(Submission.objects.filter(previous=OuterRef("pk"))))
        .order_by("-created_at")
        .values_list("pk", "created_at", "text")
    )


def _select(texts: Sequence[str], count: int) -> list[Selection]:
    scorer = serving.current().scorer
    challenger = ModelVersion.objects.with_alias(Alias.CHALLENGER)
    with encoder.read_once():
        probabilities = scorer.score_many(texts)
        other = challenger.load_scorer().score_many(texts) if challenger else None
    return select(
        probabilities,
        scorer.thresholds,
        count=count,
        keys=lambda row: triage.near_duplicate_keys(normalise(texts[row])[0] or texts[row]),
        other=other,
        seed=random.getrandbits(32),
    )


def _enqueue(selections: Mapping[UUID, Selection]) -> list[QueueItem]:
    submissions = Submission.objects.select_related("prediction", "policy", "author").in_bulk(selections)
    policy_of = cache(active_policy)
    items = []
    for pk, prediction in Prediction.objects.in_bulk(selections).items():
        selection, community = selections[pk], prediction.community
        policy = policy_of(community)
        submission = submissions.get(pk) or Submission.objects.create(
            prediction=prediction,
            api_key_id=prediction.api_key_id,
            community=community,
            policy=policy,
            outcome=Submission.Outcome.NOT_MODERATED,
        )
        is_random = selection.reason == Reason.RANDOM
        audit_share = (
            submission.policy.audit_share if submission.outcome == Submission.Outcome.APPROVE else 0.0
        )
        items.append(
            enqueue_item(
                submission=submission,
                policy=policy,
                kind=QueueItem.Kind.AUDIT if is_random else QueueItem.Kind.ACTIVE_LEARNING,
                label=triage.nearest_label(prediction.probabilities, policy),
                chance=audit_share + (1 - audit_share) * selection.probability if is_random else 1.0,
                selection_reason="" if is_random else selection.reason.value,
            )
        )
    return items
