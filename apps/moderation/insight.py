"""What the console shows besides the queue: counts, figures of people, agreement, wellbeing. Reads only."""

import hashlib
import json
import logging
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.core.cache import cache
from django.db.models import Avg, Count, F, Min, Q, QuerySet, Value
from django.db.models.functions import Floor, TruncDate
from django.utils import timezone

from apps.accounts.models import User
from apps.accounts.permissions import access_key, communities_of, in_communities_of
from apps.classifier.labels import LABELS
from apps.core.text import pluralize
from apps.moderation.availability import Obstacle, obstacle
from apps.moderation.models import (
    MIN_SEVERE,
    VIEWS,
    Appeal,
    Decision,
    Policy,
    Preference,
    Queue,
    QueueItem,
    QueueItemQuerySet,
)
from apps.moderation.permissions import visible_to
from apps.predictions.models import ALL_LABELS, pack_labels

logger = logging.getLogger(__name__)

CAP = 1_000
SHIFT = timedelta(hours=8)
_COUNT_SECONDS = 5
_PAIRS = 5_000
_AGREEMENT_SECONDS = 300
_HISTOGRAM_SECONDS = 30
_VERDICTS = (Decision.Action.APPROVE, Decision.Action.REJECT)


@dataclass(frozen=True)
class ViewCount:
    """A saved view with its size; sizes are counted up to 1,000.

    `count` is the number of open items, `available` of those that the user can take now; `overdue` and
    `oldest` are theirs. `obstacles` says how many of the others are unavailable, and why.
    """

    view: str
    title: str
    count: int
    available: int
    overdue: int
    oldest: datetime | None
    obstacles: dict[str, int]

    @property
    def count_text(self) -> str:
        """The size as it is shown: what the user can take, else why the items are unavailable."""
        if self.count > CAP:
            return f"{CAP:,}+"
        if self.available or not self.obstacles:
            return f"{self.available:,}"
        reason, count = max(self.obstacles.items(), key=lambda pair: pair[1])
        return f"{count:,}, {Obstacle(reason).label}"

    @property
    def title_text(self) -> str:
        """The whole account of the view, for a tooltip."""
        parts = [f"{self.available:,} you can take"]
        parts += [f"{count:,} {Obstacle(reason).label}" for reason, count in self.obstacles.items()]
        return "; ".join(parts)


def capped(items: QuerySet[Any]) -> int:
    """Return how many there are, at most one more than the cap: a big table is never counted."""
    return items.order_by().values("pk")[: CAP + 1].count()


def _counts_key(user: User) -> str:
    return f"moderation:counts:{user.pk}:{access_key(user)}"


def view_counts(user: User) -> list[ViewCount]:
    """Return the saved views with their sizes, at most five seconds old; see `forget_counts`.

    Raises:
        PermissionDenied: the user may not see the queue.
    """
    visible = visible_to(user)
    found: list[ViewCount] | None = cache.get(_counts_key(user))
    if found is None:
        now = timezone.now()
        decides = user.has_perm("moderation.decide_queueitem")
        rows = visible.annotate(obstacle=obstacle(user, now) if decides else Value(""))
        views = ("mine", *(view for view in VIEWS if view != "mine"))
        found = [_view_count(view, rows.in_view(view, user, now), now) for view in views]
        cache.set(_counts_key(user), found, _COUNT_SECONDS)
    return found


def forget_counts(user: User) -> None:
    """Have the user's views counted again: the user has changed them, or finds one empty."""
    cache.delete(_counts_key(user))


def _view_count(view: str, items: QueueItemQuerySet, now: datetime) -> ViewCount:
    title = Queue(view).label if view in Queue.values else view.capitalize()
    free = Q(obstacle="")
    # An index gives the first due, among whom all that are overdue and the oldest come first.
    figures = items.order_by("due_at")[: CAP + 1].aggregate(
        count=Count("pk"),
        available=Count("pk", filter=free),
        overdue=Count("pk", filter=free & Q(due_at__lt=now)),
        oldest=Min("created_at", filter=free),
        **{reason.value: Count("pk", filter=Q(obstacle=reason)) for reason in Obstacle},
    )
    obstacles = {reason.value: figures.pop(reason.value) for reason in Obstacle}
    return ViewCount(view, title, **figures, obstacles={k: v for k, v in obstacles.items() if v})


