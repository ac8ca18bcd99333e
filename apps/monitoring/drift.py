"""Drift: how far apart two samples of traffic are, whether by more than chance, and in which words.

Counts are histograms. A sample is `(hours, bins)`, one row per hour, or a single row: the rows tell how much
traffic varies by itself, from hour to hour, which is more than independent comments would.
"""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from scipy.spatial.distance import jensenshannon
from scipy.stats import norm

DRAWS = 200
LEAST_SHARE = 0.01  # of the reference, in each of the bins that are compared
LEAST_SAMPLE = 50  # independent comments: with fewer, chance alone looks like a shift too often
LEAST_HITS = 5  # expected, of independent comments: the rule of Cochran, Biometrics 10, 1954
LEAST_COMMENTS = 5  # an n-gram of fewer comments is nobody's trend, and might be somebody's name
Z = float(norm.ppf(0.975))


class Measure(StrEnum):
    """A distance of two distributions, 0 where they are equal."""

    PSI = "psi"
    JENSEN_SHANNON = "jsd"


class Band(StrEnum):
    """What a distance means by custom."""

    STABLE = "stable"
    MODERATE = "moderate shift"
    MAJOR = "major shift"


# PSI: Siddiqi, "Credit risk scorecards", 2006, after Lewis 1994. The Jensen-Shannon distance has no such
# tradition: 0.1 is the usual alarm of monitoring tools, and 0.2 is where a small shift has a PSI of 0.22,
# since for small shifts PSI is 8 ln 2 times the distance's square.
BANDS = {Measure.PSI: (0.1, 0.25), Measure.JENSEN_SHANNON: (0.1, 0.2)}


