"""Statistics of the dashboard's panels, and how values are written."""

from dataclasses import dataclass
from datetime import datetime

import numpy as np

from apps.core import text
from apps.core.statistics import Interval, weighted_rate
from apps.monitoring.dashboard.charts import Series, Values


@dataclass(frozen=True)
class Rates:
    """Accuracy, precision and recall of a label, each with its interval, or None without data."""

    accuracy: Interval | None
    precision: Interval | None
    recall: Interval | None


def rate(hits: float, total: float) -> Interval | None:
    """Return a rate with its 95% interval, or None without observations."""
    return weighted_rate(hits, total, total)


def confusion_rates(confusion: np.ndarray) -> Rates:
    """Return the rates of a label.

    Args:
        confusion: (bins, predicted, true, weight and squared weight), see `HourlyRollup`.
    """
    weights, squares = confusion.sum(axis=0)[..., 0], confusion.sum(axis=0)[..., 1]
    return Rates(
        weighted_rate(weights[0, 0] + weights[1, 1], weights.sum(), squares.sum()),
        weighted_rate(weights[1, 1], weights[1].sum(), squares[1].sum()),
        weighted_rate(weights[1, 1], weights[:, 1].sum(), squares[:, 1].sum()),
    )


def percentile(counts: np.ndarray, edges: np.ndarray, fraction: float) -> float | None:
    """Return a percentile of a histogram, or None if it is empty.

    Args:
        counts: (bins,).
        edges: (bins + 1,) on a logarithmic scale, on which the percentile is interpolated within its bin.
        fraction: 0 to 1.
    """
    total = counts.sum()
    if not total:
        return None
    cumulative = np.cumsum(counts)
    index = int(np.searchsorted(cumulative, fraction * total))
    below = cumulative[index - 1] if index else 0
    position = (fraction * total - below) / counts[index]
    return float(edges[index] * (edges[index + 1] / edges[index]) ** position)


def percentile_lines(
    times: list[datetime], counts: np.ndarray, edges: np.ndarray, *percents: int, unit: float
) -> list[Series]:
    """Return a line for each percentile of histograms (times, bins), in multiples of `unit`."""
    lines = []
    for percent in percents:
        values = (percentile(row, edges, percent / 100) for row in counts)
        lines.append(Series(f"p{percent}", times, [value and value / unit for value in values]))
    return lines


def ratios(numerators: np.ndarray, denominators: np.ndarray) -> Values:
    """Return ratios, with None for those whose denominator is 0."""
    return [float(a / b) if b else None for a, b in zip(numerators, denominators, strict=True)]


def format_percent(fraction: float | None) -> str:
    """Return a fraction as a percentage, or a dash for None."""
    if fraction is None:
        return "–"
    percent = fraction * 100
    return f"{percent:.3g}%" if percent < 1 else f"{percent:.1f}%"


def format_milliseconds(microseconds: float | None) -> str:
    """Return a time in milliseconds, or a dash for None."""
    if microseconds is None:
        return "–"
    milliseconds = microseconds / 1000
    return f"{milliseconds:,.0f} ms" if milliseconds >= 100 else f"{milliseconds:.3g} ms"


def format_duration(seconds: float | None) -> str:
    """Return a duration with one decimal place, see `apps.core.text.format_duration`."""
    return text.format_duration(seconds, digits=1)