def why_empty(user: User, view: str) -> list[str]:
    """Return sentences that say why the user can take nothing in a view; none if nothing is open there.

    Raises:
        PermissionDenied: the user may not see the queue.
    """
    entry = next(entry for entry in view_counts(user) if entry.view == view)
    sentences = []
    if entry.available:
        those = pluralize(entry.available, "item is", "items are")
        sentences.append(f"{those} on the screen of another moderator, or on another of your tabs.")
    for reason, count in entry.obstacles.items():
        sentences.append(_EXPLAINED[Obstacle(reason)](user, view, count))
    communities = communities_of(user)
    if communities:
        sentences.append(f"You see these communities only: {', '.join(sorted(communities))}.")
    return sentences


def _items(count: int, one: str, several: str) -> str:
    return pluralize(count, f"item {one}", f"items {several}")


def _explain_held(user: User, view: str, count: int) -> str:
    now = timezone.now()
    held = visible_to(user).in_view(view, user, now).filter(lease_until__gt=now).exclude(lease_by=user)
    names = sorted(set(held.values_list("lease_by__username", flat=True)[:CAP]))
    until = held.aggregate(first=Min("lease_until"))
    who = f"{', '.join(names[:3])}{' and others' if len(names) > 3 else ''}"
    if until["first"] is None:
        return "The items that others held have just become free: refresh the page."
    when = f"{'until' if count == 1 else 'the first until'} {until['first']:%H:%M:%S} UTC"
    return f"{_items(count, 'is', 'are')} being reviewed by {who}; {when}."


def _explain_policy(user: User, view: str, count: int) -> str:
    barred = Policy.objects.filter(pk__in=Policy.objects.restricted_for(user))
    groups = sorted({group for names in barred.values_list("allowed_groups", flat=True) for group in names})
    return f"{_items(count, 'is', 'are')} restricted by policy to: {', '.join(groups)}."


_EXPLAINED: dict[Obstacle, Callable[[User, str, int], str]] = {
    Obstacle.HELD: _explain_held,
    Obstacle.LEADS: lambda user, view, count: (
        f"{_items(count, 'waits', 'wait')} for a lead: appeals and escalated items are decided by leads only."
    ),
    Obstacle.DECIDED_FIRST: lambda user, view, count: (
        f"{_items(count, 'needs', 'need')} another moderator: you decided the comment first."
    ),
    Obstacle.POLICY: _explain_policy,
    Obstacle.SKIPPED: lambda user, view, count: (
        f"{_items(count, 'was', 'were')} skipped by you. "
        "For a day they are offered to others only; search for their numbers to open them."
    ),
    Obstacle.ESCALATED: lambda user, view, count: (
        f"{_items(count, 'was', 'were')} escalated by you, for another lead to decide. "
        "If there is none, open them from the list of the Escalated view."
    ),
}


def oldest_open(community: str | None = None) -> datetime | None:
    """Return when the oldest open item came, of one community or of all; None where none is open."""
    # An index gives the oldest of each queue.
    arrivals = QueueItem.objects.open().order_by("created_at").values_list("created_at", flat=True)
    if community is not None:
        arrivals = arrivals.filter(community=community)
    return min((first for queue in Queue if (first := arrivals.filter(queue=queue).first())), default=None)


def log_queue_age() -> None:
    """Say in the log how long the oldest open item has waited: `queue_age_seconds`, a figure to alarm on."""
    now = timezone.now()
    age = (now - (oldest_open() or now)).total_seconds()
    figures = {"queue_age_seconds": round(age)}
    logger.info("The oldest item in the queue has waited for %.0f s", age, extra=figures)


