"""Statistics of moderation: queue age, moderators, agreement, exposure and appeals."""

import hashlib
import json
import logging
from collections import Counter, defaultdict
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.core.cache import cache
from django.db.models import Avg, Count, Q
from django.db.models.functions import TruncDate
from django.utils import timezone

from apps.accounts.models import User
from apps.accounts.permissions import in_communities_of
from apps.classifier.labels import LABELS
from apps.moderation.models import (
    MIN_SEVERE,
    Appeal,
    Decision,
    Preference,
    Queue,
    QueueItem,
)
from apps.predictions.models import ALL_LABELS, pack_labels

logger = logging.getLogger(__name__)

SHIFT = timedelta(hours=8)
_PAIRS = 5_000
_AGREEMENT_SECONDS = 300
_VERDICTS = (Decision.Action.APPROVE, Decision.Action.REJECT)


def oldest_open(community: str | None = None) -> datetime | None:
    """Return when the oldest open item arrived, of one community or of all; None if no item is open."""
    # An index returns the oldest item of each queue.
    arrivals = QueueItem.objects.open().order_by("created_at").values_list("created_at", flat=True)
    if community is not None:
        arrivals = arrivals.filter(community=community)
    return min((first for queue in Queue if (first := arrivals.filter(queue=queue).first())), default=None)


def log_queue_age() -> None:
    """Log how long the oldest open item has waited, as `queue_age_seconds`, for alarms."""
    now = timezone.now()
    age = (now - (oldest_open() or now)).total_seconds()
    extra = {"queue_age_seconds": round(age)}
    logger.info("The oldest item in the queue has waited for %.0f s", age, extra=extra)


@dataclass(frozen=True)
class ModeratorStatistics:
    """Statistics of one moderator, for that moderator only.

    Attributes:
        decisions: how many were not undone. `actions`, `mean_seconds` and `by_day` are about these, too.
        overturned: how many were overturned on appeal, or undone by another user.
    """

    decisions: int
    actions: dict[str, int]
    mean_seconds: float | None
    by_day: list[tuple[Any, int]]
    appealed: int
    overturned: int
    undone_by_others: int

    @property
    def overturn_rate(self) -> float | None:
        """The fraction that was overturned of the decisions that the moderator did not undo."""
        count = self.decisions + self.undone_by_others
        return self.overturned / count if count else None


def moderator_statistics(user: User, *, days: int = 30) -> ModeratorStatistics:
    """Return the user's statistics of the last days, for the communities that the user may see."""
    since = timezone.now() - timedelta(days=days)
    rows = Decision.objects.filter(by=user, created_at__gte=since).exclude(action=Decision.Action.REVERSE)
    decisions = in_communities_of(user, rows, "submission__community")
    actions = [action for action in Decision.Action if action != Decision.Action.REVERSE]
    effective = Q(reversal=None)
    undone_by_others = Q(reversal__isnull=False) & ~Q(reversal__by=user)
    totals = decisions.aggregate(
        decisions=Count("pk", filter=effective),
        **{action.value: Count("pk", filter=effective & Q(action=action)) for action in actions},
        # A decision that was applied with another one or by a bulk job took no time itself.
        seconds=Avg("seconds", filter=effective & Q(applied_from=None, job=None)),
        appealed=Count("appeal"),
        overturned=Count("pk", filter=Q(appeal__status=Appeal.Status.OVERTURNED) | undone_by_others),
        undone_by_others=Count("pk", filter=undone_by_others),
    )
    by_day = (
        decisions.filter(effective)
        .annotate(day=TruncDate("created_at"))
        .values_list("day")
        .annotate(Count("pk"))
        .order_by("day")
    )
    return ModeratorStatistics(
        decisions=totals["decisions"],
        actions={action.value: totals[action.value] for action in actions},
        mean_seconds=totals["seconds"],
        by_day=list(by_day),
        appealed=totals["appealed"],
        overturned=totals["overturned"],
        undone_by_others=totals["undone_by_others"],
    )


@dataclass(frozen=True)
class Agreement:
    """Agreement of two moderators on the same comments; `kappa` is None where it is not defined."""

    kappa: float | None
    agreed: int
    count: int


