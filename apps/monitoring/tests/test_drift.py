"""Distances and their intervals: right on known cases, calm on large samples, and unmoved by rhythm."""

import numpy as np
import pytest

from apps.monitoring import domain_classifier, drift
from apps.monitoring.drift import Band, Estimate, Measure

SHARES = np.array([0.4, 0.2, 0.15, 0.1, 0.05, 0.04, 0.03, 0.02, 0.01])


def test_the_distances_have_their_textbook_values() -> None:
    reference, current = np.array([500_000, 500_000]), np.array([600_000, 400_000])
    expected = 0.1 * np.log(0.6 / 0.5) - 0.1 * np.log(0.4 / 0.5)
    assert drift.population_stability_index(reference, current) == pytest.approx(expected, rel=1e-4)
    apart = drift.jensen_shannon_distance(np.array([10**9, 0]), np.array([0, 10**9]))
    assert apart == pytest.approx(1.0, abs=1e-4)
    rows = np.stack([reference, current])
    assert drift.jensen_shannon_distance(reference, rows)[0] == pytest.approx(0.0, abs=1e-7)


@pytest.mark.parametrize(
    ("measure", "value", "expected"),
    [
        (Measure.PSI, 0.09, Band.STABLE),
        (Measure.PSI, 0.1, Band.MODERATE),
        (Measure.PSI, 0.25, Band.MAJOR),
        (Measure.JENSEN_SHANNON, 0.15, Band.MODERATE),
        (Measure.JENSEN_SHANNON, 0.2, Band.MAJOR),
    ],
)
def test_the_bands_are_the_usual_ones(measure: Measure, value: float, expected: Band) -> None:
    assert drift.classify_distance(measure, value) == expected


@pytest.mark.parametrize("measure", Measure)
def test_a_million_comments_do_not_make_a_small_difference_a_shift(measure: Measure) -> None:
    slightly = SHARES + np.array([0.01, *[0] * 7, -0.005])
    found = drift.detect_shift(SHARES * 1_000_000, slightly / slightly.sum() * 1_000_000, measure)
    assert found is not None
    assert not found.is_significant
    assert found.band == Band.STABLE
    assert found.estimate.low > 0  # significant all the same


@pytest.mark.parametrize("measure", Measure)
def test_a_large_difference_is_a_shift_with_a_thousand_comments(measure: Measure) -> None:
    found = drift.detect_shift(SHARES * 5_000, SHARES[::-1] * 1_000, measure)
    assert found is not None
    assert found.is_significant
    assert found.band == Band.MAJOR


def test_too_few_comments_prove_nothing() -> None:
    assert drift.detect_shift(SHARES * 5_000, SHARES[::-1] * 40) is None
    assert drift.detect_shift(SHARES * 5_000, np.zeros(9)) is None


@pytest.mark.parametrize("count", [50, 200, 5_000])
def test_chance_is_hardly_ever_taken_for_a_shift(count: int) -> None:
    rng = np.random.default_rng(count)
    found = [drift.detect_shift(SHARES * 5_000, rng.multinomial(count, SHARES)) for _ in range(200)]
    assert sum(one is not None and one.is_significant for one in found) <= 1


def test_the_interval_holds_the_true_distance_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    other = np.array([0.3, 0.2, 0.2, 0.1, 0.08, 0.05, 0.03, 0.02, 0.02])
    truth = np.sum((other - SHARES) * np.log(other / SHARES))
    found = [
        drift.detect_shift(rng.multinomial(5_000, SHARES), rng.multinomial(800, other)) for _ in range(200)
    ]
    held = sum(one is not None and one.estimate.low <= truth <= one.estimate.high for one in found)
    assert held >= 180
    mean = np.mean([one.estimate.value for one in found if one])
    assert mean == pytest.approx(truth, rel=0.1)  # what chance adds is taken away


def test_traffic_that_varies_by_itself_widens_the_interval() -> None:
    rng = np.random.default_rng(0)
    hours = np.array([rng.multinomial(400, rng.dirichlet(SHARES * 40)) for _ in range(60)])
    assert drift.dispersion(hours) > 5
    assert drift.dispersion(rng.multinomial(400, SHARES, 60)) < 1.2
    restless = drift.detect_shift(hours[:58], hours[58:])
    calm = drift.detect_shift(rng.multinomial(400, SHARES, 58), hours[58:])
    assert restless is not None
    assert calm is not None
    assert restless.estimate.high - restless.estimate.low > calm.estimate.high - calm.estimate.low


WEEKS = np.arange(24 * 28)  # from a Monday on


def _weeks(rng: np.random.Generator, comments: int, burst: int = 1) -> np.ndarray:
    """(hours, 2) hits and comments of four weeks with a rhythm: 10 %, at night 15 %, on Sundays half more."""
    rate = np.where(WEEKS % 24 < 8, 0.15, 0.1) * np.where(WEEKS % 168 >= 144, 1.5, 1)
    return np.column_stack(
        [burst * rng.poisson(comments * rate / burst), np.full(len(WEEKS), comments)]
    ).astype(float)


