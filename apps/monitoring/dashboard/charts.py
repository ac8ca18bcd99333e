"""What a panel consists of, as a table for CSV files and as figures for plotly.js, with the same numbers."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from apps.monitoring.freshness import Freshness

Values = list[float | None]
# Okabe and Ito, "Color universal design", 2008, without the colours of low contrast on white or black.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
MARKERS = ("circle", "square", "diamond", "cross", "triangle-up", "x")
PATTERNS = ("", "/", "x", ".", "-", "+")
GREY = "#7f7f7f"


class Kind(StrEnum):
    """How a series is drawn."""

    LINE = "line"
    BAR = "bar"
    POINTS = "points"


@dataclass(frozen=True)
class Series:
    """A line, a row of bars or a row of points; `low` and `high` are the ends of 95% intervals."""

    name: str
    x: list[Any]
    y: Values
    kind: Kind = Kind.LINE
    low: Values | None = None
    high: Values | None = None


@dataclass(frozen=True)
class Plot:
    """A plot with its caption.

    Attributes:
        key: name of the plot in the CSV file and, after the panel's name, in the page.
        is_fraction: write the y-axis as percentages.
        is_log: logarithmic y-axis.
        x_log: logarithmic x-axis.
        events: times with a vertical line, and their names.
        levels: y values with a horizontal line, and their names.
    """

    key: str
    caption: str
    series: list[Series]
    y_title: str
    x_title: str = ""
    is_fraction: bool = False
    is_log: bool = False
    x_log: bool = False
    events: list[tuple[datetime, str]] = field(default_factory=list)
    levels: list[tuple[float, str]] = field(default_factory=list)

    @property
    def is_grouped(self) -> bool:
        """Whether points of several series are drawn side by side, which suits names but not numbers."""
        return all(
            series.kind == Kind.POINTS and isinstance(x, str) for series in self.series for x in series.x
        )

    @property
    def height(self) -> int:
        """The height in CSS pixels; on a phone each series takes a line of the legend."""
        return 320 + 22 * len(self.series)


@dataclass(frozen=True)
class Stat:
    """A single value with its name."""

    name: str
    value: str
    note: str = ""
    is_alerting: bool = False


@dataclass(frozen=True)
class Panel:
    """The content of a panel."""

    question: str
    answer: str
    stats: list[Stat] = field(default_factory=list)
    plots: list[Plot] = field(default_factory=list)
    freshness: Freshness | None = None


def line(name: str, x: list[Any], y: Iterable[float]) -> Series:
    """Return a line through values without gaps."""
    return Series(name, x, [float(value) for value in y])


def interval_points(name: str, x: list[Any], values: Iterable[tuple[float, float, float] | None]) -> Series:
    """Return points with 95% intervals; None leaves a gap."""
    rows = list(values)
    low, high = ([row and row[index] for row in rows] for index in (1, 2))
    return Series(name, x, [row and row[0] for row in rows], Kind.POINTS, low, high)


def rounded(values: Iterable[Any]) -> list[Any]:
    """Return the values; numbers have nine decimals, so that 0.15000000000000002 is 0.15 and -3e-16 is 0."""
    # Adding 0 turns -0.0 into 0.0.
    return [round(value, 9) + 0 if isinstance(value, float) else value for value in values]


def csv_rows(panel: Panel) -> Iterator[list[Any]]:
    """Yield the rows of a panel's CSV file, starting with the header."""
    yield ["plot", "series", "x", "y", "low", "high"]
    if panel.freshness:
        as_of = panel.freshness.as_of
        yield ["data as of", panel.freshness.status, as_of.isoformat() if as_of else "", "", "", ""]
        for problem in panel.freshness.problems:
            yield ["problem", problem, "", "", "", ""]
    for stat in panel.stats:
        yield ["stats", stat.name, stat.note, stat.value, "", ""]
    for plot in panel.plots:
        for series in plot.series:
            columns = [rounded(values or [""] * len(series.x)) for values in (series.low, series.high)]
            for x, y, low, high in zip(rounded(series.x), rounded(series.y), *columns, strict=True):
                yield [plot.key, series.name, x.isoformat() if isinstance(x, datetime) else x, y, low, high]


