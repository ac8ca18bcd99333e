"""Simulate a policy on past traffic. The policy page and the API call this module."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from django.core.cache import cache
from django.db.models import Avg, Exists, OuterRef, QuerySet

from apps.accounts.models import User
from apps.classifier.labels import LABELS
from apps.core.statistics import weighted_rate
from apps.moderation.models import Decision, Policy, QueueItem, Submission
from apps.moderation.permissions import require_policy
from apps.predictions.models import Prediction

SAMPLE = 10_000
LABELLED = 3_000
_DEFAULT_SECONDS = 20.0
_CACHE_SECONDS = 60


@dataclass(frozen=True)
class Estimate:
    """A fraction with its 95% interval; all three are None without observations."""

    value: float | None
    low: float | None
    high: float | None
    count: int


@dataclass(frozen=True)
class Simulation:
    """The effect of a policy on a sample of the newest traffic."""

    sample: int
    comments_per_day: float
    reject_share: float
    review_share: float
    approve_share: float
    queue_per_day: float
    seconds_per_item: float
    hours_per_day: float
    labelled: int
    precision: Estimate
    recall: Estimate


def _traffic(community: str) -> tuple[np.ndarray, float]:
    """Return the newest comments' probabilities, float32 (n, 6), and the days that they span."""
    key = f"moderation:traffic:{community}"
    if cached := cache.get(key):
        data, days = cached
        return np.frombuffer(data, dtype=np.float32).reshape(-1, len(LABELS)), days
    if community:
        rows: QuerySet[Any] = Submission.objects.filter(community=community).order_by("-pk")
        # Active learning selected these from comments that were only scored, so they are no random sample.
        rows = rows.exclude(outcome=Submission.Outcome.NOT_MODERATED)
        scores = rows.values_list(*(f"prediction__{label}" for label in LABELS))
    else:
        policies = Policy.objects.filter(status=Policy.Status.ACTIVE).exclude(community="")
        communities = list(policies.values_list("community", flat=True))
        rows = Prediction.objects.exclude(community__in=communities).order_by("-pk")
        scores = rows.values_list(*LABELS)
    probabilities = np.fromiter(chain.from_iterable(scores[:SAMPLE]), np.float32).reshape(-1, len(LABELS))
    times = rows.values_list("created_at", flat=True)
    count = len(probabilities)
    days = (times[0] - times[count - 1]).total_seconds() / 86_400 if count else 0.0
    cache.set(key, (probabilities.tobytes(), days), _CACHE_SECONDS)
    return probabilities, days


def _labelled(community: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the probabilities (n, 6), whether a moderator rejected (n,) and the sampling chances (n,)."""
    # The policy page requests several simulations a second while a slider is moved.
    key = f"moderation:labelled:{community}"
    return cache.get_or_set(key, lambda: _query_labelled(community), _CACHE_SECONDS)  # type: ignore[return-value]


def _query_labelled(community: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    decisions = Decision.objects.filter(
        automatic=False,
        reverses=None,
        action__in=(Decision.Action.APPROVE, Decision.Action.REJECT),
        # Appeals and requested reviews are no random samples, and second reviews repeat other items.
        item__kind__in=(QueueItem.Kind.REVIEW, QueueItem.Kind.AUDIT),
        item__requested_by=None,
    ).order_by("-pk")
    if community:
        decisions = decisions.filter(submission__community=community)
    # A subquery, because PostgreSQL would read every decision for a join.
    decisions = decisions.exclude(Exists(Decision.objects.filter(reverses=OuterRef("pk"))))
    scores = (f"submission__prediction__{label}" for label in LABELS)
    rows = np.array(
        [
            (*probabilities, action == Decision.Action.REJECT, chance)
            for action, chance, *probabilities in decisions.values_list(
                "action", "item__sampling_chance", *scores
            )[:LABELLED]
        ],
        dtype=np.float64,
    ).reshape(-1, len(LABELS) + 2)
    return rows[:, :-2].astype(np.float32), rows[:, -2].astype(bool), rows[:, -1]


def _reached(probabilities: np.ndarray, rules: Sequence[Mapping[str, Any]], field: str) -> np.ndarray:
    """Return whether any label reaches its threshold, bool (n,).

    Args:
        probabilities: float32 (n, 6).
        field: `reject_from` or `review_from`.
    """
    # In float32 like the probabilities, or a score at the threshold would be below it.
    thresholds = np.full(len(LABELS), np.inf, dtype=np.float32)
    for rule in rules:
        if rule.get("label") and rule.get(field) is not None:
            thresholds[LABELS.index(rule["label"])] = rule[field]
    return np.any(probabilities >= thresholds, axis=1)


def _estimate(numerator: np.ndarray, denominator: np.ndarray, weights: np.ndarray) -> Estimate:
    """Return the weighted fraction of `denominator` (bool, n) that is in `numerator` (bool, n).

    The fraction is the estimator of Horvitz and Thompson (1952).
    """
    selected = weights[denominator]
    fraction, low, high = weighted_rate(
        weights[denominator & numerator].sum(), selected.sum(), (selected**2).sum()
    ) or (None, None, None)
    return Estimate(fraction, low, high, int(selected.size))


def simulate(
    *, user: User, rules: Sequence[Mapping[str, Any]], community: str = "", audit_share: float = 0.0
) -> Simulation:
    """Return the effect that a policy with these rules would have had on the newest 10,000 comments.

    Precision is the fraction of the rejected or reviewed comments that a moderator rejected. Recall is the
    fraction of the comments that a moderator rejected that are rejected or reviewed. Both are estimated from
    moderators' decisions, weighted by the inverse of their sampling probability, so audits represent the
    comments that no moderator sees.

    Args:
        rules: mappings with `label`, `reject_from` and `review_from`; see `actions.rules_of`.
        audit_share: the fraction of the approved comments that a moderator checks.

    Raises:
        PermissionDeniedError: the user may not manage this community's policy.
    """
    require_policy(user, community)
    probabilities, days = _traffic(community)
    rejected = _reached(probabilities, rules, "reject_from")
    reviewed = _reached(probabilities, rules, "review_from") & ~rejected
    count = len(probabilities)
    # Traffic that spans less than a day counts as a full day, unless the sample size cut it off.
    per_day = count / (days if count == SAMPLE and days > 0 else max(days, 1.0))
    reject_share, review_share = (float(mask.mean()) if count else 0.0 for mask in (rejected, reviewed))
    approve_share = 1 - reject_share - review_share
    queue_per_day = per_day * (review_share + approve_share * audit_share)
    seconds = _seconds_per_item()
    labelled, was_rejected, chance = _labelled(community)
    flagged = _reached(labelled, rules, "reject_from") | _reached(labelled, rules, "review_from")
    weights = 1 / chance
    return Simulation(
        sample=count,
        comments_per_day=per_day,
        reject_share=reject_share,
        review_share=review_share,
        approve_share=approve_share,
        queue_per_day=queue_per_day,
        seconds_per_item=seconds,
        hours_per_day=queue_per_day * seconds / 3_600,
        labelled=len(labelled),
        precision=_estimate(was_rejected, flagged, weights),
        recall=_estimate(flagged, was_rejected, weights),
    )


def _seconds_per_item() -> float:
    newest = Decision.objects.filter(automatic=False).order_by("-pk").values("pk")[:1_000]
    timed = Decision.objects.filter(pk__in=newest, applied_from=None, job=None)
    seconds = timed.aggregate(mean=Avg("seconds"))["mean"]
    return seconds or _DEFAULT_SECONDS
