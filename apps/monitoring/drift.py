"""Statistics of drift: the distance between two samples of traffic, and the change of a rate.

Both take into account that traffic varies more from hour to hour than independent comments would. Alert
metrics and the dashboard call this module.
"""

from dataclasses import dataclass, replace
from enum import StrEnum
from statistics import NormalDist

import numpy as np

from apps.core.statistics import wilson

DRAWS = 200
MIN_BIN_FRACTION = 0.01  # of the reference, in each bin that is compared
MIN_SAMPLE = 50  # independent comments; smaller samples show a shift by chance too often
MIN_EXPECTED_HITS = 5  # among independent comments: the rule of Cochran, Biometrics 10, 1954
Z_999 = NormalDist().inv_cdf(0.9995)


class Measure(StrEnum):
    """A distance between two distributions; it is 0 if they are equal."""

    PSI = "psi"
    JENSEN_SHANNON = "jsd"


class Band(StrEnum):
    """The usual interpretation of a distance."""

    STABLE = "stable"
    MODERATE = "moderate shift"
    MAJOR = "major shift"


# PSI: Siddiqi, "Credit risk scorecards", 2006, after Lewis 1994. There is no convention for the
# Jensen-Shannon distance: monitoring tools commonly use 0.1, and 0.2 corresponds to a PSI of 0.22 for small
# shifts, for which PSI is 8 ln 2 times the squared distance.
BANDS = {Measure.PSI: (0.1, 0.25), Measure.JENSEN_SHANNON: (0.1, 0.2)}


@dataclass(frozen=True)
class Estimate:
    """A value with its confidence interval, 95% by default.

    Attributes:
        subjects: names of what the value counts, if it counts named things.
    """

    value: float
    low: float
    high: float
    subjects: tuple[str, ...] = ()


@dataclass(frozen=True)
class Shift:
    """A distance with its band. It is significant if its whole interval lies beyond the first band."""

    measure: Measure
    estimate: Estimate
    band: Band
    is_significant: bool


def _fractions(counts: np.ndarray) -> np.ndarray:
    """Return fractions along the last axis, with half a count added to each bin (Jeffreys' prior)."""
    smoothed = np.asarray(counts, float) + 0.5
    return smoothed / smoothed.sum(axis=-1, keepdims=True)


def population_stability_index(reference: np.ndarray, current: np.ndarray) -> np.ndarray:
    """Return the PSI along the last axis of two arrays of counts (..., bins).

    It is the sum of the two Kullback-Leibler divergences (Lewis, "An introduction to credit scoring", 1994).
    """
    p, q = _fractions(reference), _fractions(current)
    return np.sum((q - p) * np.log(q / p), axis=-1)


def jensen_shannon_distance(reference: np.ndarray, current: np.ndarray) -> np.ndarray:
    """Return the Jensen-Shannon distance, 0 to 1, along the last axis of two arrays of counts (..., bins).

    Source: Endres and Schindelin, "A new metric for probability distributions", 2003; logarithm to base 2.
    """
    from scipy.special import rel_entr  # only workers and the dashboard need SciPy

    p, q = _fractions(reference), _fractions(current)
    mixture = (p + q) / 2
    return np.sqrt(np.sum(rel_entr(p, mixture) + rel_entr(q, mixture), axis=-1) / (2 * np.log(2)))


_DISTANCES = {
    Measure.PSI: population_stability_index,
    Measure.JENSEN_SHANNON: jensen_shannon_distance,
}


def classify_distance(measure: Measure, value: float) -> Band:
    """Return the usual interpretation of a distance."""
    first, second = BANDS[measure]
    if value < first:
        return Band.STABLE
    return Band.MODERATE if value < second else Band.MAJOR


def dispersion(*samples: np.ndarray) -> float:
    """Return the variance between hours, relative to that of independent comments; at least 1.

    This is Pearson's statistic over its degrees of freedom (McCullagh and Nelder, "Generalized linear
    models", 1989, 4.5).

    Args:
        samples: arrays of counts (hours, bins). Samples of one hour have no influence.
    """
    statistic, freedom = 0.0, 0
    for counts in samples:
        counts = counts[counts.sum(axis=1) > 0]
        counts = counts[:, counts.sum(axis=0) > 0]
        expected = np.outer(counts.sum(axis=1), counts.sum(axis=0)) / max(counts.sum(), 1)
        statistic += float(np.sum((counts - expected) ** 2 / expected))
        freedom += (counts.shape[0] - 1) * (counts.shape[1] - 1) if counts.size else 0
    return max(1.0, statistic / freedom) if freedom > 0 else 1.0


def merge_sparse_bins(reference: np.ndarray, *samples: np.ndarray) -> list[np.ndarray]:
    """Merge neighbouring bins of samples (hours, bins) until each holds MIN_BIN_FRACTION of the reference."""
    totals = reference.sum(axis=0)
    minimum = MIN_BIN_FRACTION * totals.sum()
    starts, merged = [0], 0.0
    for index, count in enumerate(totals):
        if merged >= minimum and totals[index:].sum() >= minimum:
            starts.append(index)
            merged = 0.0
        merged += count
    return [np.add.reduceat(counts, starts, axis=1) for counts in (reference, *samples)]


