"""Leases of queue items: claim, release, skip.

Every change of an item happens under its row lock and increases its version.
"""

from datetime import datetime, timedelta

from django.core.cache import cache
from django.db import transaction
from django.db.models import F
from django.utils import timezone

from apps.accounts.models import User
from apps.moderation import availability
from apps.moderation.exceptions import ModerationError, StaleError
from apps.moderation.models import Decision, QueueItem, Skip
from apps.moderation.permissions import require_item

LEASE = timedelta(minutes=10)
_PRESENCE_SECONDS = 20


def lock_item(item_id: int) -> QueueItem:
    """Return the item, locked until the transaction ends.

    The comment's other items are locked as well, because a decision or its undo can change them. The order of
    the locks keeps two transactions from waiting for each other.

    Raises:
        ModerationError: there is no such item.
    """
    # After waiting for a lock, PostgreSQL returns the new row but the old joined rows: hence two queries.
    submission = QueueItem.objects.filter(pk=item_id).values("submission")
    items = QueueItem.objects.filter(submission__in=submission).order_by("pk")
    if not items.select_for_update().values_list("pk"):
        raise ModerationError(f"There is no item {item_id}.")
    return QueueItem.objects.with_related().get(pk=item_id)


def describe_age(moment: datetime, now: datetime) -> str:
    """Return how long ago a moment is, such as `5 min ago`; after a day or more, its date."""
    seconds = max(0, round((now - moment).total_seconds()))
    if seconds >= 86_400:
        return f"on {moment:%Y-%m-%d}"
    for unit, size in (("h", 3_600), ("min", 60)):
        if seconds >= size:
            return f"{seconds // size} {unit} ago"
    return f"{seconds} s ago"


def _require_open(item: QueueItem, user: User, now: datetime) -> None:
    if item.status == QueueItem.Status.OPEN:
        return
    last = item.last_decision()
    if item.status == QueueItem.Status.WITHDRAWN and item.kind == QueueItem.Kind.APPEAL:
        raise StaleError("This appeal is closed: another decision overturned the rejection.", item)
    if item.status == QueueItem.Status.WITHDRAWN and item.submission.is_replaced:
        raise StaleError("This item was withdrawn: the comment has been edited since.", item)
    if item.status == QueueItem.Status.WITHDRAWN and item.submission.is_appealed:
        raise StaleError("This item was withdrawn: the author has appealed, and the appeal decides.", item)
    if last is None or item.status == QueueItem.Status.WITHDRAWN:
        raise StaleError("This item was withdrawn: the decision that it was to check was undone.", item)
    raise StaleError(describe_decision(last, user, now), item)


def describe_decision(last: Decision, user: User, now: datetime) -> str:
    """Return a sentence that says who handled an item, how and when."""
    when = f"{describe_age(last.created_at, now)} (at {last.created_at:%H:%M:%S} UTC)"
    if last.by_id == user.pk:
        return f"You {last.past_tense} this {when}."
    return f"Already handled by {last.actor}: {last.past_tense} {when}."


def require_not_leased(item: QueueItem, user: User, now: datetime) -> None:
    """Check that no other moderator has leased the item.

    Raises:
        StaleError: another moderator has leased it.
    """
    if item.lease_by and item.lease_by_id != user.pk and item.lease_until and item.lease_until > now:
        raise StaleError(
            f"{item.lease_by.get_username()} is reviewing this until {item.lease_until:%H:%M:%S} UTC.", item
        )


def require_unchanged(item: QueueItem, user: User, version: int, now: datetime) -> None:
    """Check that the item was not decided after this version. Changes of the lease don't matter.

    Raises:
        StaleError: it was decided after this version, or has no such version.
    """
    last = item.last_decision()
    if last is not None and last.item_version is not None and last.item_version >= version:
        raise StaleError(f"{describe_decision(last, user, now)} Open the item again before you decide.", item)
    if version > item.version:
        raise StaleError("The item has no such version. Open it again before you decide.", item)


