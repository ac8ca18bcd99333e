"""The panel Traffic: how many comments are scored, from where, and how fast."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import numpy as np

from apps.core.text import pluralize
from apps.moderation.models import Submission
from apps.monitoring.dashboard.charts import Kind, Panel, Plot, Series, line
from apps.monitoring.dashboard.queries import HOUR, Filters, filter_rollups, load_promotions, load_rollups
from apps.monitoring.dashboard.statistics import format_milliseconds, percentile, percentile_lines
from apps.monitoring.models import LATENCY_EDGES
from apps.predictions.models import Prediction


def traffic_panel(filters: Filters) -> Panel:
    """Return the panel Traffic: scored comments by source and version, latency and errors."""
    rollups = load_rollups(filters, "requests", "errors", "latency")
    promotions = load_promotions(filters)

    def split(keys: Sequence[Any], title: Callable[[Any], str]) -> list[Series]:
        return [
            line(title(key), filters.times, rollups.by_step("requests", [other == key for other in keys]))
            for key in sorted(set(keys))
        ]

    latency, errors = rollups.by_step("latency"), rollups.by_step("errors")
    requests, total_latency = int(rollups.total("requests")), rollups.total("latency")
    p50, p99 = (percentile(total_latency, LATENCY_EDGES, fraction) for fraction in (0.5, 0.99))
    versions = len(set(rollups.versions))
    hours = filters.step / HOUR
    per_step = "per hour" if hours == 1 else f"per {hours:.0f} h"
    source_names = dict(Prediction.Source.choices)
    by_source = split(rollups.sources, lambda source: source_names.get(source, source))
    busiest = max(by_source, key=lambda series: sum(y or 0 for y in series.y)).name if by_source else ""
    return Panel(
        "How much traffic is there, and how fast is it answered?",
        f"{pluralize(requests, 'comment was', 'comments were')} scored in this window."
        if requests
        else "No comments were scored in this window.",
        plots=[
            Plot(
                "by source",
                f"Largest source: {busiest}." if busiest else "No source sent comments.",
                by_source,
                f"comments {per_step}",
                events=promotions,
            ),
            Plot(
                "by version",
                f"{pluralize(versions, 'model version was', 'model versions were')} in service. "
                "Dashed lines mark promotions.",
                split(rollups.versions, lambda number: f"v{number}"),
                f"comments {per_step}",
                events=promotions,
            ),
            _outcome_plot(filters, promotions),
            Plot(
                "latency",
                f"Median scoring time: {format_milliseconds(p50)}; "
                f"99th percentile: {format_milliseconds(p99)}.",
                percentile_lines(filters.times, latency, LATENCY_EDGES, 50, 95, 99, unit=1000),
                "scoring time, ms",
                is_log=True,
                events=promotions,
            ),
            Plot(
                "errors",
                f"{pluralize(int(errors.sum()), 'request was', 'requests were')} answered with a "
                "server error (5xx).",
                [Series("errors", filters.times, [float(count) for count in errors], Kind.BAR)],
                f"errors {per_step}",
                events=promotions,
            ),
        ],
    )


def _outcome_plot(filters: Filters, promotions: list[tuple[datetime, str]]) -> Plot:
    """Plot the policy's outcomes. An outcome of another release is plotted under its stored name."""
    times = filters.times
    counts: dict[str, np.ndarray] = {outcome: np.zeros(len(times)) for outcome in Submission.Outcome.values}
    for hour, outcomes in filter_rollups(filters).order_by().values_list("hour", "outcomes"):
        step = int((hour - filters.begin) / filters.step)
        for outcome, count in outcomes.items():
            counts.setdefault(outcome, np.zeros(len(times)))[step] += count
    names = dict(Submission.Outcome.choices)
    by_name = {names.get(outcome, outcome): row for outcome, row in counts.items() if row.any()}
    total = int(sum(row.sum() for row in by_name.values()))
    fractions = ", ".join(f"{name.lower()} {row.sum() / total:.1%}" for name, row in by_name.items())
    return Plot(
        "by outcome",
        f"The policy was applied to {pluralize(total, 'comment')}: {fractions}."
        if total
        else "The policy was not applied to any comment.",
        [line(name, times, row) for name, row in by_name.items()],
        "comments",
        events=promotions,
    )
