"""What a panel is made of, and how it is told: as plots and as a table, with the same numbers."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from apps.monitoring.freshness import Freshness

X = list[Any]
Y = list[float | None]
# Okabe and Ito, "Color universal design", 2008, without those that are faint on white or on black.
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
    """One line, row of bars or of points; `low` and `high` are the ends of 95 % intervals."""

    name: str
    x: X
    y: Y
    kind: Kind = Kind.LINE
    low: Y | None = None
    high: Y | None = None


@dataclass(frozen=True)
class Plot:
    """A plot under a sentence that answers its question."""

    key: str
    sentence: str
    series: list[Series]
    y_title: str
    x_title: str = ""
    is_share: bool = False
    is_log: bool = False
    x_log: bool = False
    events: list[tuple[datetime, str]] = field(default_factory=list)
    levels: list[tuple[float, str]] = field(default_factory=list)

    @property
    def is_side_by_side(self) -> bool:
        """Whether points of several series stand beside one another: over names, not over numbers or time."""
        return all(
            series.kind == Kind.POINTS and isinstance(x, str) for series in self.series for x in series.x
        )


@dataclass(frozen=True)
class Tile:
    """A single figure with its name."""

    name: str
    value: str
    note: str = ""
    is_bad: bool = False


@dataclass(frozen=True)
class Panel:
    """All that a panel shows."""

    question: str
    sentence: str
    tiles: list[Tile] = field(default_factory=list)
    plots: list[Plot] = field(default_factory=list)
    freshness: Freshness | None = None


def table(panel: Panel) -> Iterator[list[Any]]:
    """Yield the rows of a panel's CSV file, its header first."""
    yield ["plot", "series", "x", "y", "low", "high"]
    if panel.freshness:
        as_of = panel.freshness.as_of
        yield ["data as of", panel.freshness.status, as_of.isoformat() if as_of else "", "", "", ""]
        for problem in panel.freshness.problems:
            yield ["problem", problem, "", "", "", ""]
    for tile in panel.tiles:
        yield ["figures", tile.name, tile.note, tile.value, "", ""]
    for plot in panel.plots:
        for series in plot.series:
            for place, (x, y) in enumerate(zip(series.x, series.y, strict=True)):
                low = series.low[place] if series.low else ""
                high = series.high[place] if series.high else ""
                yield [plot.key, series.name, x.isoformat() if isinstance(x, datetime) else x, y, low, high]


def figure(plot: Plot) -> dict[str, Any]:
    """Return the plot as plotly.js takes it. Series differ in dash, marker or pattern besides colour."""
    y_axis: dict[str, Any] = {
        "title": {"text": plot.y_title},
        "automargin": True,
        "rangemode": "tozero",
    }
    if plot.is_share:
        y_axis["tickformat"] = ".3~p"
    if plot.is_log:
        y_axis |= {"type": "log", "rangemode": "normal"}
    x_axis: dict[str, Any] = {"title": {"text": plot.x_title}, "automargin": True}
    if plot.x_log:
        x_axis |= {"type": "log", "dtick": 1}
    lines, notes = [], []
    for number, (moment, text) in enumerate(plot.events):
        lines.append(
            {"type": "line", "x0": moment, "x1": moment, "yref": "paper", "y0": 0, "y1": 1}
            | {"line": {"color": GREY, "width": 2, "dash": "dash"}}
        )
        notes.append({"x": moment, "yref": "paper", "y": 1.0, "text": text, "yanchor": "bottom"})
        notes[-1]["yshift"] = 14 * (number % 2)  # neighbours may be near
    for number, (level, text) in enumerate(plot.levels):
        lines.append(
            {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": level, "y1": level}
            | {"line": {"color": GREY, "width": 1, "dash": "dot"}}
        )
        notes.append(
            {"xref": "paper", "y": level, "text": text, "yanchor": "bottom"}
            | ({"x": 1, "xanchor": "right"} if number % 2 else {"x": 0, "xanchor": "left"})
        )
    return {
        "data": [_trace(series, number) for number, series in enumerate(plot.series)],
        "layout": {
            "autosize": True,
            "height": height(plot),
            "margin": {"l": 56, "r": 12, "t": 40, "b": 40},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "font": {"family": "system-ui, sans-serif", "size": 13},
            "legend": {
                "orientation": "h",
                "yanchor": "top",
                "y": -0.34 if plot.x_title or plot.is_side_by_side else -0.2,
                "x": 0,
            },
            "showlegend": len(plot.series) > 1,
            "barmode": "group",
            "scattermode": "group" if plot.is_side_by_side else "overlay",
            "hovermode": "closest",
            "xaxis": x_axis,
            "yaxis": y_axis,
            "shapes": lines,
            "annotations": [note | {"showarrow": False, "font": {"size": 12}} for note in notes],
        },
    }


def height(plot: Plot) -> int:
    """Return how high the plot is, in CSS pixels: on a phone each series takes a line of the legend."""
    return 320 + 22 * len(plot.series)


def _trace(series: Series, number: int) -> dict[str, Any]:
    look = number % len(COLOURS)
    colour = COLOURS[look] if number < len(COLOURS) else GREY
    trace: dict[str, Any] = {"name": series.name, "x": series.x, "y": series.y}
    if series.low and series.high:
        trace["error_y"] = {
            "type": "data",
            "symmetric": False,
            "array": [
                None if y is None or h is None else h - y for y, h in zip(series.y, series.high, strict=True)
            ],
            "arrayminus": [
                None if y is None or w is None else y - w for y, w in zip(series.y, series.low, strict=True)
            ],
            "thickness": 1.5,
        }
    if series.kind == Kind.BAR:
        pattern = {"shape": PATTERNS[look], "fgcolor": "#ffffff", "size": 6, "solidity": 0.25}
        return trace | {"type": "bar", "marker": {"color": colour, "pattern": pattern}}
    if series.kind == Kind.POINTS:
        trace["offsetgroup"] = series.name
    few = len(series.x) <= 40 or None in series.y  # a point between gaps has no line
    return trace | {
        "type": "scatter",
        "mode": "markers" if series.kind == Kind.POINTS else "lines+markers" if few else "lines",
        "line": {"color": colour, "width": 2, "dash": DASHES[look]},
        "marker": {"color": colour, "symbol": MARKERS[look], "size": 8},
    }
