"""The saved views of the queue with their sizes, and why a view is empty."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.core.cache import cache
from django.db.models import Count, Min, Q, QuerySet, Value
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from apps.accounts.models import User
from apps.accounts.permissions import access_key, communities_of
from apps.core.text import name_community, pluralize
from apps.moderation.availability import UnavailableReason, unavailable_reason
from apps.moderation.models import VIEWS, Policy, Queue, QueueItemQuerySet
from apps.moderation.permissions import visible_to

MAX_COUNT = 1_000
_COUNT_SECONDS = 5
_MAX_LINKS = 20


@dataclass(frozen=True)
class ViewCount:
    """A saved view with its size, which is counted up to `MAX_COUNT`.

    Attributes:
        count: number of open items.
        available: number of items that the user can take now.
        overdue: number of available items that are overdue.
        oldest: when the oldest available item arrived.
        unavailable: number of the other items by `UnavailableReason`.
    """

    view: str
    title: str
    count: int
    available: int
    overdue: int
    oldest: datetime | None
    unavailable: dict[str, int]

    @property
    def count_text(self) -> str:
        """The number of available items, or why the items are unavailable."""
        if self.count > MAX_COUNT:
            return f"{MAX_COUNT:,}+"
        if self.available or not self.unavailable:
            return f"{self.available:,}"
        reason, count = max(self.unavailable.items(), key=lambda pair: pair[1])
        return f"{count:,}, {UnavailableReason(reason).label}"

    @property
    def title_text(self) -> str:
        """The number of available items and of the items with each reason, for a tooltip."""
        parts = [f"{self.available:,} you can take"]
        parts += [
            f"{count:,} {UnavailableReason(reason).label}" for reason, count in self.unavailable.items()
        ]
        return "; ".join(parts)


def count_up_to(rows: QuerySet[Any], limit: int = MAX_COUNT) -> int:
    """Return the number of rows, at most `limit` + 1, without counting the rest of a large table."""
    return rows.order_by().values("pk")[: limit + 1].count()


def _counts_key(user: User) -> str:
    return f"moderation:counts:{user.pk}:{access_key(user)}"


def view_counts(user: User) -> list[ViewCount]:
    """Return the saved views with their sizes, at most five seconds old; see `invalidate_counts`.

    Raises:
        PermissionDeniedError: the user may not see the queue.
    """
    visible = visible_to(user)
    counts: list[ViewCount] | None = cache.get(_counts_key(user))
    if counts is None:
        now = timezone.now()
        can_decide = user.has_perm("moderation.decide_queueitem")
        reason = unavailable_reason(user, now) if can_decide else Value("")
        rows = visible.annotate(unavailable_reason=reason)
        views = ("mine", *(view for view in VIEWS if view != "mine"))
        counts = [_view_count(view, rows.in_view(view, user, now), now) for view in views]
        cache.set(_counts_key(user), counts, _COUNT_SECONDS)
    return counts


def invalidate_counts(user: User) -> None:
    """Delete the cached sizes of the user's views."""
    cache.delete(_counts_key(user))


def _view_count(view: str, items: QueueItemQuerySet, now: datetime) -> ViewCount:
    title = Queue(view).label if view in Queue.values else view.capitalize()
    free = Q(unavailable_reason="")
    # The index on the deadline returns the overdue and the oldest items first.
    counts = items.order_by("due_at")[: MAX_COUNT + 1].aggregate(
        count=Count("pk"),
        available=Count("pk", filter=free),
        overdue=Count("pk", filter=free & Q(due_at__lt=now)),
        oldest=Min("created_at", filter=free),
        **{reason.value: Count("pk", filter=Q(unavailable_reason=reason)) for reason in UnavailableReason},
    )
    unavailable = {reason.value: counts.pop(reason.value) for reason in UnavailableReason}
    return ViewCount(view, title, **counts, unavailable={k: v for k, v in unavailable.items() if v})