def require_available(*, item: QueueItem, user: User) -> None:
    """Check that the user can decide the item now.

    Raises:
        PermissionDeniedError: the user may not decide it.
        StaleError: it was decided, or another moderator has leased it.
    """
    require_item(user, item)
    now = timezone.now()
    _require_open(item, user, now)
    require_not_leased(item, user, now)


def _grant_lease(item: QueueItem, user: User, now: datetime) -> QueueItem:
    if item.lease_by_id != user.pk or item.lease_until is None or item.lease_until <= now:
        item.version += 1
    item.lease_by, item.lease_until = user, now + LEASE
    item.save(update_fields=["lease_by", "lease_until", "version"])
    return item


@transaction.atomic
def claim(*, item_id: int, user: User) -> QueueItem:
    """Lease an item for ten minutes, or renew the user's own lease, which keeps the version.

    Raises:
        PermissionDeniedError: the user may not decide it.
        StaleError: it was decided, or another moderator has leased it.
        ModerationError: there is no such item.
    """
    item = lock_item(item_id)
    require_available(item=item, user=user)
    return _grant_lease(item, user, timezone.now())


@transaction.atomic
def claim_next(
    *,
    user: User,
    view: str = "all",
    community: str | None = None,
    label: str | None = None,
) -> QueueItem | None:
    """Lease the available item with the highest priority, or return None if there is none.

    Args:
        view: one of `models.VIEWS`.

    Raises:
        PermissionDeniedError: the user may not decide at all.
        ValueError: there is no such view.
    """
    now = timezone.now()
    items = availability.takeable(user, view, now)
    if community is not None:
        items = items.filter(community=community)
    if label is not None:
        items = items.filter(label=label)
    # Two concurrent calls get two items, because a locked row is skipped.
    ids = (
        items.by_priority().select_for_update(skip_locked=True, of=("self",)).values_list("pk", flat=True)[:1]
    )
    item = QueueItem.objects.with_related().filter(pk__in=list(ids)).first()
    return None if item is None else _grant_lease(item, user, now)


@transaction.atomic
def release(*, item_id: int, user: User, version: int | None = None) -> QueueItem:
    """End the user's lease of an item. Without such a lease, do nothing.

    Args:
        version: end only the lease of this version; None for any.

    Raises:
        ModerationError: there is no such item.
    """
    item = lock_item(item_id)
    if item.lease_by_id == user.pk and version in (None, item.version):
        _end_lease(item)
    return item


def _end_lease(item: QueueItem) -> None:
    item.lease_by = item.lease_until = None
    item.version += 1
    item.save(update_fields=["lease_by", "lease_until", "version"])


@transaction.atomic
def skip(*, item_id: int, user: User, reason: str = "") -> QueueItem:
    """Leave an item to other moderators: `claim_next` does not offer it to the user for a day.

    Raises:
        PermissionDeniedError, ModerationError: as in `claim`.
    """
    item = lock_item(item_id)
    require_item(user, item)
    Skip.objects.create(item=item, by=user, reason=reason[:200])
    if item.lease_by_id == user.pk:
        _end_lease(item)
    return item


@transaction.atomic
def expire_leases(*, limit: int = 1_000) -> int:
    """End the leases that have expired; return how many."""
    # Locked rows are skipped, so this neither waits nor deadlocks.
    expired = list(
        QueueItem.objects.select_for_update(skip_locked=True)
        .filter(lease_by__isnull=False, lease_until__lte=timezone.now())
        .order_by("pk")
        .values_list("pk", flat=True)[:limit]
    )
    return QueueItem.objects.filter(pk__in=expired).update(
        lease_by=None, lease_until=None, version=F("version") + 1
    )


def record_presence(*, item: QueueItem, user: User) -> list[str]:
    """Record in the cache that the user is viewing the item; return the names of the other viewers."""
    key = f"moderation:viewers:{item.pk}"
    now = timezone.now().timestamp()
    viewers: dict[str, float] = cache.get(key) or {}
    viewers = {name: time for name, time in viewers.items() if time > now - _PRESENCE_SECONDS}
    viewers[user.get_username()] = now
    cache.set(key, viewers, _PRESENCE_SECONDS)
    return sorted(set(viewers) - {user.get_username()})