def cohen_kappa(pairs: Counter[tuple[bool, bool]]) -> Agreement:
    """Return the agreement beyond chance of pairs of binary judgements (Cohen 1960)."""
    count = pairs.total()
    agreed = pairs[True, True] + pairs[False, False]
    if not count:
        return Agreement(None, 0, 0)
    first = pairs[True, True] + pairs[True, False]
    second = pairs[True, True] + pairs[False, True]
    # Integers, all times count², so that agreement by chance is exactly 0.
    chance = first * second + (count - first) * (count - second)
    kappa = None if chance == count**2 else (agreed * count - chance) / (count**2 - chance)
    return Agreement(kappa, agreed, count)


def stated_labels(action: str, corrected: int | None, rule_label: str | None) -> tuple[int, int]:
    """Return two masks: the labels that a decision states as true, and all labels that it states.

    Corrected labels state all six. Without them, an approval states that none is true, and a rejection states
    only that the label of its rule is true.
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
    """Return the agreement of blind second reviews with the first ones, by label and by pair of moderators.

    For a pair, it is the agreement on approval or rejection. The last 5,000 reviews count. The result is at
    most five minutes old.

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
    second_reviews = list(
        decisions.filter(
            item__kind=QueueItem.Kind.SECOND, created_at__gte=timezone.now() - timedelta(days=days)
        )
        .filter(action__in=_VERDICTS)
        .order_by("-pk")
        .values_list(
            "pk",
            "item__original",
            "action",
            "corrected_mask",
            "rule__label",
            "by__username",
        )[:_PAIRS]
    )
    first_reviews = {
        item: (pk, action, corrected, label, name)
        for pk, item, action, corrected, label, name in Decision.objects.effective()
        .filter(item__in=[row[1] for row in second_reviews])
        .filter(action__in=_VERDICTS)
        .values_list("pk", "item", "action", "corrected_mask", "rule__label", "by__username")
    }
    by_label: dict[str, Counter[tuple[bool, bool]]] = {label: Counter() for label in LABELS}
    by_pair: dict[tuple[str, str], Counter[tuple[bool, bool]]] = defaultdict(Counter)
    for pk, item, action, corrected, rule_label, name in second_reviews:
        if item not in first_reviews:
            continue
        first_pk, first_action, first_corrected, first_rule_label, first_name = first_reviews[item]
        if first_pk > pk:  # decided again after an undo, perhaps by the second reviewer
            continue
        first, first_stated = stated_labels(first_action, first_corrected, first_rule_label)
        second, second_stated = stated_labels(action, corrected, rule_label)
        for bit, label in enumerate(LABELS):
            if first_stated & second_stated & 1 << bit:
                by_label[label][bool(first >> bit & 1), bool(second >> bit & 1)] += 1
        verdicts = (first_action == Decision.Action.REJECT, action == Decision.Action.REJECT)
        # The order of the two reviews does not matter for a pair.
        pair, ordered = (
            ((first_name, name), verdicts) if first_name <= name else ((name, first_name), verdicts[::-1])
        )
        by_pair[pair][ordered] += 1
    return (
        {label: cohen_kappa(pairs) for label, pairs in by_label.items()},
        {pair: cohen_kappa(pairs) for pair, pairs in sorted(by_pair.items())},
    )


@dataclass(frozen=True)
class ShiftExposure:
    """The number of severe comments that a moderator has decided in the last eight hours."""

    severe: int
    limit: int

    @property
    def suggests_break(self) -> bool:
        """Whether the exposure limit is reached."""
        return bool(self.limit) and self.severe >= self.limit


def shift_exposure(user: User) -> ShiftExposure:
    """Return the user's exposure in the current shift."""
    severe = Decision.objects.filter(
        by=user, created_at__gte=timezone.now() - SHIFT, item__severity__gte=MIN_SEVERE
    ).exclude(action=Decision.Action.REVERSE)
    comments = severe.order_by().values("item").distinct().count()
    return ShiftExposure(severe=comments, limit=Preference.for_user(user).exposure_limit)


def appeal_counts(*, communities: list[str] | None = None, days: int = 90) -> dict[str, int]:
    """Return the number of open appeals, and of those of the last days that were upheld or overturned.

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
