"""A scored comment as a page shows it: verdict, one bar per label, and the comment with highlighted terms."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from apps.classifier.labels import LABELS
from apps.classifier.scorer import Explanation
from apps.core.text import percent
from apps.moderation.models import Policy, Submission
from apps.moderation.triage import apply_policy
from apps.registry.serving import LoadedModel

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
    "identity_hate": "attacks people for who they are",
}
MAX_HIGHLIGHTS = 40
MAX_TERMS = 6
MIN_CONTRIBUTION = math.log(1.25)  # to a label's logit; a smaller effect is not listed
MIN_RELATIVE_STRENGTH = 0.2  # of the strongest term's contribution; a weaker term is not highlighted
CLEAR_FACTOR, STRONG_FACTOR = 2.0, 5.0  # factors of the odds from which an effect is “clear” or “strong”
HIGHLIGHT_LEVELS = [math.log(factor) for factor in (1.5, 2.5, 5, 12)]  # contributions at levels 1 to 4

VERDICTS = {
    Submission.Outcome.APPROVE: ("approve", "Would be published"),
    Submission.Outcome.HUMAN_REVIEW: ("review", "Would be held for review"),
    Submission.Outcome.REJECT: ("reject", "Would be removed"),
}


@dataclass(frozen=True)
class LabelBar:
    """A label's probability, and the policy's thresholds for review and removal; all from 0 to 1."""

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
    def thresholds(self) -> str:
        """The thresholds in words: `review from 20%, removal from 95%`."""
        thresholds = (("review", self.review_from), ("removal", self.reject_from))
        return ", ".join(
            f"{action} from {exact_percent(threshold)}"
            for action, threshold in thresholds
            if threshold is not None
        )

    @property
    def state(self) -> str:
        """`reject`, `review` or `approve`: the policy's outcome for this label alone."""
        if self.probability is None:
            return "approve"
        if self.reject_from is not None and self.probability >= self.reject_from:
            return "reject"
        needs_review = self.review_from is not None and self.probability >= self.review_from
        return "review" if needs_review else "approve"


@dataclass(frozen=True)
class Factor:
    """The factor by which a term multiplies the odds of a label."""

    name: str
    value: float

    @property
    def effect(self) -> str:
        """The effect in words: `strongly raised`, `slightly lowered`.

        The number is never shown: beside a word that names a group, it could pass for a fact about the group.
        """
        is_raising = self.value >= 1
        factor = self.value if is_raising else 1 / self.value
        strength = "slightly"
        if factor >= STRONG_FACTOR:
            strength = "strongly"
        elif factor >= CLEAR_FACTOR:
            strength = "clearly"
        return f"{strength} {'raised' if is_raising else 'lowered'}"


@dataclass(frozen=True)
class Segment:
    """A segment of the comment.

    Attributes:
        level: 0 is not highlighted, 1 to 4 raises the score of a label, -1 lowers it.
        count: occurrences of the term in the comment. `factors` are those of all occurrences together.
    """

    text: str
    level: int = 0
    count: int = 1
    factors: tuple[Factor, ...] = ()

    @property
    def strength(self) -> float:
        """The largest factor."""
        return max(factor.value for factor in self.factors)


@dataclass(frozen=True)
class Verdict:
    """The policy's outcome for the comment: `state` as in `LabelBar`, and texts for the page."""

    state: str
    title: str
    explanation: str
    policy: str


@dataclass(frozen=True)
class Result:
    """What a page shows of a scored comment. `segments` is empty if the text is not shown."""

    verdict: Verdict | None
    bars: list[LabelBar]
    segments: list[Segment]
    top_terms: list[Segment]
    model_version: int | None = None

    @property
    def highest(self) -> LabelBar | None:
        """The bar with the highest probability, or None if no comment was scored."""
        scored = [bar for bar in self.bars if bar.probability is not None]
        return max(scored, key=lambda bar: bar.probability or 0.0, default=None)


def exact_percent(fraction: float) -> str:
    """Return a fraction that is exact, such as a threshold, in percent."""
    return f"{100 * fraction:.3g}%"


def label_bars(
    probabilities: Mapping[str, float] | None, policy: Policy | None, thresholds: Sequence[float]
) -> list[LabelBar]:
    """Return one bar per label.

    Args:
        probabilities: by label; None for bars without a score.
        thresholds: the model's, by label in the order of `LABELS`; used for review if there is no policy.
    """
    rules = {rule.label: rule for rule in policy.rules.all()} if policy else {}
    return [
        LabelBar(
            label,
            probabilities[label] if probabilities else None,
            (rules[label].review_from if label in rules else None) if policy else threshold,
            rules[label].reject_from if label in rules else None,
        )
        for label, threshold in zip(LABELS, thresholds, strict=True)
    ]