def test_a_rhythm_is_learned_and_is_no_noise() -> None:
    found = drift.fit_weekly_profile(_weeks(np.random.default_rng(0), 1_000), WEEKS % 168)
    assert found is not None
    at = np.array([3, 12, 147, 156])  # Monday and Sunday, night and noon
    assert found.expected_rates(at) == pytest.approx([0.15, 0.1, 0.225, 0.15], rel=0.05)
    assert found.dispersion == pytest.approx(1, abs=0.15)
    burst = drift.fit_weekly_profile(_weeks(np.random.default_rng(0), 1_000, burst=4), WEEKS % 168)
    assert burst is not None
    assert burst.dispersion == pytest.approx(4 / 0.88, rel=0.2)  # a binomial varies less than Poisson's
    assert drift.fit_weekly_profile(np.ones((20, 2)), np.arange(20)) is None


def test_a_rates_change_is_a_ratio_with_an_interval_that_knows_bursts() -> None:
    calm, restless = (
        drift.fit_weekly_profile(_weeks(np.random.default_rng(0), 1_000, burst), WEEKS % 168)
        for burst in (1, 4)
    )
    assert calm is not None
    assert restless is not None
    twice, noon = np.array([[200.0, 1_000.0]]), np.array([12])
    sure, unsure = drift.rate_ratio(calm, twice, noon), drift.rate_ratio(restless, twice, noon)
    assert sure is not None
    assert unsure is not None
    assert sure.value == pytest.approx(2.0, rel=0.05)
    assert 1.5 < sure.low < 2 < sure.high < 2.6
    assert unsure.low < sure.low < sure.high < unsure.high
    night = drift.rate_ratio(calm, np.array([[150.0, 1_000.0]]), np.array([3]))
    assert night is not None
    assert night.value == pytest.approx(1.0, rel=0.05)
    assert drift.rate_ratio(calm, np.array([[0.0, 0.0]]), noon) is None
    assert drift.rate_ratio(calm, np.array([[9.0, 30.0]]), noon) is None  # three were to be expected
    assert drift.fold_change(Estimate(0.5, 0.4, 0.8)) == Estimate(2.0, 1.25, 2.5)
    assert drift.fold_change(Estimate(0.9, 0.6, 1.2)).low == 1.0


def test_a_months_looks_at_a_calm_rate_hardly_ever_find_a_change() -> None:
    rng = np.random.default_rng(0)
    usual = drift.fit_weekly_profile(_weeks(rng, 300, burst=2), WEEKS % 168)
    assert usual is not None
    looks = [
        drift.rate_ratio(usual, hour[None], when[None] % 168)
        for month in range(5)
        for hour, when in zip(_weeks(rng, 300, burst=2), WEEKS, strict=True)
    ]
    assert sum(look is not None and not look.low <= 1 <= look.high for look in looks) <= 10  # of 3,360


def _talk(seed: int, count: int, *, slang: float = 0.0) -> list[str]:
    rng = np.random.default_rng(seed)
    words = [f"word{k}" for k in range(200)]
    weights = 1 / np.arange(1, 201)
    texts = []
    for _ in range(count):
        said = list(rng.choice(words, 12, p=weights / weights.sum()))
        if rng.random() < slang:
            said.insert(int(rng.integers(12)), "rizzler")
        texts.append(" ".join(said))
    return texts


def test_the_domain_classifier_finds_what_changed_and_nothing_where_nothing_did() -> None:
    alike = domain_classifier.compare_domains(_talk(1, 600), _talk(2, 600))
    assert alike is not None
    assert alike.auc.low < 0.5 < alike.auc.high
    changed = domain_classifier.compare_domains(_talk(1, 600), _talk(2, 600, slang=0.4))
    assert changed is not None
    assert changed.auc.low > 0.55
    first = changed.phrases[0]
    assert first.text == "rizzler"
    assert first.before == 0
    assert first.after == pytest.approx(0.4, abs=0.08)
    assert first.strength > 0
    assert domain_classifier.compare_domains(_talk(1, 49), _talk(2, 600)) is None


def test_texts_that_come_again_do_not_tell_the_samples_apart() -> None:
    same = domain_classifier.compare_domains(_talk(1, 300), _talk(1, 300))
    assert same is not None
    assert same.auc.value == pytest.approx(0.5, abs=0.03)


def test_a_word_that_few_comments_hold_is_not_named() -> None:
    after = [*_talk(2, 100), *["my phone is 5550100"] * 4]
    named = domain_classifier.changed_phrases(_talk(1, 100), after, limit=10_000)
    assert not any("5550100" in phrase.text for phrase in named)
