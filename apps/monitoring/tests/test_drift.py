import numpy as np
import pytest

from apps.monitoring import drift
from apps.monitoring.drift import Band, Estimate, Measure

SHARES = np.array([0.4, 0.2, 0.15, 0.1, 0.05, 0.04, 0.03, 0.02, 0.01])


def test_distances_have_textbook_values() -> None:
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
def test_classify_distance(measure: Measure, value: float, expected: Band) -> None:
    assert drift.classify_distance(measure, value) == expected


@pytest.mark.parametrize("measure", Measure)
def test_detect_shift_ignores_small_difference_in_large_sample(measure: Measure) -> None:
    slightly = SHARES + np.array([0.01, *[0] * 7, -0.005])
    shift = drift.detect_shift(SHARES * 1_000_000, slightly / slightly.sum() * 1_000_000, measure)
    assert shift is not None
    assert not shift.is_significant
    assert shift.band == Band.STABLE
    assert shift.estimate.low > 0  # statistically significant


@pytest.mark.parametrize("measure", Measure)
def test_detect_shift_finds_large_difference_in_small_sample(measure: Measure) -> None:
    shift = drift.detect_shift(SHARES * 5_000, SHARES[::-1] * 1_000, measure)
    assert shift is not None
    assert shift.is_significant
    assert shift.band == Band.MAJOR


def test_detect_shift_needs_enough_comments() -> None:
    assert drift.detect_shift(SHARES * 5_000, SHARES[::-1] * 40) is None
    assert drift.detect_shift(SHARES * 5_000, np.zeros(9)) is None


@pytest.mark.parametrize("count", [50, 200, 5_000])
def test_detect_shift_has_few_false_positives(count: int) -> None:
    rng = np.random.default_rng(count)
    shifts = [drift.detect_shift(SHARES * 5_000, rng.multinomial(count, SHARES)) for _ in range(200)]
    assert sum(shift is not None and shift.is_significant for shift in shifts) <= 1


def test_detect_shift_interval_has_nominal_coverage() -> None:
    rng = np.random.default_rng(0)
    other = np.array([0.3, 0.2, 0.2, 0.1, 0.08, 0.05, 0.03, 0.02, 0.02])
    truth = np.sum((other - SHARES) * np.log(other / SHARES))
    shifts = [
        drift.detect_shift(rng.multinomial(5_000, SHARES), rng.multinomial(800, other)) for _ in range(200)
    ]
    covered = sum(
        shift is not None and shift.estimate.low <= truth <= shift.estimate.high for shift in shifts
    )
    assert covered >= 180
    mean = np.mean([shift.estimate.value for shift in shifts if shift])
    assert mean == pytest.approx(truth, rel=0.1)  # the bias is corrected


def test_detect_shift_widens_interval_for_overdispersed_traffic() -> None:
    rng = np.random.default_rng(0)
    hours = np.array([rng.multinomial(400, rng.dirichlet(SHARES * 40)) for _ in range(60)])
    assert drift.dispersion(hours) > 5
    assert drift.dispersion(rng.multinomial(400, SHARES, 60)) < 1.2
    bursty = drift.detect_shift(hours[:58], hours[58:])
    calm = drift.detect_shift(rng.multinomial(400, SHARES, 58), hours[58:])
    assert bursty is not None
    assert calm is not None
    assert bursty.estimate.high - bursty.estimate.low > calm.estimate.high - calm.estimate.low


WEEKS = np.arange(24 * 28)  # hours of four weeks, from Monday


def _weeks(rng: np.random.Generator, comments: int, burst: int = 1) -> np.ndarray:
    """Return (hours, 2) hits and comments of four weeks: 10%, at night 15%, on Sundays half more."""
    rate = np.where(WEEKS % 24 < 8, 0.15, 0.1) * np.where(WEEKS % 168 >= 144, 1.5, 1)
    return np.column_stack(
        [burst * rng.poisson(comments * rate / burst), np.full(len(WEEKS), comments)]
    ).astype(float)


def test_fit_weekly_profile_separates_pattern_from_noise() -> None:
    profile = drift.fit_weekly_profile(_weeks(np.random.default_rng(0), 1_000), WEEKS % 168)
    assert profile is not None
    hours = np.array([3, 12, 147, 156])  # Monday and Sunday, night and noon
    assert profile.expected_rates(hours) == pytest.approx([0.15, 0.1, 0.225, 0.15], rel=0.05)
    assert profile.dispersion == pytest.approx(1, abs=0.15)
    burst = drift.fit_weekly_profile(_weeks(np.random.default_rng(0), 1_000, burst=4), WEEKS % 168)
    assert burst is not None
    assert burst.dispersion == pytest.approx(4 / 0.88, rel=0.2)  # the variance is binomial, not Poisson
    assert drift.fit_weekly_profile(np.ones((20, 2)), np.arange(20)) is None


def test_rate_ratio_interval_depends_on_dispersion() -> None:
    calm, bursty = (
        drift.fit_weekly_profile(_weeks(np.random.default_rng(0), 1_000, burst), WEEKS % 168)
        for burst in (1, 4)
    )
    assert calm is not None
    assert bursty is not None
    twice, noon = np.array([[200.0, 1_000.0]]), np.array([12])
    narrow, wide = drift.rate_ratio(calm, twice, noon), drift.rate_ratio(bursty, twice, noon)
    assert narrow is not None
    assert wide is not None
    assert narrow.value == pytest.approx(2.0, rel=0.05)
    assert 1.5 < narrow.low < 2 < narrow.high < 2.6
    assert wide.low < narrow.low < narrow.high < wide.high
    night = drift.rate_ratio(calm, np.array([[150.0, 1_000.0]]), np.array([3]))
    assert night is not None
    assert night.value == pytest.approx(1.0, rel=0.05)
    assert drift.rate_ratio(calm, np.array([[0.0, 0.0]]), noon) is None
    assert drift.rate_ratio(calm, np.array([[9.0, 30.0]]), noon) is None  # three hits are expected
    assert drift.fold_change(Estimate(0.5, 0.4, 0.8)) == Estimate(2.0, 1.25, 2.5)
    assert drift.fold_change(Estimate(0.9, 0.6, 1.2)).low == 1.0


def test_rate_ratio_has_few_false_positives() -> None:
    rng = np.random.default_rng(0)
    profile = drift.fit_weekly_profile(_weeks(rng, 300, burst=2), WEEKS % 168)
    assert profile is not None
    ratios = [
        drift.rate_ratio(profile, hour[None], when[None] % 168)
        for month in range(5)
        for hour, when in zip(_weeks(rng, 300, burst=2), WEEKS, strict=True)
    ]
    assert sum(ratio is not None and not ratio.low <= 1 <= ratio.high for ratio in ratios) <= 10  # of 3,360
