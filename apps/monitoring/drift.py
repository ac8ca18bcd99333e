"""Drift: how far apart two samples of traffic are, whether by more than chance, and in which words.

Counts are histograms. A sample is `(hours, bins)`, one row per hour, or a single row: the rows tell how much
traffic varies by itself, from hour to hour, which is more than independent comments would.
"""

from dataclasses import dataclass, replace
from enum import StrEnum
from statistics import NormalDist

import numpy as np

DRAWS = 200
LEAST_SHARE = 0.01  # of the reference, in each of the bins that are compared
LEAST_SAMPLE = 50  # independent comments: with fewer, chance alone looks like a shift too often
LEAST_HITS = 5  # expected, of independent comments: the rule of Cochran, Biometrics 10, 1954
LEAST_COMMENTS = 5  # an n-gram of fewer comments is nobody's trend, and might be somebody's name
Z = NormalDist().inv_cdf(0.975)
Z_LOOKS = NormalDist().inv_cdf(0.9995)


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
    """A figure and its interval, of 95 % unless told otherwise; `subjects` names what it counts."""

    value: float
    low: float
    high: float
    subjects: tuple[str, ...] = ()


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
    # Loaded here for the sake of processes that only score; scipy.spatial and scipy.stats take a second.
    from scipy.special import rel_entr

    p, q = _shares(reference), _shares(current)
    middle = (p + q) / 2
    return np.sqrt(np.sum(rel_entr(p, middle) + rel_entr(q, middle), axis=-1) / (2 * np.log(2)))


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


@dataclass(frozen=True)
class Rhythm:
    """What rate is to be expected in which hour of the week, and how much hours vary around it."""

    by_hour: np.ndarray  # (24,)
    by_day: np.ndarray  # (7,), times as much
    counts: np.ndarray  # (24,), the comments that each hour of the day was seen with
    dispersion: float

    def rates(self, when: np.ndarray) -> np.ndarray:
        """The rates to expect in hours of the week, 0 to 167."""
        return np.clip(self.by_hour[when % 24] * self.by_day[when // 24], 1e-9, 1 - 1e-9)


def rhythm(counts: np.ndarray, when: np.ndarray) -> Rhythm | None:
    """Learn from (hours, 2) hits and comments, and those hours' places in the week; None with too few hours.

    A rate is that of its hour of the day times a factor of its day: one step of iterative proportional
    fitting, which is all that a history without gaps takes. The dispersion is Pearson's statistic over its
    degrees of freedom, as in `dispersion`, but around these rates: rhythm is no noise.
    """
    seen = counts[:, 1] > 0
    (hits, comments), when = counts[seen].T, when[seen]
    hour, day = when % 24, when // 24
    freedom = len(hits) - len(np.unique(hour)) - len(np.unique(day)) + 1
    if freedom <= 0 or not hits.sum():
        return None
    overall = hits.sum() / comments.sum()
    of_hour = np.bincount(hour, comments, 24)
    by_hour = (np.bincount(hour, hits, 24) + overall) / (of_hour + 1)
    expected = comments * by_hour[hour]
    by_day = (np.bincount(day, hits, 7) + 0.5) / (np.bincount(day, expected, 7) + 0.5)
    found = Rhythm(by_hour, by_day, of_hour, 1.0)
    rates = found.rates(when)
    statistic = np.sum((hits - comments * rates) ** 2 / (comments * rates * (1 - rates)))
    return replace(found, dispersion=max(1.0, float(statistic / freedom)))


def rate_change(before: Rhythm, current: np.ndarray, when: np.ndarray) -> Estimate | None:
    """How many times as high a rate is as its rhythm has it: (hours, 2) hits and comments, hours of the week.

    The interval is Wilson's (1927) with as many comments as are independent: quasi-binomial, the variance
    of chance times the dispersion. It holds 99.9 % and not 95, for rules look every few minutes: one look in
    forty would be wrong otherwise. None where too few hits are to be expected for an interval.
    """
    hits, comments = np.asarray(current, float).sum(axis=0)
    known = before.counts[np.unique(when % 24)].sum()
    if not comments or not known:
        return None
    expected = float(before.rates(when) @ current[:, 1] / comments)
    independent = 1 / (1 / comments + 1 / known) / before.dispersion
    if expected * independent < LEAST_HITS:
        return None
    share = hits / comments
    centre = share + Z_LOOKS**2 / (2 * independent)
    half = Z_LOOKS * np.sqrt(share * (1 - share) / independent + (Z_LOOKS / (2 * independent)) ** 2)
    scale = expected * (1 + Z_LOOKS**2 / independent)
    return Estimate(
        float(max(share, 0.5 / comments) / expected),
        float(max(centre - half, 0.0) / scale),
        float((centre + half) / scale),
    )


def either_way(change: Estimate) -> Estimate:
    """The factor of a rate's change whether it rose or fell, 1 for none; the interval begins at 1."""
    if change.value >= 1:
        return Estimate(change.value, max(1.0, change.low), change.high)
    return Estimate(1 / change.value, max(1.0, 1 / change.high), 1 / max(change.low, 1e-9))
