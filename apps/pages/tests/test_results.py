"""Tests of `results`."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.classifier.artifact import Artifact
from apps.classifier.labels import LABELS
from apps.classifier.scorer import Scorer
from apps.core.text import percent
from apps.moderation.models import Policy
from apps.pages import results
from apps.registry.actions import BASE_MODEL


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    """The base model."""
    return Scorer.load(Artifact.read(BASE_MODEL))


def _probabilities(**changed: float) -> dict[str, float]:
    return dict.fromkeys(LABELS, 0.02) | changed


@given(text=st.text(st.characters(), max_size=300))
def test_split_into_segments_keeps_the_text(scorer: Scorer, text: str) -> None:
    segments = results.split_into_segments(text, scorer.explain(text), [False] * 6)
    assert "".join(segment.text for segment in segments) == text
    assert all(segment.factors for segment in segments if segment.level)


def test_split_into_segments_highlights_terms_by_strength(scorer: Scorer) -> None:
    text = "You are a stupid idiot, thanks."
    segments = results.split_into_segments(text, scorer.explain(text), [True, *[False] * 5])
    levels = {segment.text: segment.level for segment in segments}
    assert levels["stupid"] >= 3
    assert levels["idiot"] >= 3
    assert "thanks" not in levels or levels["thanks"] < 1


def test_split_into_segments_limits_highlights_of_a_long_comment(scorer: Scorer) -> None:
    text = " ".join(f"stupid idiot {number}" for number in range(1_000))
    segments = results.split_into_segments(text, scorer.explain(text), [True, *[False] * 5])
    assert 0 < sum(segment.level != 0 for segment in segments) <= results.MAX_HIGHLIGHTS


@pytest.mark.parametrize(
    ("probability", "words"),
    [
        (0.0, "under 1%"),
        (0.009, "under 1%"),
        (0.01, "1%"),
        (0.634, "63%"),
        (0.99, "99%"),
        (0.999, "over 99%"),
    ],
)
def test_percent_never_claims_certainty(probability: float, words: str) -> None:
    assert percent(probability) == words


@pytest.mark.parametrize(
    ("value", "effect"),
    [
        (1396.0, "strongly raised"),
        (5.0, "strongly raised"),
        (2.1, "clearly raised"),
        (1.3, "slightly raised"),
        (0.7, "slightly lowered"),
        (0.4, "clearly lowered"),
        (0.01, "strongly lowered"),
    ],
)
def test_factor_effect_in_words(value: float, effect: str) -> None:
    assert results.Factor("toxic", value).effect == effect


def test_build_verdict_names_each_label_over_its_threshold(policy: Policy) -> None:
    verdict = results.build_verdict(_probabilities(insult=0.82, toxic=0.75), policy)
    assert verdict.state == "review"
    assert verdict.title == "Would be held for review"
    assert verdict.explanation == "Insult: 82% (threshold 60%), Toxic: 75% (threshold 60%)"
    assert verdict.policy == "default"


def test_build_verdict_approves_below_every_threshold(policy: Policy) -> None:
    verdict = results.build_verdict(_probabilities(insult=0.5), policy)
    assert verdict.state == "approve"
    assert verdict.explanation == "No label reaches its threshold. Closest to it: Insult, 50%"


def test_build_verdict_rejects_over_the_removal_threshold(policy: Policy) -> None:
    verdict = results.build_verdict(_probabilities(threat=0.97), policy)
    assert verdict.state == "reject"
    assert verdict.explanation == "Threat: 97% (threshold 95%)"


def test_build_verdict_for_a_language_that_the_model_does_not_score(policy: Policy) -> None:
    policy.review_other_languages = True
    verdict = results.build_verdict(_probabilities(threat=0.97), policy, is_scorable=False)
    assert verdict.state == "review"
    assert verdict.explanation == "The model does not score comments in this language."


def test_label_bars_without_a_policy_use_the_models_thresholds() -> None:
    shown = results.label_bars(_probabilities(toxic=0.6), None, [0.5] * 6)
    assert [bar.review_from for bar in shown] == [0.5] * 6
    assert [bar.state for bar in shown] == ["review", *["approve"] * 5]


def test_factors_do_not_overflow() -> None:
    factors = results._factors(np.array([900.0, -900.0, 0, 0, 0, 0]))
    assert [factor.effect for factor in factors] == ["strongly raised", "strongly lowered"]


def test_split_into_segments_sums_the_occurrences_of_a_term(scorer: Scorer) -> None:
    text = "idiot, I say, Idiot"
    explanation = scorer.explain(text)
    first, second = (
        segment
        for segment in results.split_into_segments(text, explanation, [True, *[False] * 5])
        if segment.level and segment.text.casefold() == "idiot"
    )
    contributions = [
        span.contributions[0]
        for span in explanation.spans
        if text[span.begin : span.end] in ("idiot", "Idiot")
    ]
    assert first.count == second.count == 2
    assert first.factors == second.factors
    assert np.log(next(factor.value for factor in first.factors if factor.name == "toxic")) == pytest.approx(
        sum(contributions)
    )