@dataclass(frozen=True)
class Estimate:
    """A figure and its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Shift:
    """A distance with its band; `is_real` says whether the whole interval lies beyond the first band."""

    measure: Measure
    estimate: Estimate
    band: Band
    is_real: bool


@dataclass(frozen=True)
class Phrase:
    """An n-gram, the share of comments that hold it before and after, and how sure the change is."""

    text: str
    before: float
    after: float
    strength: float


@dataclass(frozen=True)
class Domains:
    """How well a classifier tells two samples of texts apart: 0.5 not at all, 1 always."""

    auc: Estimate
    phrases: list[Phrase]


def _shares(counts: np.ndarray) -> np.ndarray:
    """Shares along the last axis, each bin half a count richer so that none is empty (Jeffreys' prior)."""
    filled = np.asarray(counts, float) + 0.5
    return filled / filled.sum(axis=-1, keepdims=True)


def population_stability_index(reference: np.ndarray, current: np.ndarray) -> np.ndarray:
    """PSI along the last axis of two arrays of counts (..., bins): the two Kullback-Leibler divergences' sum.

    Source: Lewis, "An introduction to credit scoring", 1994.
    """
    p, q = _shares(reference), _shares(current)
    return np.sum((q - p) * np.log(q / p), axis=-1)


def jensen_shannon_distance(reference: np.ndarray, current: np.ndarray) -> np.ndarray:
    """Jensen-Shannon distance, 0 to 1, along the last axis of two arrays of counts (..., bins).

    Source: Endres and Schindelin, "A new metric for probability distributions", 2003; logarithm to base 2.
    """
    p, q = np.broadcast_arrays(_shares(reference), _shares(current))
    return np.asarray(jensenshannon(p, q, base=2, axis=-1))


_DISTANCES = {
    Measure.PSI: population_stability_index,
    Measure.JENSEN_SHANNON: jensen_shannon_distance,
}


def band(measure: Measure, value: float) -> Band:
    """Return what a distance means by custom."""
    first, second = BANDS[measure]
    if value < first:
        return Band.STABLE
    return Band.MODERATE if value < second else Band.MAJOR


def dispersion(*samples: np.ndarray) -> float:
    """How many times wider counts vary between a sample's hours than independent comments would; at least 1.

    Pearson's statistic over its degrees of freedom (McCullagh and Nelder, "Generalized linear models", 1989,
    4.5), over all samples (hours, bins) that have several hours.
    """
    statistic, freedom = 0.0, 0
    for rows in samples:
        rows = rows[rows.sum(axis=1) > 0]
        rows = rows[:, rows.sum(axis=0) > 0]
        expected = np.outer(rows.sum(axis=1), rows.sum(axis=0)) / max(rows.sum(), 1)
        statistic += float(np.sum((rows - expected) ** 2 / expected))
        freedom += (rows.shape[0] - 1) * (rows.shape[1] - 1) if rows.size else 0
    return max(1.0, statistic / freedom) if freedom > 0 else 1.0


def merged(reference: np.ndarray, *others: np.ndarray) -> list[np.ndarray]:
    """The samples (hours, bins) with neighbouring bins joined until each holds enough of the reference."""
    totals = reference.sum(axis=0)
    least = LEAST_SHARE * totals.sum()
    starts, held = [0], 0.0
    for place, count in enumerate(totals):
        if held >= least and totals[place:].sum() >= least:
            starts.append(place)
            held = 0.0
        held += count
    return [np.add.reduceat(rows, starts, axis=1) for rows in (reference, *others)]


def shift(reference: np.ndarray, current: np.ndarray, measure: Measure = Measure.PSI) -> Shift | None:
    """How far `current` is from `reference`, both (hours, bins) or (bins,) counts; None if one is too small.

    With a million comments every difference is significant, and most mean nothing. So the question is not
    whether the two differ but by how much: the distance has a 95 % interval, and a shift is real when all of
    it lies beyond the first band. The interval is the basic bootstrap's (Davison and Hinkley, "Bootstrap
    methods and their application", 1997, 5.2), which also takes away what chance alone adds to a distance;
    its draws are as much smaller than the samples as hours vary more than chance, see `dispersion`.
    """
    reference, current = merged(
        np.atleast_2d(np.asarray(reference, float)), np.atleast_2d(np.asarray(current, float))
    )
    before, after = reference.sum(axis=0), current.sum(axis=0)
    scale = dispersion(reference, current)
    if min(before.sum(), after.sum()) / scale < LEAST_SAMPLE:
        return None
    rng = np.random.default_rng(0)
    distance = _DISTANCES[measure]
    value = float(distance(before / scale, after / scale))
    drawn = distance(
        *(
            rng.multinomial(max(1, round(counts.sum() / scale)), counts / counts.sum(), DRAWS)
            for counts in (before, after)
        )
    )
    low, high = np.maximum(0.0, 2 * value - np.quantile(drawn, [0.975, 0.025]))
    best = float(np.clip(2 * value - drawn.mean(), 0.0, None))
    return Shift(
        measure, Estimate(best, float(low), float(high)), band(measure, best), bool(low > BANDS[measure][0])
    )


def rate_change(reference: np.ndarray, current: np.ndarray) -> Estimate | None:
    """How many times as high a rate is as before: (hours, 2) or (2,) counts of hits and of comments.

    The interval is Katz's for a ratio of two binomials (Biometrics 34, 1978), widened by the dispersion.
    None where too few hits are to be expected for an interval.
    """
    samples = [np.atleast_2d(np.asarray(rows, float)) for rows in (reference, current)]
    split = [np.column_stack([rows[:, 0], rows[:, 1] - rows[:, 0]]) for rows in samples]
    (hits, count), (now, number) = (rows.sum(axis=0) for rows in samples)
    if not count or not number:
        return None
    scale = dispersion(*split)
    if min(count, number) * (hits + now) / (count + number) / scale < LEAST_HITS:
        return None
    ratio = ((now + 0.5) / (number + 0.5)) / ((hits + 0.5) / (count + 0.5))
    variance = 1 / (now + 0.5) - 1 / (number + 0.5) + 1 / (hits + 0.5) - 1 / (count + 0.5)
    spread = float(np.exp(Z * np.sqrt(max(variance, 0.0) * scale)))
    return Estimate(float(ratio), float(ratio / spread), float(ratio * spread))


def either_way(change: Estimate) -> Estimate:
    """The factor of a rate's change whether it rose or fell, 1 for none; the interval begins at 1."""
    if change.value >= 1:
        return Estimate(change.value, max(1.0, change.low), change.high)
    return Estimate(1 / change.value, max(1.0, 1 / change.high), 1 / change.low)
