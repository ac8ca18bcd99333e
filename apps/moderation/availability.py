"""Which queue items a moderator can take, and why the others are unavailable.

The actions, the console and the statistics call it. Reads only.
"""

from collections.abc import Collection
from datetime import datetime, timedelta

from django.core.cache import cache
from django.db.models import Case, CharField, OuterRef, Q, Subquery, TextChoices, Value, When
from django.utils import timezone

from apps.accounts.models import User
from apps.moderation.models import MIN_SEVERE, Decision, Policy, Queue, QueueItem, QueueItemQuerySet, Skip
from apps.moderation.permissions import LEAD_QUEUES, decidable_by, decided_before

SKIP_DURATION = timedelta(days=1)
_OFFER_SECONDS = 60
_CANDIDATES = 100
_ESCALATIONS = Decision.objects.filter(item=OuterRef("pk"), action="escalate", reversal=None)
LAST_ESCALATED_BY = Subquery(_ESCALATIONS.order_by("-pk").values("by")[:1])


class UnavailableReason(TextChoices):
    """Why a user cannot take an open item that they can see."""

    LEASED = "leased", "reserved by others"
    LEADS = "leads", "leads only"
    DECIDED_FIRST = "decided_first", "you decided it first"
    POLICY = "policy", "restricted by policy"
    SKIPPED = "skipped", "skipped by you"
    ESCALATED = "escalated", "escalated by you"


def skipped_ids(user: User, now: datetime | None = None) -> list[int]:
    """Return the ids of the items that the user skipped within the last day."""
    since = (now or timezone.now()) - SKIP_DURATION
    return list(Skip.objects.filter(by=user, created_at__gt=since).values_list("item", flat=True))


def escalated_ids(user: User, now: datetime | None = None) -> list[int]:
    """Return the ids of the items that the user escalated for another lead and has not leased again since."""
    if not user.has_perm("moderation.decide_escalated"):
        return []  # only leads are offered escalated items
    leased = QueueItem.objects.filter(lease_by=user, lease_until__gt=now or timezone.now())
    items = QueueItem.objects.open().filter(queue=Queue.ESCALATED).alias(last_escalated_by=LAST_ESCALATED_BY)
    items = items.filter(last_escalated_by=user.pk).exclude(pk__in=leased.values("pk"))
    return list(items.values_list("pk", flat=True))


def takeable(
    user: User, view: str, now: datetime | None = None, *, include_escalated: bool = False
) -> QueueItemQuerySet:
    """Return the items of a view that the user can take now.

    Args:
        include_escalated: include the items that the user escalated for another lead.

    Raises:
        PermissionDeniedError: the user may not decide at all.
        ValueError: there is no such view.
    """
    now = now or timezone.now()
    items = decidable_by(user, QueueItem.objects.in_view(view, user, now)).free(user, now)
    excluded = skipped_ids(user, now) + ([] if include_escalated else escalated_ids(user, now))
    return items.exclude(pk__in=excluded)


def unavailable_reason(user: User, now: datetime) -> Case:
    """Return an expression: the `UnavailableReason` of an item for the user, or an empty string."""
    whens = []
    if not user.has_perm("moderation.decide_escalated"):
        whens.append(When(queue__in=LEAD_QUEUES, then=Value(UnavailableReason.LEADS.value)))
    whens.append(When(decided_before(user), then=Value(UnavailableReason.DECIDED_FIRST.value)))
    if restricted := Policy.objects.restricted_for(user):
        whens.append(When(policy__in=restricted, then=Value(UnavailableReason.POLICY.value)))
    is_leased = Q(lease_by__isnull=False, lease_until__gt=now) & ~Q(lease_by=user)
    whens.append(When(is_leased, then=Value(UnavailableReason.LEASED.value)))
    if skipped := skipped_ids(user, now):
        whens.append(When(pk__in=skipped, then=Value(UnavailableReason.SKIPPED.value)))
    if escalated := escalated_ids(user, now):
        whens.append(When(pk__in=escalated, then=Value(UnavailableReason.ESCALATED.value)))
    return Case(*whens, default=Value(""), output_field=CharField())


def _offer_key(item_id: int) -> str:
    return f"moderation:offer:{item_id}"


def offer(item_id: int, tab: str) -> bool:
    """Offer an item to a browser tab for a minute; return False if another tab shows it.

    An offer only keeps `next_item` from giving one item to two tabs. It blocks no claim and no decision, and
    the item remains in all lists. The lease, which begins once the text is revealed, does that.
    """
    return bool(cache.add(_offer_key(item_id), tab, _OFFER_SECONDS) or cache.get(_offer_key(item_id)) == tab)


def withdraw_offer(item_id: int, tab: str) -> None:
    """End the offer of an item to a tab that no longer shows it."""
    if cache.get(_offer_key(item_id)) == tab:
        cache.delete(_offer_key(item_id))


def next_item(
    user: User, view: str, *, tab: str, exclude: Collection[int] = (), after: QueueItem | None = None
) -> QueueItem | None:
    """Return the item with the highest priority that the user can take and no other tab shows; offer it.

    Args:
        tab: identifies the browser tab.
        exclude: ids of the items that the tab shows or is deciding.
        after: the item after which the search begins.

    Raises:
        PermissionDeniedError, ValueError: as in `takeable`.
    """
    items = takeable(user, view).exclude(pk__in=exclude)
    if after is not None:
        items = items.after(after)
    for pk in items.by_priority().values_list("pk", flat=True)[:_CANDIDATES]:
        if offer(pk, tab):
            return QueueItem.objects.with_related().get(pk=pk)
    return None


def first_item(user: User, view: str) -> QueueItem | None:
    """Return the item with which to begin a view.

    A severe item comes first even if another moderator's tab shows it with the text hidden. Of the other
    items, those that no tab shows come first.

    Raises:
        PermissionDeniedError, ValueError: as in `takeable`.
    """
    rows = list(takeable(user, view).by_priority().values_list("pk", "severity")[:_CANDIDATES])
    offered = cache.get_many([_offer_key(pk) for pk, _ in rows])
    preferred = (pk for pk, severity in rows if severity >= MIN_SEVERE or _offer_key(pk) not in offered)
    pk = next(preferred, rows[0][0] if rows else None)
    return None if pk is None else QueueItem.objects.with_related().get(pk=pk)
