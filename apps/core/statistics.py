"""Interval estimates that several apps use."""

import math
from statistics import NormalDist

Z_95 = NormalDist().inv_cdf(0.975)  # of a two-sided 95% interval
Interval = tuple[float, float, float]  # value, lower and upper end of the 95% interval


def wilson(successes: float, total: float, z: float = Z_95) -> tuple[float, float] | None:
    """Return the score interval of a proportion (Wilson 1927), or None without observations.

    Args:
        total: the number of observations; the effective number where they are weighted or dependent.
        z: the normal quantile of the confidence level, by default 95%.
    """
    if total <= 0:
        return None
    proportion = successes / total
    variance = proportion * (1 - proportion) / total
    centre = (proportion + z * z / (2 * total)) / (1 + z * z / total)
    margin = z / (1 + z * z / total) * math.sqrt(variance + z * z / (4 * total * total))
    return max(0.0, centre - margin), min(1.0, centre + margin)


def weighted_rate(hits: float, total: float, squares: float) -> Interval | None:
    """Return a weighted rate with its 95% interval, or None without observations.

    The effective number of observations is Kish's (1965): the square of the sum of weights over the sum of
    squared weights.

    Args:
        hits: sum of the weights of the hits.
        total: sum of all weights.
        squares: sum of all squared weights.
    """
    if not total:
        return None
    rate, effective = float(hits / total), float(total * total / squares)
    interval = wilson(rate * effective, effective)
    return None if interval is None else (rate, *interval)
