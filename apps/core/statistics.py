"""Interval estimates that several apps use."""

import math


def wilson(successes: float, total: float, z: float = 1.96) -> tuple[float, float] | None:
    """Return the score interval of a proportion (Wilson 1927), or None without observations.

    Args:
        total: the number of observations; the effective number where they are weighted or dependent.
        z: the normal quantile of the confidence level, by default 95 %.
    """
    if total <= 0:
        return None
    proportion = successes / total
    variance = proportion * (1 - proportion) / total
    centre = (proportion + z * z / (2 * total)) / (1 + z * z / total)
    margin = z / (1 + z * z / total) * math.sqrt(variance + z * z / (4 * total * total))
    return max(0.0, centre - margin), min(1.0, centre + margin)
