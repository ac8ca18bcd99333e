"""What a draft policy would do to past traffic."""

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
    """A share with its 95 % interval; None where there is nothing to estimate it from."""

    value: float | None
    low: float | None
    high: float | None
    count: int


@dataclass(frozen=True)
class Simulation:
    """What thresholds would do, from a sample of the newest traffic."""

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
        found: QuerySet[Any] = Submission.objects.filter(community=community).order_by("-pk")
        # What was chosen of the comments that were only scored is no fair sample.
        found = found.exclude(outcome=Submission.Outcome.NOT_MODERATED)
        scores = found.values_list(*(f"prediction__{label}" for label in LABELS))
    else:
        own = (
            Policy.objects.filter(status=Policy.Status.ACTIVE).exclude(community="").values_list("community")
        )
        found = Prediction.objects.exclude(community__in=[row[0] for row in own]).order_by("-pk")
        scores = found.values_list(*LABELS)
    probabilities = np.fromiter(chain.from_iterable(scores[:SAMPLE]), np.float32).reshape(-1, len(LABELS))
    # Only the two ends' dates: reading ten thousand of them takes longer than the scores.
    made = found.values_list("created_at", flat=True)
    count = len(probabilities)
    days = (made[0] - made[count - 1]).total_seconds() / 86_400 if count else 0.0
    cache.set(key, (probabilities.tobytes(), days), _CACHE_SECONDS)
    return probabilities, days


def _labelled(community: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the probabilities (n, 6), whether a moderator rejected (n,) and the sampling chances (n,)."""
    # A slider asks several times a second; what moderators said does not change as fast.
    return cache.get_or_set(f"moderation:labelled:{community}", lambda: _judged(community), _CACHE_SECONDS)  # type: ignore[return-value]


def _judged(community: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    found = Decision.objects.filter(
        automatic=False,
        reverses=None,
        action__in=(Decision.Action.APPROVE, Decision.Action.REJECT),
        # Appeals and requested reviews were selected by people, second reviews repeat: no fair samples.
        item__kind__in=(QueueItem.Kind.REVIEW, QueueItem.Kind.AUDIT),
        item__requested_by=None,
    ).order_by("-pk")
    if community:
        found = found.filter(submission__community=community)
    # Undone ones are left out row by row: for a join, PostgreSQL would read every decision.
    found = found.exclude(Exists(Decision.objects.filter(reverses=OuterRef("pk"))))
    scores = (f"submission__prediction__{label}" for label in LABELS)
    rows = np.array(
        [
            (*probabilities, action == Decision.Action.REJECT, chance)
            for action, chance, *probabilities in found.values_list(
                "action", "item__sampling_chance", *scores
            )[:LABELLED]
        ],
        dtype=np.float64,
    ).reshape(-1, len(LABELS) + 2)
    return rows[:, :-2].astype(np.float32), rows[:, -2].astype(bool), rows[:, -1]


def _reached(probabilities: np.ndarray, rules: Sequence[Mapping[str, Any]], bound: str) -> np.ndarray:
    """Return whether any label reaches its threshold, bool (n,)."""
    # In float32 like the probabilities, or a score at the threshold would fall below it.
    thresholds = np.full(len(LABELS), np.inf, dtype=np.float32)
    for rule in rules:
        if rule.get("label") and rule.get(bound) is not None:
            thresholds[LABELS.index(rule["label"])] = rule[bound]
    return np.any(probabilities >= thresholds, axis=1)


def _estimate(hits: np.ndarray, among: np.ndarray, weights: np.ndarray) -> Estimate:
    """Return the weighted share of `hits` `among` the labelled, with Wilson's interval.

    The share is Horvitz and Thompson's (1952).
    """
    chosen = weights[among]
    share = weighted_rate(weights[among & hits].sum(), chosen.sum(), (chosen**2).sum())
    value, low, high = share or (None, None, None)
    return Estimate(value, low, high, int(chosen.size))


def simulate(
    *, user: User, rules: Sequence[Mapping[str, Any]], community: str = "", audit_share: float = 0.0
) -> Simulation:
    """Return what a policy of these rules would have done to the newest 10,000 comments.

    Precision is the share of the rejected or reviewed comments that a moderator rejected; recall is the share
    of what a moderator would reject that is rejected or reviewed. Both come from what moderators have looked
    at, each weighted by one over the chance that it was, so audits speak for the traffic that nobody sees.

    Args:
        rules: mappings with `label`, `reject_from` and `review_from`; see `actions.rules_of`.
        audit_share: the share of approved comments that a moderator checks as well.

    Raises:
        PermissionDeniedError: the user may not manage this community's policy.
    """
    require_policy(user, community)
    probabilities, days = _traffic(community)
    rejected = _reached(probabilities, rules, "reject_from")
    reviewed = _reached(probabilities, rules, "review_from") & ~rejected
    count = len(probabilities)
    # Traffic of less than a day stands for a day, except where it was the sample that ended it.
    per_day = count / (days if count == SAMPLE and days > 0 else max(days, 1.0))
    reject_share, review_share = (float(which.mean()) if count else 0.0 for which in (rejected, reviewed))
    approve_share = 1 - reject_share - review_share
    queue_per_day = per_day * (review_share + approve_share * audit_share)
    seconds = _seconds_per_item()
    known, is_bad, chance = _labelled(community)
    flagged = _reached(known, rules, "reject_from") | _reached(known, rules, "review_from")
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
        labelled=len(known),
        precision=_estimate(is_bad, flagged, weights),
        recall=_estimate(flagged, is_bad, weights),
    )


def _seconds_per_item() -> float:
    newest = Decision.objects.filter(automatic=False).order_by("-pk").values("pk")[:1_000]
    timed = Decision.objects.filter(pk__in=newest, applied_from=None, job=None)
    seconds = timed.aggregate(mean=Avg("seconds"))["mean"]
    return seconds or _DEFAULT_SECONDS