def detect_shift(reference: np.ndarray, current: np.ndarray, measure: Measure = Measure.PSI) -> Shift | None:
    """Return the distance of `current` from `reference`, or None if one of the samples is too small.

    In large samples every difference is statistically significant, and most are too small to matter. The
    test therefore asks how large the distance is: a shift is significant if its whole 95% interval lies
    beyond the first band. The interval is that of the basic bootstrap (Davison and Hinkley, "Bootstrap
    methods and their application", 1997, 5.2), which also corrects the bias that chance adds to a distance.
    The bootstrap draws samples that are smaller than the originals by the factor `dispersion`.

    Args:
        reference: counts (hours, bins) or (bins,).
        current: counts (hours, bins) or (bins,), with the same bins.
        measure: the distance to compute.
    """
    reference, current = merge_sparse_bins(
        np.atleast_2d(np.asarray(reference, float)), np.atleast_2d(np.asarray(current, float))
    )
    before, after = reference.sum(axis=0), current.sum(axis=0)
    scale = dispersion(reference, current)
    if min(before.sum(), after.sum()) / scale < MIN_SAMPLE:
        return None
    rng = np.random.default_rng(0)
    distance = _DISTANCES[measure]
    value = float(distance(before / scale, after / scale))
    draws = distance(
        *(
            rng.multinomial(max(1, round(counts.sum() / scale)), counts / counts.sum(), DRAWS)
            for counts in (before, after)
        )
    )
    low, high = np.maximum(0.0, 2 * value - np.quantile(draws, [0.975, 0.025]))
    corrected = float(np.clip(2 * value - draws.mean(), 0.0, None))
    estimate = Estimate(corrected, float(low), float(high))
    return Shift(measure, estimate, classify_distance(measure, corrected), bool(low > BANDS[measure][0]))


@dataclass(frozen=True)
class WeeklyProfile:
    """The expected rate in each hour of the week, and how much hours vary around it.

    Attributes:
        by_hour: (24,) rate by hour of the day.
        by_day: (7,) factor by day of the week.
        comments: (24,) number of observed comments by hour of the day.
        dispersion: variance between hours, relative to that of independent comments.
    """

    by_hour: np.ndarray
    by_day: np.ndarray
    comments: np.ndarray
    dispersion: float

    def expected_rates(self, hours: np.ndarray) -> np.ndarray:
        """Return the expected rates in hours of the week, 0 to 167."""
        return np.clip(self.by_hour[hours % 24] * self.by_day[hours // 24], 1e-9, 1 - 1e-9)


def fit_weekly_profile(counts: np.ndarray, hours: np.ndarray) -> WeeklyProfile | None:
    """Fit the expected rate in each hour of the week; return None with too few hours.

    A rate is that of its hour of the day times a factor of its day: one step of iterative proportional
    fitting, which is exact for a history without gaps. The dispersion is computed around these rates, so that
    the weekly pattern does not count as noise.

    Args:
        counts: (hours, 2) hits and comments.
        hours: (hours,) hours of the week, 0 to 167.
    """
    observed = counts[:, 1] > 0
    (hits, comments), hours = counts[observed].T, hours[observed]
    hour, day = hours % 24, hours // 24
    freedom = len(hits) - len(np.unique(hour)) - len(np.unique(day)) + 1
    if freedom <= 0 or not hits.sum():
        return None
    overall_rate = hits.sum() / comments.sum()
    comments_by_hour = np.bincount(hour, comments, 24)
    by_hour = (np.bincount(hour, hits, 24) + overall_rate) / (comments_by_hour + 1)
    expected = comments * by_hour[hour]
    by_day = (np.bincount(day, hits, 7) + 0.5) / (np.bincount(day, expected, 7) + 0.5)
    profile = WeeklyProfile(by_hour, by_day, comments_by_hour, 1.0)
    rates = profile.expected_rates(hours)
    statistic = np.sum((hits - comments * rates) ** 2 / (comments * rates * (1 - rates)))
    return replace(profile, dispersion=max(1.0, float(statistic / freedom)))


def rate_ratio(profile: WeeklyProfile, counts: np.ndarray, hours: np.ndarray) -> Estimate | None:
    """Return the ratio of a rate to the rate that a weekly profile expects, with its 99.9% interval.

    The interval is Wilson's (1927) with the number of independent comments, which is quasi-binomial: the
    binomial variance times the dispersion. It is 99.9% and not 95% because alert rules are evaluated every
    few minutes: at 95%, one evaluation in forty would open a false alert.

    Args:
        profile: the expected rates.
        counts: (hours, 2) hits and comments.
        hours: (hours,) hours of the week, 0 to 167.

    Returns:
        None if fewer than MIN_EXPECTED_HITS hits are expected among the independent comments.
    """
    hits, comments = np.asarray(counts, float).sum(axis=0)
    known = profile.comments[np.unique(hours % 24)].sum()
    if not comments or not known:
        return None
    expected = float(profile.expected_rates(hours) @ counts[:, 1] / comments)
    independent = 1 / (1 / comments + 1 / known) / profile.dispersion
    if expected * independent < MIN_EXPECTED_HITS:
        return None
    rate = hits / comments
    low, high = wilson(rate * independent, independent, z=Z_999) or (0.0, 1.0)
    return Estimate(
        float(max(rate, 0.5 / comments) / expected), float(low / expected), float(high / expected)
    )


def fold_change(ratio: Estimate) -> Estimate:
    """Return a ratio or its reciprocal, whichever is at least 1; the interval starts at 1 or above."""
    if ratio.value >= 1:
        return Estimate(ratio.value, max(1.0, ratio.low), ratio.high)
    return Estimate(1 / ratio.value, max(1.0, 1 / ratio.high), 1 / max(ratio.low, 1e-9))