def build_verdict(probabilities: Mapping[str, float], policy: Policy, *, is_scorable: bool = True) -> Verdict:
    """Return the policy's outcome, and the probabilities and thresholds that led to it.

    Args:
        is_scorable: see `apply_policy`.
    """
    outcome = apply_policy(probabilities=probabilities, policy=policy, is_scorable=is_scorable)
    state, title = VERDICTS[outcome.outcome]
    if policy.review_other_languages and not is_scorable:
        explanation = str(outcome.reasons[0]["reason"])
    elif outcome.reasons:
        explanation = ", ".join(
            f"{NAMES[str(reason['label'])]}: {percent(float(reason['probability']))} "
            f"(threshold {exact_percent(float(reason['threshold']))})"
            for reason in outcome.reasons
        )
    else:
        closest = f"{NAMES[outcome.label]}, {percent(probabilities[outcome.label])}"
        explanation = f"No label reaches its threshold. Closest to it: {closest}"
    return Verdict(state, title, explanation, policy.community or "default")


def split_into_segments(text: str, explanation: Explanation, flagged: Sequence[bool]) -> list[Segment]:
    """Split a comment into segments whose texts joined are the comment.

    Args:
        flagged: (6,), whether each label is flagged. Terms are highlighted for their contribution to the
            flagged labels, or to the most likely label if none is flagged.
    """
    labels = np.flatnonzero(flagged) if any(flagged) else np.array([explanation.logits.argmax()])
    spans = explanation.spans
    terms = [text[span.begin : span.end].casefold() for span in spans]
    totals: dict[str, np.ndarray] = {}
    for term, span in zip(terms, spans, strict=True):
        totals[term] = totals.get(term, 0) + span.contributions
    counts = Counter(terms)
    strengths = np.array([totals[term][labels].max() for term in terms])
    minimum = max(HIGHLIGHT_LEVELS[0], MIN_RELATIVE_STRENGTH * float(strengths.max(initial=0)))
    strongest = set(np.argsort(-np.abs(strengths), kind="stable")[:MAX_HIGHLIGHTS].tolist())
    segments: list[Segment] = []
    end = 0
    for index, (term, span) in enumerate(zip(terms, spans, strict=True)):
        level = _highlight_level(float(strengths[index]), minimum) if index in strongest else 0
        if level:
            if end < span.begin:
                segments.append(Segment(text[end : span.begin]))
            factors = _factors(totals[term])
            segments.append(Segment(text[span.begin : span.end], level, counts[term], factors))
            end = span.end
    if end < len(text):
        segments.append(Segment(text[end:]))
    return segments


def _highlight_level(strength: float, minimum: float) -> int:
    if strength <= -HIGHLIGHT_LEVELS[1]:
        return -1
    return sum(strength >= level for level in HIGHLIGHT_LEVELS) if strength >= minimum else 0


def _factors(contributions: np.ndarray) -> tuple[Factor, ...]:
    return tuple(
        Factor(NAMES[LABELS[column]].lower(), math.exp(np.clip(contributions[column], -20, 20)))
        for column in np.argsort(-np.abs(contributions), kind="stable")
        if abs(contributions[column]) >= MIN_CONTRIBUTION
    )


def build_result(
    *,
    probabilities: Mapping[str, float],
    model: LoadedModel,
    policy: Policy | None,
    text: str | None = None,
    model_version: int | None = None,
) -> Result:
    """Return what a page shows of a scored comment.

    Args:
        model: the version that scored the comment, or another one, which does not explain the scores.
        text: the comment, if it was saved.
        model_version: number of the version that scored it; by default that of `model`.
    """
    model_version = model_version or model.number
    scorer = model.scorer
    bars = label_bars(probabilities, policy, scorer.thresholds.tolist())
    flagged = [bar.state != "approve" for bar in bars]
    is_explained = model.number == model_version
    segments = split_into_segments(text, scorer.explain(text), flagged) if text and is_explained else []
    raising = sorted(
        (segment for segment in segments if segment.level > 0), key=lambda segment: segment.strength
    )
    # In rising order, so that the strongest occurrence of each term remains.
    terms = {segment.text.casefold(): segment for segment in raising}
    return Result(
        verdict=build_verdict(probabilities, policy, is_scorable=not text or scorer.can_score(text))
        if policy
        else None,
        bars=bars,
        segments=segments,
        top_terms=list(reversed(terms.values()))[:MAX_TERMS],
        model_version=model_version,
    )
