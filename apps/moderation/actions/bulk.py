"""Bulk jobs: one decision for all items of a filter, confirmed by typing their number, applied by Celery.

Celery undoes a job as a whole as well.
"""

import hashlib
import json
from typing import TypedDict, cast

from django.core.cache import cache
from django.db import transaction
from django.db.models import Count, F, Max
from django.db.models.functions import Floor
from django.utils import timezone

from apps.accounts.models import User
from apps.accounts.permissions import access_key, require
from apps.core.enqueue import enqueue
from apps.core.exceptions import PermissionDeniedError
from apps.core.text import pluralize
from apps.moderation import tasks
from apps.moderation.actions.decisions import decide_locked, lock_available, undo
from apps.moderation.exceptions import ModerationError
from apps.moderation.models import BulkJob, Decision, PolicyRule, QueueItem, QueueItemQuerySet
from apps.moderation.permissions import decidable_by
from apps.moderation.selectors import visible

SAMPLE = 20
_BATCH = 50
_HISTOGRAM_SECONDS = 30
_MAX_NOT_UNDONE = 500  # items that a job lists as not undone


class BulkFilter(TypedDict, total=False):
    """Selects open items by all of its members. Blind reviews and appeals are never selected."""

    queue: str
    kind: str
    community: str
    label: str
    score_from: float
    score_to: float  # exclusive, except for 1
    cluster: int


def select_items(filter: BulkFilter, items: QueueItemQuerySet | None = None) -> QueueItemQuerySet:
    """Return the open items that the filter selects.

    Raises:
        ModerationError: the filter has an unknown member.
    """
    if unknown := set(filter) - set(BulkFilter.__annotations__):
        raise ModerationError(f"Unknown in the filter: {', '.join(sorted(unknown))}.")
    items = (QueueItem.objects.all() if items is None else items).open()
    items = items.exclude(kind__in=(QueueItem.Kind.SECOND, QueueItem.Kind.APPEAL))
    equal = {
        name: filter[name] for name in ("queue", "kind", "community", "label", "cluster") if name in filter
    }
    items = items.filter(**equal)
    if "score_from" in filter:
        items = items.filter(score__gte=filter["score_from"])
    if filter.get("score_to", 1.0) < 1.0:
        items = items.filter(score__lt=filter["score_to"])
    return items


def histogram(*, user: User, filter: BulkFilter, bins: int = 20) -> list[int]:
    """Return how many items the filter selects by score, in equal bins from 0 to 1; its own range is ignored.

    The counts are at most half a minute old.

    Raises:
        PermissionDeniedError: the user may not decide.
        ModerationError: the filter has an unknown member.
    """
    ranged = ("score_from", "score_to")
    members = cast("BulkFilter", {name: value for name, value in filter.items() if name not in ranged})
    items = select_items(members, decidable_by(user))

    def count() -> list[int]:
        rows = (
            items.order_by().annotate(bin=Floor(F("score") * bins)).values_list("bin").annotate(Count("pk"))
        )
        counts = [0] * bins
        for bin_, items_in_bin in rows:
            counts[min(int(bin_), bins - 1)] += items_in_bin
        return counts

    key = json.dumps([user.pk, access_key(user), members, bins], sort_keys=True)
    name = hashlib.sha256(key.encode()).hexdigest()
    return cache.get_or_set(  # type: ignore[return-value]
        f"moderation:histogram:{name}", count, _HISTOGRAM_SECONDS
    )


@transaction.atomic
def preview_bulk(
    *, user: User, filter: BulkFilter, action: Decision.Action, rule: PolicyRule | None = None, note: str = ""
) -> tuple[BulkJob, list[QueueItem]]:
    """Store a job as a draft, with its exact count; return it with a random sample of its items.

    Raises:
        PermissionDeniedError: the user may not decide in bulk.
        ModerationError: the filter or the action is wrong, or a rejection has no reason.
    """
    require(user, "moderation.bulk_decide")
    action = Decision.Action(action)
    if action not in (Decision.Action.APPROVE, Decision.Action.REJECT):
        raise ModerationError("In bulk, items can be approved or rejected.")
    if action == Decision.Action.REJECT and rule is None:
        raise ModerationError("Choose a reason: the authors receive it.")
    items = select_items(filter, decidable_by(user))
    job = BulkJob.objects.create(
        filter=dict(filter),
        action=action,
        rule=rule,
        note=note,
        count=items.count(),
        last_item=QueueItem.objects.aggregate(last=Max("pk"))["last"] or 0,
        created_by=user,
    )
    return job, _sample(items)