def explain_empty_view(user: User, view: str) -> list[str]:
    """Return sentences that explain why the user can take no item of a view; none if the view is empty.

    They are plain text, or HTML in a `SafeString`.

    Raises:
        PermissionDeniedError: the user may not see the queue.
    """
    count = next(count for count in view_counts(user) if count.view == view)
    sentences = []
    if count.available:
        items = pluralize(count.available, "item is", "items are")
        sentences.append(f"{items} on the screen of another moderator, or on another of your tabs.")
    for reason, number in count.unavailable.items():
        sentences.append(_EXPLANATIONS[UnavailableReason(reason)](user, view, number))
    communities = communities_of(user)
    if communities:
        names = ", ".join(name_community(name) for name in sorted(communities))
        sentences.append(f"You see these communities only: {names}.")
    return sentences


def _items(count: int, singular: str, plural: str) -> str:
    return pluralize(count, f"item {singular}", f"items {plural}")


def _explain_leased(user: User, view: str, count: int) -> str:
    now = timezone.now()
    leased = visible_to(user).in_view(view, user, now).filter(lease_until__gt=now).exclude(lease_by=user)
    names = sorted(set(leased.values_list("lease_by__username", flat=True)[:MAX_COUNT]))
    until = leased.aggregate(first=Min("lease_until"))["first"]
    reviewers = f"{', '.join(names[:3])}{' and others' if len(names) > 3 else ''}"
    if until is None:
        return "The items that others had reserved have just become available: refresh the page."
    end = f"{'until' if count == 1 else 'the first until'} {until:%H:%M:%S} UTC"
    return f"{_items(count, 'is', 'are')} being reviewed by {reviewers}; {end}."


def _explain_policy(user: User, view: str, count: int) -> str:
    restricted = Policy.objects.filter(pk__in=Policy.objects.restricted_for(user))
    groups = sorted(
        {group for names in restricted.values_list("allowed_groups", flat=True) for group in names}
    )
    return f"{_items(count, 'is', 'are')} restricted by policy to: {', '.join(groups)}."


def _explain_skipped(user: User, view: str, count: int) -> SafeString:
    now = timezone.now()
    items = visible_to(user).in_view(view, user, now).by_priority()
    items = items.annotate(unavailable_reason=unavailable_reason(user, now))
    skipped = items.filter(unavailable_reason=UnavailableReason.SKIPPED).values_list("pk", flat=True)
    query = None if view == "all" else {"view": view}
    links = format_html_join(
        ", ",
        '<a href="{}">{}</a>',
        ((reverse("admin:moderation_item", args=[pk], query=query), pk) for pk in skipped[:_MAX_LINKS]),
    )
    return format_html(
        "{} skipped by you. For a day {} offered to others only. To decide {} yourself, open {}{}.",
        _items(count, "was", "were"),
        "it is" if count == 1 else "they are",
        "it" if count == 1 else "them",
        links,
        f" and {count - _MAX_LINKS:,} others" if count > _MAX_LINKS else "",
    )


_EXPLANATIONS: dict[UnavailableReason, Callable[[User, str, int], str]] = {
    UnavailableReason.LEASED: _explain_leased,
    UnavailableReason.LEADS: lambda user, view, count: (
        f"{_items(count, 'waits', 'wait')} for a lead: appeals and escalated items are decided by leads only."
    ),
    UnavailableReason.DECIDED_FIRST: lambda user, view, count: (
        f"{_items(count, 'needs', 'need')} another moderator: you decided the comment first."
    ),
    UnavailableReason.POLICY: _explain_policy,
    UnavailableReason.SKIPPED: _explain_skipped,
    UnavailableReason.ESCALATED: lambda user, view, count: (
        f"{_items(count, 'was', 'were')} escalated by you, for another lead to decide. "
        "If there is none, open them from the list of the Escalated view."
    ),
}
