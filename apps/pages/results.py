"""A scored comment as a page shows it: verdict in words, six bars, the comment with its telling words."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from apps.classifier.labels import LABELS
from apps.classifier.scorer import Explanation
from apps.moderation.models import Policy, Submission
from apps.moderation.triage import triage
from apps.registry.serving import Served

NAMES = {
    "toxic": "Toxic",
    "severe_toxic": "Severely toxic",
    "obscene": "Obscene",
    "threat": "Threat",
    "insult": "Insult",
    "identity_hate": "Identity hate",
}
MEANINGS = {
    "toxic": "rude enough to make people leave",
    "severe_toxic": "abuse so heavy that it drives people out",
    "obscene": "crude or sexual language",
    "threat": "announces or wishes harm",
    "insult": "aimed at a person or a group",
    "identity_hate": "attacks people for what they are",
}
MAX_MARKS = 40  # a long comment shows its most telling words, not thousands of marks
MAX_WORDS = 6
LEAST = math.log(1.25)  # of a contribution that is worth naming
FAINT = 0.2  # of the strongest word's strength: what is weaker is noise beside it
CLEAR, STRONG = 2.0, 5.0  # odds factors from which an effect is called so
LEVELS = [math.log(factor) for factor in (1.5, 2.5, 5, 12)]  # odds factors from which a mark is stronger

VERDICTS = {
    Submission.Outcome.APPROVE: ("stay", "Would stay"),
    Submission.Outcome.HUMAN_REVIEW: ("wait", "Would wait for a moderator"),
    Submission.Outcome.REJECT: ("go", "Would be removed"),
}


@dataclass(frozen=True)
class Bar:
    """One label: its probability, and the limits of the policy for a review and for removal, all 0 to 1."""

    label: str
    probability: float | None
    review_from: float | None
    reject_from: float | None

    @property
    def name(self) -> str:
        return NAMES[self.label]

    @property
    def meaning(self) -> str:
        return MEANINGS[self.label]

    @property
    def state(self) -> str:
        """`go`, `wait` or `stay`: what the policy makes of this label alone."""
        if self.probability is None:
            return "stay"
        if self.reject_from is not None and self.probability >= self.reject_from:
            return "go"
        return "wait" if self.review_from is not None and self.probability >= self.review_from else "stay"


@dataclass(frozen=True)
class Factor:
    """By how much a word multiplies (or, below 1, divides) the odds of a label."""

    name: str
    value: float

    @property
    def raises(self) -> bool:
        return self.value >= 1

    @property
    def effect(self) -> str:
        """The effect in words: `strongly raised`, `slightly lowered`.

        Never the number: beside a word that names a group it would read as a fact about that group.
        """
        times = self.value if self.raises else 1 / self.value
        strength = "strongly" if times >= STRONG else "clearly" if times >= CLEAR else "slightly"
        return f"{strength} {'raised' if self.raises else 'lowered'}"


@dataclass(frozen=True)
class Piece:
    """A piece of the comment. Level 0 is plain, 1 to 4 speak for a label, -1 against.

    A word that the comment has several times (`count`) has the factors of all its places together.
    """

    text: str
    level: int = 0
    count: int = 1
    factors: tuple[Factor, ...] = ()

    @property
    def strength(self) -> float:
        """The largest of its factors."""
        return max(factor.value for factor in self.factors)


@dataclass(frozen=True)
class Verdict:
    """What the policy would do, and why, in words."""

    state: str
    words: str
    because: str
    policy: str


@dataclass(frozen=True)
class Result:
    """Everything a page shows of a scored comment; the pieces are empty where there is no text to show."""

    verdict: Verdict | None
    bars: list[Bar]
    pieces: list[Piece]
    words: list[Piece]
    model_version: int | None = None

    @property
    def highest(self) -> Bar | None:
        """The label with the highest probability; None where nothing was scored."""
        scored = [bar for bar in self.bars if bar.probability is not None]
        return max(scored, key=lambda bar: bar.probability or 0.0, default=None)


def percent(probability: float) -> str:
    """Return a probability in words that never claim certainty: `under 1%`, `63%`, `over 99%`."""
    if probability < 0.01:
        return "under 1%"
    return "over 99%" if probability > 0.99 else f"{probability:.0%}"


def bars(
    probabilities: Mapping[str, float] | None, policy: Policy | None, thresholds: Sequence[float]
) -> list[Bar]:
    """Return six bars; without a policy the model's own thresholds are those for a moderator's look."""
    rules = {rule.label: rule for rule in policy.rules.all()} if policy else {}
    return [
        Bar(
            label,
            probabilities[label] if probabilities else None,
            (rules[label].review_from if label in rules else None) if policy else threshold,
            rules[label].reject_from if label in rules else None,
        )
        for label, threshold in zip(LABELS, thresholds, strict=True)
    ]


def verdict(probabilities: Mapping[str, float], policy: Policy) -> Verdict:
    """Return what the policy says, in a sentence that names the figures."""
    found = triage(probabilities=probabilities, policy=policy)
    state, words = VERDICTS[found.outcome]
    name = f"the {policy.community or 'default'} policy"
    if found.reasons:
        *others, last = [
            f"“{NAMES[str(reason['label'])].lower()}” is at {percent(float(reason['probability']))} "
            f"(threshold {100 * float(reason['threshold']):.3g}%)"
            for reason in found.reasons
        ]
        because = f"{', '.join(others)} and {last}" if others else last
    else:
        closest = NAMES[found.label].lower()
        because = (
            f"no label reaches its threshold. Closest is “{closest}” at {percent(probabilities[found.label])}"
        )
    return Verdict(state, words, because, name)


def pieces(text: str, explanation: Explanation, given: Sequence[bool]) -> list[Piece]:
    """Cut the comment into plain and telling pieces that together are the comment.

    Args:
        given: per label whether it counts as given; the words that tell of those labels are marked, or of the
            likeliest label where none is given.
    """
    focus = np.flatnonzero(given) if any(given) else np.array([explanation.logits.argmax()])
    spans = explanation.spans
    words = [text[span.begin : span.end].casefold() for span in spans]
    totals: dict[str, np.ndarray] = {}
    for word, span in zip(words, spans, strict=True):
        totals[word] = totals.get(word, 0) + span.contributions
    counts = Counter(words)
    strengths = np.array([totals[word][focus].max() for word in words])
    least = max(LEVELS[0], FAINT * float(strengths.max(initial=0)))
    telling = set(np.argsort(-np.abs(strengths), kind="stable")[:MAX_MARKS].tolist())
    found: list[Piece] = []
    end = 0
    for row, (word, span) in enumerate(zip(words, spans, strict=True)):
        level = _level(float(strengths[row]), least) if row in telling else 0
        if level:
            if end < span.begin:
                found.append(Piece(text[end : span.begin]))
            found.append(Piece(text[span.begin : span.end], level, counts[word], _factors(totals[word])))
            end = span.end
    if end < len(text):
        found.append(Piece(text[end:]))
    return found


def _level(strength: float, least: float) -> int:
    if strength <= -LEVELS[1]:
        return -1
    return sum(strength >= level for level in LEVELS) if strength >= least else 0


def _factors(contributions: np.ndarray) -> tuple[Factor, ...]:
    return tuple(
        Factor(NAMES[LABELS[column]].lower(), math.exp(np.clip(contributions[column], -20, 20)))
        for column in np.argsort(-np.abs(contributions), kind="stable")
        if abs(contributions[column]) >= LEAST
    )


def result(
    *,
    probabilities: Mapping[str, float],
    served: Served,
    policy: Policy | None,
    text: str | None = None,
    model_version: int | None = None,
) -> Result:
    """Return what a page shows.

    Args:
        text: the comment, where it may be shown; it is explained with the served model.
        model_version: the number of the version that scored it, by default the served one.
    """
    thresholds = served.scorer.thresholds.tolist()
    shown = bars(probabilities, policy, thresholds)
    given = [bar.state != "stay" for bar in shown]
    cut = pieces(text, served.scorer.explain(text), given) if text else []
    telling = sorted((piece for piece in cut if piece.level > 0), key=lambda piece: piece.strength)
    words = {piece.text.casefold(): piece for piece in telling}  # the strongest of each, in rising order
    return Result(
        verdict=verdict(probabilities, policy) if policy else None,
        bars=shown,
        pieces=cut,
        words=list(reversed(words.values()))[:MAX_WORDS],
        model_version=model_version or served.number,
    )