def sample_bulk(*, user: User, filter: BulkFilter) -> list[QueueItem]:
    """Return a random sample of the items that the filter selects.

    Raises:
        PermissionDeniedError: the user may not decide in bulk.
        ModerationError: the filter is wrong.
    """
    require(user, "moderation.bulk_decide")
    return _sample(select_items(filter, decidable_by(user)))


def _sample(items: QueueItemQuerySet) -> list[QueueItem]:
    ids = list(items.order_by("?").values_list("pk", flat=True)[:SAMPLE])
    return list(QueueItem.objects.filter(pk__in=ids).with_related().by_priority())


@transaction.atomic
def start_bulk(*, job_id: int, user: User, typed_count: int) -> BulkJob:
    """Confirm a job by typing its count, and enqueue it.

    Raises:
        PermissionDeniedError: the user may not decide in bulk.
        ModerationError: the user has no such job, it was started before, or the count is wrong.
    """
    job = _lock_own_job(job_id, user)
    if job.status != BulkJob.Status.DRAFT:
        raise ModerationError("This job was started or cancelled before.")
    if typed_count != job.count:
        items = pluralize(job.count, "item")
        raise ModerationError(f"You typed {typed_count}, but the job has {items}. Nothing was done.")
    job.status, job.confirmed_at = BulkJob.Status.QUEUED, timezone.now()
    job.save(update_fields=["status", "confirmed_at"])
    enqueue(tasks.run_bulk, job.pk)
    return job


@transaction.atomic
def cancel_bulk(*, job_id: int, user: User) -> BulkJob:
    """Cancel a job after the current batch. Its decisions remain until the job is undone.

    Raises:
        PermissionDeniedError: the user may not decide in bulk.
        ModerationError: there is no such job, or the user may not see it.
    """
    require(user, "moderation.bulk_decide")
    job = visible(user, BulkJob.objects.select_for_update()).filter(pk=job_id).first()
    if job is None:
        raise ModerationError("There is no such job.")
    if job.status in (BulkJob.Status.DRAFT, BulkJob.Status.QUEUED, BulkJob.Status.RUNNING):
        job.status, job.cancelled_by, job.finished_at = BulkJob.Status.CANCELLED, user, timezone.now()
        job.save(update_fields=["status", "cancelled_by", "finished_at"])
    return job


def _lock_own_job(job_id: int, user: User) -> BulkJob:
    require(user, "moderation.bulk_decide")
    job = BulkJob.objects.select_for_update().filter(pk=job_id, created_by=user).first()
    if job is None:
        raise ModerationError("You have no such job.")
    return job


@transaction.atomic
def undo_bulk(*, job_id: int, user: User, typed_count: int) -> BulkJob:
    """Undo all decisions of a job that has ended, confirmed by typing their number.

    Decisions that cannot be undone remain, and the job lists them.

    Raises:
        PermissionDeniedError: the user may not decide in bulk, or is no lead and the job is another user's.
        ModerationError: there is no such job, it has not ended, it was undone before, or the count is wrong.
    """
    require(user, "moderation.bulk_decide")
    job = visible(user, BulkJob.objects.select_for_update()).filter(pk=job_id).first()
    if job is None:
        raise ModerationError("There is no such job.")
    if job.created_by_id != user.pk:
        require(user, "moderation.decide_escalated")
    if job.is_active or job.status == BulkJob.Status.DRAFT:
        raise ModerationError("Only a job that has ended can be undone: cancel it first.")
    if not job.can_undo:
        raise ModerationError("This job was undone before, or it decided nothing.")
    if typed_count != job.done:
        decisions = pluralize(job.done, "decision")
        raise ModerationError(f"You typed {typed_count}, but the job made {decisions}. Nothing was done.")
    job.status, job.undone_by, job.finished_at = BulkJob.Status.UNDOING, user, None
    job.save(update_fields=["status", "undone_by", "finished_at"])
    enqueue(tasks.run_bulk, job.pk)
    return job


