"""Simulate a policy on past traffic. The policy page and the API call this module."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from django.core.cache import cache
from django.db.models import Avg, Exists, OuterRef, QuerySet

from apps.accounts.models import User
from apps.classifier.labels import LABELS
from apps.core.statistics import weighted_rate
from apps.moderation.models import Decision, Policy, QueueItem, Submission
from apps.moderation.permissions import require_policy
from apps.predictions.models import Prediction
from apps.registry import serving

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


class _Traffic(NamedTuple):
    """The newest comments.

    Attributes:
        probabilities: float32 (n, 6).
        is_scorable: bool (n,), whether the model scores the comment's language.
        days: the time that the comments span.
    """

    probabilities: np.ndarray
    is_scorable: np.ndarray
    days: float


def _traffic(community: str, *, with_languages: bool) -> _Traffic:
    """Return a sample of the newest comments; without languages, all count as scorable."""
    key = f"moderation:traffic:{with_languages}:{community}"
    # The policy page requests several simulations a second while a slider is moved.
    return cache.get_or_set(key, lambda: _query_traffic(community, with_languages), _CACHE_SECONDS)  # type: ignore[return-value]


def _query_traffic(community: str, with_languages: bool) -> _Traffic:
    if community:
        # Active learning selected these from comments that were only scored, so they are no random sample.
        submissions = Submission.objects.filter(community=community)
        submissions = submissions.exclude(outcome=Submission.Outcome.NOT_MODERATED)
        rows: QuerySet[Any] = submissions.order_by("-pk")
        prefix = "prediction__"
    else:
        policies = Policy.objects.filter(status=Policy.Status.ACTIVE).exclude(community="")
        communities = list(policies.values_list("community", flat=True))
        rows = Prediction.objects.exclude(community__in=communities).order_by("-pk")
        prefix = ""
    newest = list(rows.values_list("created_at", *_columns(prefix, with_languages))[:SAMPLE])
    days = (newest[0][0] - newest[-1][0]).total_seconds() / 86_400 if newest else 0.0
    return _Traffic(*_scores([row[1:] for row in newest]), days)


def _columns(prefix: str, with_languages: bool) -> list[str]:
    """Return the columns of a prediction that `_scores` takes."""
    return [f"{prefix}{name}" for name in (*LABELS, *(["text"] if with_languages else []))]


def _scores(rows: Sequence[tuple[Any, ...]]) -> tuple[np.ndarray, np.ndarray]:
    """Return float32 (n, 6) probabilities and bool (n,) whether the model scores the text's language.

    Args:
        rows: (n,) the probabilities, and the text where the language counts. The text may be None.
    """
    count = len(LABELS)
    probabilities = np.array([row[:count] for row in rows], np.float32).reshape(-1, count)
    is_scorable = np.ones(len(rows), bool)
    if rows and len(rows[0]) > count:
        can_score = serving.current().scorer.can_score
        is_scorable[:] = [text is None or can_score(text) for *_, text in rows]
    return probabilities, is_scorable


class _Labelled(NamedTuple):
    """Comments that moderators decided; see `_Traffic`. `chances` are the sampling chances, float64 (n,)."""

    probabilities: np.ndarray
    is_scorable: np.ndarray
    was_rejected: np.ndarray
    chances: np.ndarray


def _labelled(community: str, *, with_languages: bool) -> _Labelled:
    """Return the newest decisions by moderators."""
    key = f"moderation:labelled:{with_languages}:{community}"
    return cache.get_or_set(key, lambda: _query_labelled(community, with_languages), _CACHE_SECONDS)  # type: ignore[return-value]


def _query_labelled(community: str, with_languages: bool) -> _Labelled:
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
    columns = _columns("submission__prediction__", with_languages)
    rows = list(decisions.values_list("action", "item__sampling_chance", *columns)[:LABELLED])
    return _Labelled(
        *_scores([row[2:] for row in rows]),
        np.array([row[0] == Decision.Action.REJECT for row in rows], bool),
        np.array([row[1] for row in rows], np.float64),
    )


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
    *,
    user: User,
    rules: Sequence[Mapping[str, Any]],
    community: str = "",
    audit_share: float = 0.0,
    review_other_languages: bool = False,
) -> Simulation:
    """Return the effect that a policy with these rules would have had on the newest 10,000 comments.

    Precision is the fraction of the rejected or reviewed comments that a moderator rejected. Recall is the
    fraction of the comments that a moderator rejected that are rejected or reviewed. Both are estimated from
    moderators' decisions, weighted by the inverse of their sampling probability, so audits represent the
    comments that no moderator sees.

    Args:
        rules: mappings with `label`, `reject_from` and `review_from`; see `actions.rules_of`.
        audit_share: the fraction of the approved comments that a moderator checks.
        review_other_languages: whether comments in languages that the model does not score are reviewed.

    Raises:
        PermissionDeniedError: the user may not manage this community's policy.
    """
    require_policy(user, community)
    traffic = _traffic(community, with_languages=review_other_languages)
    rejected = _reached(traffic.probabilities, rules, "reject_from") & traffic.is_scorable
    reviewed = ~rejected & (_reached(traffic.probabilities, rules, "review_from") | ~traffic.is_scorable)
    count, days = len(traffic.probabilities), traffic.days
    # Traffic that spans less than a day counts as a full day, unless the sample size cut it off.
    per_day = count / (days if count == SAMPLE and days > 0 else max(days, 1.0))
    reject_share, review_share = (float(mask.mean()) if count else 0.0 for mask in (rejected, reviewed))
    approve_share = 1 - reject_share - review_share
    queue_per_day = per_day * (review_share + approve_share * audit_share)
    seconds = _seconds_per_item()
    labelled = _labelled(community, with_languages=review_other_languages)
    reached = (_reached(labelled.probabilities, rules, field) for field in ("reject_from", "review_from"))
    flagged = np.logical_or(*reached) | ~labelled.is_scorable
    weights = 1 / labelled.chances
    return Simulation(
        sample=count,
        comments_per_day=per_day,
        reject_share=reject_share,
        review_share=review_share,
        approve_share=approve_share,
        queue_per_day=queue_per_day,
        seconds_per_item=seconds,
        hours_per_day=queue_per_day * seconds / 3_600,
        labelled=len(labelled.chances),
        precision=_estimate(labelled.was_rejected, flagged, weights),
        recall=_estimate(flagged, labelled.was_rejected, weights),
    )


def _seconds_per_item() -> float:
    newest = Decision.objects.filter(automatic=False).order_by("-pk").values("pk")[:1_000]
    timed = Decision.objects.filter(pk__in=newest, applied_from=None, job=None)
    seconds = timed.aggregate(mean=Avg("seconds"))["mean"]
    return seconds or _DEFAULT_SECONDS