def histogram(*, user: User, label: str, community: str | None = None, bins: int = 20) -> list[int]:
    """Return how many open items of a label there are by score, in equal bins from 0 to 1.

    The counts are at most half a minute old.

    Raises:
        PermissionDenied: the user may not see the queue.
    """
    items = visible_to(user).open().filter(label=label)
    if community is not None:
        items = items.filter(community=community)
    name = hashlib.sha256(f"{access_key(user)}\n{label}\n{community}\n{bins}".encode()).hexdigest()
    return cache.get_or_set(  # type: ignore[return-value]
        f"moderation:histogram:{name}", lambda: _histogram(items, bins), _HISTOGRAM_SECONDS
    )


def _histogram(items: QueueItemQuerySet, bins: int) -> list[int]:
    found = items.order_by().annotate(bin=Floor(F("score") * bins)).values_list("bin").annotate(Count("pk"))
    counts = [0] * bins
    for bin_, count in found:
        counts[min(int(bin_), bins - 1)] += count
    return counts


@dataclass(frozen=True)
class OwnFigures:
    """A moderator's own figures. There is no ranking."""

    decisions: int
    actions: dict[str, int]
    mean_seconds: float | None
    by_day: list[tuple[Any, int]]
    appealed: int
    overturned: int

    @property
    def overturn_rate(self) -> float | None:
        """The share of the decisions that were overturned on appeal or taken back by somebody else."""
        return self.overturned / self.decisions if self.decisions else None


def own_figures(user: User, *, days: int = 30) -> OwnFigures:
    """Return the user's figures of the last days, of the communities that the user may see."""
    since = timezone.now() - timedelta(days=days)
    made = Decision.objects.filter(by=user, created_at__gte=since).exclude(action=Decision.Action.REVERSE)
    mine = in_communities_of(user, made, "submission__community")
    actions = [action for action in Decision.Action if action != Decision.Action.REVERSE]
    figures = mine.aggregate(
        decisions=Count("pk"),
        **{action.value: Count("pk", filter=Q(action=action)) for action in actions},
        # A decision that was applied along with another one, or by a bulk job, took no time of its own.
        seconds=Avg("seconds", filter=Q(applied_from=None, job=None)),
        appealed=Count("appeal"),
        overturned=Count(
            "pk",
            filter=Q(appeal__status=Appeal.Status.OVERTURNED)
            | Q(reversal__isnull=False) & ~Q(reversal__by=user),
        ),
    )
    by_day = (
        mine.annotate(day=TruncDate("created_at")).values_list("day").annotate(Count("pk")).order_by("day")
    )
    return OwnFigures(
        decisions=figures["decisions"],
        actions={action.value: figures[action.value] for action in actions},
        mean_seconds=figures["seconds"],
        by_day=list(by_day),
        appealed=figures["appealed"],
        overturned=figures["overturned"],
    )


@dataclass(frozen=True)
class Agreement:
    """Cohen's kappa of two judgements on the same comments; None where it is not defined."""

    kappa: float | None
    agreed: int
    count: int


def cohen_kappa(pairs: Counter[tuple[bool, bool]]) -> Agreement:
    """Return the agreement beyond chance of paired yes-or-no judgements (Cohen 1960)."""
    count = pairs.total()
    agreed = pairs[True, True] + pairs[False, False]
    if not count:
        return Agreement(None, 0, 0)
    first = (pairs[True, True] + pairs[True, False]) / count
    second = (pairs[True, True] + pairs[False, True]) / count
    chance = first * second + (1 - first) * (1 - second)
    return Agreement(None if chance == 1 else (agreed / count - chance) / (1 - chance), agreed, count)


def stated_labels(action: str, corrected: int | None, rule_label: str | None) -> tuple[int, int]:
    """Return the labels that a decision says are true, and those of which it says anything, as masks.

    Ticked labels speak of all six. Without them an approval says that none is true, and a rejection says only
    that the label of its reason is: nothing is taken over from the model.
    """
    if corrected is not None:
        return corrected, ALL_LABELS
    if action == Decision.Action.APPROVE:
        return 0, ALL_LABELS
    bit = pack_labels(label == rule_label for label in LABELS)
    return bit, bit