def run_bulk(*, job_id: int) -> None:
    """Apply or undo a confirmed job in batches, one transaction each, or continue it after a crash."""
    while _run_batch(job_id) or _undo_batch(job_id):
        pass


@transaction.atomic
def _run_batch(job_id: int) -> bool:
    """Decide the next items; return whether there may be more."""
    # If the row is locked, another worker processes the job.
    job = (
        BulkJob.objects.select_for_update(skip_locked=True, of=("self",))
        .select_related("created_by", "rule")
        .filter(pk=job_id, status__in=(BulkJob.Status.QUEUED, BulkJob.Status.RUNNING))
        .first()
    )
    if job is None:
        return False
    items = select_items(job.filter).filter(pk__gt=job.cursor, pk__lte=job.last_item)
    batch = lock_available(items, user=job.created_by, limit=min(_BATCH, job.count - job.done))
    for item in batch:
        rule = _rule_for(item, job.rule)
        if job.rule is None or rule is not None:
            decide_locked(
                item,
                user=job.created_by,
                action=Decision.Action(job.action),
                rule=rule,
                note=job.note,
                seconds=0.0,
                job=job,
            )
            job.done += 1
    if batch:
        job.cursor, job.status = batch[-1].pk, BulkJob.Status.RUNNING
    else:
        job.skipped = job.count - job.done
        job.status, job.finished_at = BulkJob.Status.DONE, timezone.now()
    job.save(update_fields=["cursor", "done", "skipped", "status", "finished_at"])
    return bool(batch)


@transaction.atomic
def _undo_batch(job_id: int) -> bool:
    """Undo the job's next decisions; return whether there may be more."""
    job = (
        BulkJob.objects.select_for_update(skip_locked=True, of=("self",))
        .select_related("undone_by")
        .filter(pk=job_id, status=BulkJob.Status.UNDOING)
        .first()
    )
    if job is None or job.undone_by is None:
        return False
    decisions = Decision.objects.filter(job=job, reverses=None, pk__gt=job.undo_cursor).order_by("pk")
    batch = list(decisions.values_list("pk", "item")[:_BATCH])
    for pk, item_id in batch:
        try:
            undo(decision_id=pk, user=job.undone_by, lease=False, job=job)
            job.undone += 1
        except (ModerationError, PermissionDeniedError) as error:
            if len(job.not_undone) < _MAX_NOT_UNDONE:
                job.not_undone.append({"item": item_id, "reason": str(error)})
    if batch:
        job.undo_cursor = batch[-1][0]
    else:
        job.status, job.finished_at = BulkJob.Status.UNDONE, timezone.now()
    job.save(update_fields=["undone", "not_undone", "undo_cursor", "status", "finished_at"])
    return bool(batch)


def _rule_for(item: QueueItem, rule: PolicyRule | None) -> PolicyRule | None:
    """Return the rule of the item's policy that corresponds to the job's rule, or None."""
    if rule is None or rule.policy_id == item.policy_id:
        return rule
    name = "label" if rule.label else "title"
    return next(
        (other for other in item.policy.rules.all() if getattr(other, name) == getattr(rule, name)), None
    )


def resume_bulk_jobs() -> None:
    """Enqueue the unfinished jobs again, in case a message or a worker was lost."""
    active = (BulkJob.Status.QUEUED, BulkJob.Status.RUNNING, BulkJob.Status.UNDOING)
    for job_id in BulkJob.objects.filter(status__in=active).values_list("pk", flat=True):
        enqueue(tasks.run_bulk, job_id)
