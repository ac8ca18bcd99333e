"""Many items decided alike: chosen by a filter, counted, confirmed by typing the count, done by Celery.

A job can be undone as a whole, likewise by Celery.
"""

from typing import TypedDict

from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.db.models import Max
from django.utils import timezone

from apps.accounts.models import User
from apps.core.text import pluralize
from apps.moderation.actions.background import enqueue
from apps.moderation.actions.queue import decide_locked, lock_free, undo
from apps.moderation.errors import ModerationError
from apps.moderation.models import BulkJob, Decision, PolicyRule, QueueItem, QueueItemQuerySet
from apps.moderation.permissions import decidable_by, require
from apps.moderation.selectors import visible

SAMPLE = 20
_BATCH = 50
_LISTED = 500  # items that a job names as not undone; the rest are only counted


class BulkFilter(TypedDict, total=False):
    """Which open items: every member narrows the choice; blind reviews and appeals are never among them."""

    queue: str
    kind: str
    community: str
    label: str
    score_from: float
    score_to: float  # exclusive, except that 1 includes 1
    cluster: int


def chosen(filter: BulkFilter, items: QueueItemQuerySet | None = None) -> QueueItemQuerySet:
    """Return the open items that the filter chooses.

    Raises:
        ModerationError: the filter has an unknown member.
    """
    if unknown := set(filter) - set(BulkFilter.__annotations__):
        raise ModerationError(f"Unknown in the filter: {', '.join(sorted(unknown))}.")
    found = (QueueItem.objects.all() if items is None else items).open()
    found = found.exclude(kind__in=(QueueItem.Kind.SECOND, QueueItem.Kind.APPEAL))
    equal = {
        name: filter[name] for name in ("queue", "kind", "community", "label", "cluster") if name in filter
    }
    found = found.filter(**equal)
    if "score_from" in filter:
        found = found.filter(score__gte=filter["score_from"])
    if filter.get("score_to", 1.0) < 1.0:
        found = found.filter(score__lt=filter["score_to"])
    return found


@transaction.atomic
def preview_bulk(
    *, user: User, filter: BulkFilter, action: Decision.Action, rule: PolicyRule | None = None, note: str = ""
) -> tuple[BulkJob, list[QueueItem]]:
    """Store a job that waits to be confirmed; return it, with its exact count, and a random sample.

    Raises:
        PermissionDenied: the user may not decide in bulk.
        ModerationError: the filter is wrong, the action not one for bulk, or a rejection has no reason.
    """
    require(user, "moderation.bulk_decide")
    action = Decision.Action(action)
    if action not in (Decision.Action.APPROVE, Decision.Action.REJECT):
        raise ModerationError("In bulk, items can be approved or rejected.")
    if action == Decision.Action.REJECT and rule is None:
        raise ModerationError("Choose a reason: the authors are told.")
    found = chosen(filter, decidable_by(user))
    job = BulkJob.objects.create(
        filter=dict(filter),
        action=action,
        rule=rule,
        note=note,
        count=found.count(),
        last_item=QueueItem.objects.aggregate(last=Max("pk"))["last"] or 0,
        created_by=user,
    )
    return job, _sample(found)


def sample_bulk(*, user: User, filter: BulkFilter) -> list[QueueItem]:
    """Return a random sample of what the filter chooses.

    Raises:
        PermissionDenied: the user may not decide in bulk.
        ModerationError: the filter is wrong.
    """
    require(user, "moderation.bulk_decide")
    return _sample(chosen(filter, decidable_by(user)))


def _sample(found: QueueItemQuerySet) -> list[QueueItem]:
    ids = list(found.order_by("?").values_list("pk", flat=True)[:SAMPLE])
    return list(QueueItem.objects.filter(pk__in=ids).with_related().by_priority())