def agreement(
    *, communities: list[str] | None = None, days: int = 90
) -> tuple[dict[str, Agreement], dict[tuple[str, str], Agreement]]:
    """Return how far blind second reviews agree with the first ones, by label and by pair of moderators.

    The agreement of a pair is over the verdict, whether the comment may stay. The last 5,000 reviews count;
    the figures are at most five minutes old.

    Args:
        communities: count the reviews of these communities; None for all.
    """
    name = hashlib.sha256(json.dumps([communities, days]).encode()).hexdigest()
    return cache.get_or_set(  # type: ignore[return-value]
        f"moderation:agreement:{name}", lambda: _agreement(communities, days), _AGREEMENT_SECONDS
    )


def _agreement(
    communities: list[str] | None, days: int
) -> tuple[dict[str, Agreement], dict[tuple[str, str], Agreement]]:
    decisions = Decision.objects.effective()
    if communities is not None:
        decisions = decisions.filter(submission__community__in=communities)
    seconds = list(
        decisions.filter(
            item__kind=QueueItem.Kind.SECOND, created_at__gte=timezone.now() - timedelta(days=days)
        )
        .filter(action__in=_VERDICTS)
        .order_by("-pk")
        .values_list(
            "item__original",
            "action",
            "corrected_mask",
            "rule__label",
            "by__username",
        )[:_PAIRS]
    )
    firsts = {
        item: (action, corrected, label, name)
        for item, action, corrected, label, name in Decision.objects.effective()
        .filter(item__in=[row[0] for row in seconds])
        .filter(action__in=_VERDICTS)
        .values_list("item", "action", "corrected_mask", "rule__label", "by__username")
    }
    by_label: dict[str, Counter[tuple[bool, bool]]] = {label: Counter() for label in LABELS}
    by_pair: dict[tuple[str, str], Counter[tuple[bool, bool]]] = defaultdict(Counter)
    for item, action, corrected, rule_label, name in seconds:
        if item not in firsts:
            continue
        first_action, first_corrected, first_rule_label, first_name = firsts[item]
        one, one_known = stated_labels(first_action, first_corrected, first_rule_label)
        other, other_known = stated_labels(action, corrected, rule_label)
        for bit, label in enumerate(LABELS):
            if one_known & other_known & 1 << bit:
                by_label[label][bool(one >> bit & 1), bool(other >> bit & 1)] += 1
        verdicts = (first_action == Decision.Action.REJECT, action == Decision.Action.REJECT)
        # A pair is the same whoever was first.
        pair, ordered = (
            ((first_name, name), verdicts) if first_name <= name else ((name, first_name), verdicts[::-1])
        )
        by_pair[pair][ordered] += 1
    return (
        {label: cohen_kappa(pairs) for label, pairs in by_label.items()},
        {pair: cohen_kappa(pairs) for pair, pairs in sorted(by_pair.items())},
    )


@dataclass(frozen=True)
class Shift:
    """How much severe matter somebody has seen in the last eight hours."""

    severe: int
    limit: int

    @property
    def nudge(self) -> bool:
        """Whether to suggest a pause."""
        return bool(self.limit) and self.severe >= self.limit


def shift_of(user: User) -> Shift:
    """Return the user's shift."""
    severe = Decision.objects.filter(
        by=user, created_at__gte=timezone.now() - SHIFT, item__severity__gte=MIN_SEVERE
    ).exclude(action=Decision.Action.REVERSE)
    return Shift(severe=severe.count(), limit=Preference.for_user(user).exposure_limit)


def appeal_counts(*, communities: list[str] | None = None, days: int = 90) -> dict[str, int]:
    """Return how many appeals are open, and how many of the last days were upheld and overturned.

    Args:
        communities: count the appeals of these communities; None for all.
    """
    since = timezone.now() - timedelta(days=days)
    appeals = Appeal.objects.all()
    if communities is not None:
        appeals = appeals.filter(item__community__in=communities)
    return appeals.filter(Q(created_at__gte=since) | Q(status=Appeal.Status.OPEN)).aggregate(
        **{status.value: Count("pk", filter=Q(status=status)) for status in Appeal.Status}
    )
