"""Apply a policy to scores, rank queue items and find near-duplicates. Functions without side effects."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from itertools import groupby, pairwise

import numpy as np
from rapidfuzz import fuzz, process

from apps.moderation.models import MIN_SEVERE, Policy, PolicyRule, Queue, QueueItem, Submission

# The severity of each label at a probability of 1.
LABEL_SEVERITY = {
    "toxic": 0.4,
    "severe_toxic": 1.0,
    "obscene": 0.4,
    "threat": 1.0,
    "insult": 0.45,
    "identity_hate": 0.9,
}
_EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
_UNCERTAIN_DISTANCE = 0.25  # from a threshold
_MIN_UNCERTAIN = 0.8
_KINDS_WITH_QUEUE = (
    QueueItem.Kind.AUDIT,
    QueueItem.Kind.ACTIVE_LEARNING,
    QueueItem.Kind.APPEAL,
    QueueItem.Kind.SECOND,
)
_STRIKES_FOR_FULL_RISK = 5
_MIN_SIMILARITY = 90.0
_WORD_WITH_DIGIT = re.compile(r"\S*\d\S*")
_MAX_SHORT = 24  # words
_MAX_COMPARED = 2_000  # characters, because edit distance takes quadratic time


@dataclass(frozen=True)
class Verdict:
    """The result of applying a policy to a comment.

    Attributes:
        label: the label of the first rule that was met, else the nearest one; empty if the language of the
            comment is not scored.
    """

    outcome: Submission.Outcome
    rule: PolicyRule | None
    label: str
    reasons: list[dict[str, str | float]]


@dataclass(frozen=True)
class Ranking:
    """An item's queue and priority, with the parts of the priority. The names are those of `QueueItem`."""

    queue: Queue
    severity: float
    uncertainty: float
    author_risk: float
    priority: float
    due_at: datetime


def apply_policy(*, probabilities: Mapping[str, float], policy: Policy, is_scorable: bool = True) -> Verdict:
    """Return the policy's verdict. Rejection takes precedence over review, and review over approval.

    Args:
        is_scorable: False if the comment is in a language that the model does not score.
    """
    if policy.review_other_languages and not is_scorable:
        reason: dict[str, str | float] = {
            "label": "",
            "title": "Language",
            "reason": "The model does not score comments in this language.",
            "probability": 0.0,
            "threshold": 0.0,
        }
        return Verdict(Submission.Outcome.HUMAN_REVIEW, None, "", [reason])
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
    label = nearest_label(probabilities, policy)
    return Verdict(Submission.Outcome.APPROVE, None, label, [])


def nearest_label(probabilities: Mapping[str, float], policy: Policy) -> str:
    """Return the label with the highest ratio of probability to its lowest threshold."""
    thresholds = {
        rule.label: threshold
        for rule in policy.rules.all()
        if (threshold := rule.reject_from if rule.review_from is None else rule.review_from) is not None
    }
    return max(probabilities, key=lambda label: probabilities[label] / max(thresholds.get(label, 1.0), 1e-6))


def rank(
    *,
    probabilities: Mapping[str, float],
    policy: Policy,
    kind: QueueItem.Kind,
    strikes: int = 0,
    now: datetime,
    escalated: bool = False,
) -> Ranking:
    """Return the queue, priority and deadline of an item.

    Severity is the highest product of a label's probability and its LABEL_SEVERITY. Uncertainty decreases
    linearly from 1 at a threshold to 0 at a distance of 0.25. The priority is the score minus the days from a
    fixed epoch to the item's creation, so a day of waiting counts as much as a severity of 1, without updates
    of the row.
    """
    severity = max(LABEL_SEVERITY[label] * probability for label, probability in probabilities.items())
    thresholds = [
        (rule.label, threshold)
        for rule in policy.rules.all()
        for threshold in (rule.reject_from, rule.review_from)
        if rule.label and threshold is not None
    ]
    distances = (abs(probabilities[label] - threshold) for label, threshold in thresholds)
    uncertainty = max(0.0, 1 - min(distances, default=1.0) / _UNCERTAIN_DISTANCE)
    author_risk = min(strikes / _STRIKES_FOR_FULL_RISK, 1.0)
    if escalated:
        queue = Queue.ESCALATED
    elif kind in _KINDS_WITH_QUEUE:
        queue = Queue(kind.value)
    elif severity >= MIN_SEVERE:
        queue = Queue.URGENT
    else:
        queue = Queue.UNCERTAIN if uncertainty >= _MIN_UNCERTAIN else Queue.NORMAL
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


def minhash(normalised: str) -> tuple[int, int]:
    """Return two minimum hashes of the set of pairs of consecutive words.

    If the sets of two texts have a Jaccard similarity of J, at least one hash is equal with probability
    1 - (1 - J)² (Broder 1997), so an index on each finds nearly all near-duplicates.
    """
    first, second = _minimum_hashes(normalised, 2)
    return first, second


def _minimum_hashes(normalised: str, count: int) -> list[int]:
    words = normalised.split()
    pairs = {f"{word} {following}" for word, following in pairwise(words)} or {normalised}
    digests = b"".join(
        blake2b(pair.encode("utf-8", "surrogatepass"), digest_size=4 * count).digest() for pair in pairs
    )
    # Each four bytes of a digest are an independent hash.
    hashes: list[int] = np.frombuffer(digests, np.dtype("<u4")).reshape(-1, count).min(axis=0).tolist()
    return hashes


def near_duplicate_keys(normalised: str) -> set[int]:
    """Return keys of a text, of which near-duplicates have one in common.

    Words with digits count as equal. Two texts of at most 24 words have a key in common if they differ in
    one place only: by one word from four words on, by two words from six on. For longer texts the keys are
    four hashes of three minimum hashes each: two texts whose sets of pairs of words have a Jaccard similarity
    of J have one in common with probability 1 - (1 - J³)⁴ (Broder 1997), 99% for 0.9 and 3% for 0.2.

    The keys differ between processes.
    """
    text = _WORD_WITH_DIGIT.sub("0", normalised)
    words = tuple(word for word, _ in groupby(text.split()))
    count = len(words)
    if count > _MAX_SHORT:
        hashes = _minimum_hashes(" ".join(words), 12)
        return {hash((k, *hashes[k : k + 3])) for k in range(0, 12, 3)}
    return {
        hash((words[:start], words[start + gap :]))
        for gap in range(3)
        if gap == 0 or count >= 2 * gap + 2
        for start in range(count - gap + 1)
    }


def most_similar(normalised: str, texts: Mapping[int, str]) -> int | None:
    """Return the key of the text with the highest edit similarity, or None if none reaches 90%."""
    candidates = {key: text[:_MAX_COMPARED] for key, text in texts.items()}
    match = process.extractOne(
        normalised[:_MAX_COMPARED], candidates, scorer=fuzz.ratio, score_cutoff=_MIN_SIMILARITY
    )
    return None if match is None else match[2]
