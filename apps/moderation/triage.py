"""What a policy makes of a score, and where an item stands in the queue. Pure functions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from itertools import pairwise

import numpy as np
from rapidfuzz import fuzz, process

from apps.moderation.models import MIN_SEVERE, Policy, PolicyRule, Queue, QueueItem, Submission

# How grave each label is where it is certain; what a threat may lead to outweighs rudeness.
GRAVITY = {
    "toxic": 0.4,
    "severe_toxic": 1.0,
    "obscene": 0.4,
    "threat": 1.0,
    "insult": 0.45,
    "identity_hate": 0.9,
}
_EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
_NEAR = 0.25
_UNCERTAIN = 0.8
_KINDS_WITH_QUEUE = (
    QueueItem.Kind.AUDIT,
    QueueItem.Kind.ACTIVE_LEARNING,
    QueueItem.Kind.APPEAL,
    QueueItem.Kind.SECOND,
)
_STRIKES_FOR_FULL_RISK = 5
_SIMILAR = 90.0
_HEAD = 2_000  # characters that are compared: edit distance is quadratic


@dataclass(frozen=True)
class Verdict:
    """What the policy says of one comment."""

    outcome: Submission.Outcome
    rule: PolicyRule | None
    label: str
    reasons: list[dict[str, str | float]]


@dataclass(frozen=True)
class Ranking:
    """An item's place in the queue, with its parts."""

    queue: Queue
    severity: float
    uncertainty: float
    author_risk: float
    priority: float
    due_at: datetime


def triage(*, probabilities: Mapping[str, float], policy: Policy) -> Verdict:
    """Return the policy's verdict: reject over review over approve."""
    rules = [rule for rule in policy.rules.all() if rule.label]
    reasons: dict[str, list[tuple[float, PolicyRule]]] = {"reject": [], "human_review": []}
    for rule in rules:
        probability = probabilities[rule.label]
        if rule.reject_from is not None and probability >= rule.reject_from:
            reasons["reject"].append((probability - rule.reject_from, rule))
        elif rule.review_from is not None and probability >= rule.review_from:
            reasons["human_review"].append((probability - rule.review_from, rule))
    for outcome, met in reasons.items():
        if met:
            met.sort(key=lambda pair: -pair[0])
            rule = met[0][1]
            return Verdict(
                outcome=Submission.Outcome(outcome),
                rule=rule,
                label=rule.label,
                reasons=[
                    {
                        "label": rule.label,
                        "title": rule.title,
                        "reason": rule.reason,
                        "probability": probabilities[rule.label],
                        "threshold": probabilities[rule.label] - margin,
                    }
                    for margin, rule in met
                ],
            )
    label = nearest_label(probabilities, rules)
    return Verdict(Submission.Outcome.APPROVE, None, label, [])


def nearest_label(probabilities: Mapping[str, float], rules: Sequence[PolicyRule]) -> str:
    """Return the label whose probability is the greatest part of its lowest threshold."""
    bounds = {
        rule.label: bound
        for rule in rules
        if (bound := rule.reject_from if rule.review_from is None else rule.review_from) is not None
    }
    return max(probabilities, key=lambda label: probabilities[label] / max(bounds.get(label, 1.0), 1e-6))


def rank(
    *,
    probabilities: Mapping[str, float],
    policy: Policy,
    kind: QueueItem.Kind,
    strikes: int = 0,
    now: datetime,
    escalated: bool = False,
) -> Ranking:
    """Return where an item of these scores stands.

    Severity is the highest probability times the label's gravity; uncertainty falls linearly from 1 at a
    threshold to 0 at a distance of 0.25. A day of waiting weighs as much as the whole of severity: an item's
    priority is its worth less the days from a fixed epoch to its arrival, so that nothing has to be written
    again as time goes by.
    """
    severity = max(GRAVITY[label] * probability for label, probability in probabilities.items())
    bounds = [
        (rule.label, bound)
        for rule in policy.rules.all()
        for bound in (rule.reject_from, rule.review_from)
        if rule.label and bound is not None
    ]
    distance = min((abs(probabilities[label] - bound) for label, bound in bounds), default=1.0)
    uncertainty = max(0.0, 1 - distance / _NEAR)
    author_risk = min(strikes / _STRIKES_FOR_FULL_RISK, 1.0)
    if escalated:
        queue = Queue.ESCALATED
    elif kind in _KINDS_WITH_QUEUE:
        queue = Queue(kind.value)
    elif severity >= MIN_SEVERE:
        queue = Queue.URGENT
    else:
        queue = Queue.UNCERTAIN if uncertainty >= _UNCERTAIN else Queue.NORMAL
    minutes = policy.urgent_due_minutes if queue in (Queue.URGENT, Queue.ESCALATED) else policy.due_minutes
    score = severity + 0.3 * uncertainty + 0.3 * author_risk + (1.0 if escalated else 0.0)
    return Ranking(
        queue=queue,
        severity=severity,
        uncertainty=uncertainty,
        author_risk=author_risk,
        priority=score - (now - _EPOCH) / timedelta(days=1),
        due_at=now + timedelta(minutes=minutes),
    )


def sketch(normalised: str) -> tuple[int, int]:
    """Return two minimum hashes of the pairs of neighbouring words.

    Texts whose pairs have a Jaccard similarity of J agree in at least one with probability 1 - (1 - J)²
    (Broder 1997), so an index on each finds nearly all near-duplicates.
    """
    words = normalised.split()
    pairs = {f"{one} {other}" for one, other in pairwise(words)} or {normalised}
    digests = b"".join(
        blake2b(pair.encode("utf-8", "surrogatepass"), digest_size=8).digest() for pair in pairs
    )
    # The halves of a digest are two hashes that know nothing of each other.
    first, second = np.frombuffer(digests, np.dtype("<u4")).reshape(-1, 2).min(axis=0).tolist()
    return first, second


def nearest_text(normalised: str, others: Mapping[int, str]) -> int | None:
    """Return the key of the most similar text by edit distance, at least 90 % alike, or None."""
    heads = {key: text[:_HEAD] for key, text in others.items()}
    found = process.extractOne(normalised[:_HEAD], heads, scorer=fuzz.ratio, score_cutoff=_SIMILAR)
    return None if found is None else found[2]