@transaction.atomic
def start_bulk(*, job_id: int, user: User, typed_count: int) -> BulkJob:
    """Confirm a job by typing its count; a worker begins with it.

    Raises:
        PermissionDenied: it is somebody else's, or the user may not decide in bulk.
        ModerationError: there is no such job, it was started before, or the count is not its count.
    """
    job = _own_job(job_id, user)
    if job.status != BulkJob.Status.DRAFT:
        raise ModerationError("This job was started or cancelled before.")
    if typed_count != job.count:
        there = pluralize(job.count, "item")
        raise ModerationError(f"You typed {typed_count}, but the job has {there}. Nothing was done.")
    job.status, job.confirmed_at = BulkJob.Status.QUEUED, timezone.now()
    job.save(update_fields=["status", "confirmed_at"])
    enqueue("run_bulk", job.pk)
    return job


@transaction.atomic
def cancel_bulk(*, job_id: int, user: User) -> BulkJob:
    """Stop a job after the items at hand; what was decided stays decided until the job is undone.

    Raises:
        PermissionDenied: the user may not decide in bulk.
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


def _own_job(job_id: int, user: User) -> BulkJob:
    require(user, "moderation.bulk_decide")
    job = BulkJob.objects.select_for_update().filter(pk=job_id, created_by=user).first()
    if job is None:
        raise ModerationError("You have no such job.")
    return job


@transaction.atomic
def undo_bulk(*, job_id: int, user: User, typed_count: int) -> BulkJob:
    """Undo all decisions of a job that has ended, confirmed by typing their number; a worker begins with it.

    Decisions that cannot be undone stay, and the job names them.

    Raises:
        PermissionDenied: the user may not decide in bulk, or the job is another's and the user no lead.
        ModerationError: there is no such job, it has not ended, it was undone before, or the count is not
            the number of its decisions.
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
        made = pluralize(job.done, "decision")
        raise ModerationError(f"You typed {typed_count}, but the job made {made}. Nothing was done.")
    job.status, job.undone_by, job.finished_at = BulkJob.Status.UNDOING, user, None
    job.save(update_fields=["status", "undone_by", "finished_at"])
    enqueue("run_bulk", job.pk)
    return job


def run_bulk(*, job_id: int) -> None:
    """Do or undo a confirmed job, some items a transaction. After a crash it goes on where it was."""
    while _run_batch(job_id) or _undo_batch(job_id):
        pass


@transaction.atomic
def _run_batch(job_id: int) -> bool:
    """Decide the next items; return whether there may be more."""
    # Another worker that holds the row is at this job.
    job = (
        BulkJob.objects.select_for_update(skip_locked=True, of=("self",))
        .select_related("created_by", "rule")
        .filter(pk=job_id, status__in=(BulkJob.Status.QUEUED, BulkJob.Status.RUNNING))
        .first()
    )
    if job is None:
        return False
    items = chosen(job.filter).filter(pk__gt=job.cursor, pk__lte=job.last_item)
    batch = lock_free(items, user=job.created_by, limit=min(_BATCH, job.count - job.done))
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
        except (ModerationError, PermissionDenied) as error:
            if len(job.not_undone) < _LISTED:
                job.not_undone.append({"item": item_id, "reason": str(error)})
    if batch:
        job.undo_cursor = batch[-1][0]
    else:
        job.status, job.finished_at = BulkJob.Status.UNDONE, timezone.now()
    job.save(update_fields=["undone", "not_undone", "undo_cursor", "status", "finished_at"])
    return bool(batch)


def _rule_for(item: QueueItem, rule: PolicyRule | None) -> PolicyRule | None:
    """Return the rule of the item's own policy that stands for the chosen one, or None."""
    if rule is None or rule.policy_id == item.policy_id:
        return rule
    name = "label" if rule.label else "title"
    return next((own for own in item.policy.rules.all() if getattr(own, name) == getattr(rule, name)), None)


def resume_bulk_jobs() -> None:
    """Queue again what a lost broker message or a dead worker left behind."""
    active = (BulkJob.Status.QUEUED, BulkJob.Status.RUNNING, BulkJob.Status.UNDOING)
    for job_id in BulkJob.objects.filter(status__in=active).values_list("pk", flat=True):
        enqueue("run_bulk", job_id)