def plotly_figure(plot: Plot) -> dict[str, Any]:
    """Return the plot as a figure for plotly.js. Series differ in dash, marker or pattern and in colour."""
    y_axis: dict[str, Any] = {
        "title": {"text": plot.y_title},
        "automargin": True,
        "rangemode": "tozero",
        "hoverformat": ",.4~f",
    }
    if plot.is_fraction:
        y_axis["tickformat"] = y_axis["hoverformat"] = ".3~p"
    if plot.is_log:
        y_axis |= {"type": "log", "rangemode": "normal", "hoverformat": ".4~g"}
    x_axis: dict[str, Any] = {"title": {"text": plot.x_title}, "automargin": True}
    if plot.x_log:
        x_axis |= {"type": "log", "dtick": 1}
    shapes, annotations = [], []
    for number, (moment, text) in enumerate(plot.events):
        shapes.append(
            {"type": "line", "x0": moment, "x1": moment, "yref": "paper", "y0": 0, "y1": 1}
            | {"line": {"color": GREY, "width": 2, "dash": "dash"}}
        )
        annotations.append({"x": moment, "yref": "paper", "y": 1.0, "text": text, "yanchor": "bottom"})
        annotations[-1]["yshift"] = 14 * (number % 2)  # neighbouring texts may overlap
    for number, (level, text) in enumerate(plot.levels):
        shapes.append(
            {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": level, "y1": level}
            | {"line": {"color": GREY, "width": 1, "dash": "dot"}}
        )
        annotations.append(
            {"xref": "paper", "y": level, "text": text, "yanchor": "bottom"}
            | ({"x": 1, "xanchor": "right"} if number % 2 else {"x": 0, "xanchor": "left"})
        )
    return {
        "data": [_trace(series, number) for number, series in enumerate(plot.series)],
        "layout": {
            "autosize": True,
            "height": plot.height,
            "margin": {"l": 56, "r": 12, "t": 40, "b": 40},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "font": {"family": "system-ui, sans-serif", "size": 13},
            "legend": {
                "orientation": "h",
                "yanchor": "top",
                "y": -0.34 if plot.x_title or plot.is_grouped else -0.2,
                "x": 0,
            },
            "showlegend": len(plot.series) > 1,
            "barmode": "group",
            "scattermode": "group" if plot.is_grouped else "overlay",
            "hovermode": "closest",
            "xaxis": x_axis,
            "yaxis": y_axis,
            "shapes": shapes,
            "annotations": [note | {"showarrow": False, "font": {"size": 12}} for note in annotations],
        },
    }


def _trace(series: Series, number: int) -> dict[str, Any]:
    style = number % len(COLOURS)
    colour = COLOURS[style] if number < len(COLOURS) else GREY
    trace: dict[str, Any] = {"name": series.name, "x": rounded(series.x), "y": rounded(series.y)}
    if series.low and series.high:
        trace["error_y"] = {
            "type": "data",
            "symmetric": False,
            "array": _differences(series.high, series.y),
            "arrayminus": _differences(series.y, series.low),
            "thickness": 1.5,
        }
    if series.kind == Kind.BAR:
        pattern = {"shape": PATTERNS[style], "fgcolor": "#ffffff", "size": 6, "solidity": 0.25}
        return trace | {"type": "bar", "marker": {"color": colour, "pattern": pattern}}
    if series.kind == Kind.POINTS:
        trace["offsetgroup"] = series.name
    has_markers = len(series.x) <= 40 or None in series.y  # a point between two gaps has no line
    return trace | {
        "type": "scatter",
        "mode": "markers" if series.kind == Kind.POINTS else "lines+markers" if has_markers else "lines",
        "line": {"color": colour, "width": 2, "dash": DASHES[style]},
        "marker": {"color": colour, "symbol": MARKERS[style], "size": 8},
    }


def _differences(minuends: Values, subtrahends: Values) -> Values:
    differences = (
        None if a is None or b is None else a - b for a, b in zip(minuends, subtrahends, strict=True)
    )
    return rounded(differences)
