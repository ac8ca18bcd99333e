"""The panel Health: the state of this moment."""

from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
from django.utils import timezone

from apps.core.text import pluralize
from apps.moderation import statistics
from apps.monitoring import freshness, live_metrics
from apps.monitoring.dashboard.charts import Panel, Plot, Stat, line
from apps.monitoring.dashboard.queries import HOUR, Filters
from apps.monitoring.dashboard.statistics import (
    format_duration,
    format_milliseconds,
    format_percent,
    percentile,
)
from apps.monitoring.models import LATENCY_EDGES, Alert, RequestMinute
from apps.registry.models import Alias, ModelVersion

MAX_ERROR_RATE = 0.01
_MAX_ALERTS = 5


@dataclass
class _Requests:
    """Requests of a minute, or of several."""

    requests: int
    errors: int
    latency: np.ndarray


def _requests_by_minute(filters: Filters, since: datetime) -> dict[datetime, _Requests]:
    rows = RequestMinute.objects.filter(minute__gte=since).order_by("minute")
    if filters.source:
        rows = rows.filter(source=filters.source)
    minutes: dict[datetime, _Requests] = {}
    for minute, requests, errors, latency in rows.values_list("minute", "requests", "errors", "latency"):
        total = minutes.setdefault(minute, _Requests(0, 0, np.zeros(len(LATENCY_EDGES) - 1)))
        total.requests += requests
        total.errors += errors
        total.latency = total.latency + latency
    return minutes


def health_panel(filters: Filters) -> Panel:
    """Return the panel Health: requests, errors, latency and the queue now."""
    now = timezone.now()
    minutes = _requests_by_minute(filters, now - 3 * HOUR)
    last_hour = [row for minute, row in minutes.items() if minute >= now - HOUR]
    recent = [row for minute, row in minutes.items() if minute >= now - timedelta(minutes=6)]
    per_minute = sum(row.requests for row in recent) / 5
    requests, errors = (sum(getattr(row, name) for row in last_hour) for name in ("requests", "errors"))
    latency = sum((row.latency for row in last_hour), np.zeros(len(LATENCY_EDGES) - 1))
    p50, p95, p99 = (percentile(latency, LATENCY_EDGES, fraction) for fraction in (0.5, 0.95, 0.99))
    error_rate = errors / requests if requests else None
    has_errors = error_rate is not None and error_rate > MAX_ERROR_RATE
    depth = live_metrics.open_items(filters.community)
    oldest = statistics.oldest_open(filters.community)
    age = (now - oldest).total_seconds() if oldest else None
    champion = ModelVersion.objects.with_alias(Alias.CHAMPION)
    all_communities = filters.community is None
    open_alerts = Alert.objects.open() if all_communities else Alert.objects.open().of_the_site()
    alert_count = open_alerts.count()
    alerts = open_alerts.select_related("rule")[:_MAX_ALERTS]
    background = freshness.of_background_work(now)
    problems = [
        problem
        for problem, is_present in (
            ("no model is in service", champion is None),
            (f"{format_percent(error_rate)} of the requests fail", has_errors),
            ("an alert is open" if alert_count == 1 else f"{alert_count} alerts are open", alert_count > 0),
            (
                "background work fails or is late, so rollups and alerts may be old",
                background.is_late,
            ),
        )
        if is_present
    ]
    stats = [
        Stat("Errors", format_percent(error_rate), "5xx, last hour", has_errors),
        Stat("Latency, median", format_milliseconds(p50), "of requests, last hour"),
        Stat("Latency, p95", format_milliseconds(p95), "of requests, last hour"),
        Stat("Latency, p99", format_milliseconds(p99), "of requests, last hour"),
        Stat("Queue", f"{depth:,}{'+' if depth == live_metrics.MAX_COUNT else ''}", "open items"),
        Stat("Oldest item", format_duration(age), "old"),
        Stat("Model", str(champion or "none"), "champion", champion is None),
        Stat(
            "Alerts",
            str(alert_count),
            "; ".join(alert.rule.name for alert in alerts)
            or ("none open" if all_communities else "none open about the site"),
            alert_count > 0,
        ),
    ]
    plots = []
    # Requests are counted over all communities, so their number is not shown for a single one.
    if all_communities:
        stats.insert(0, Stat("Requests per minute", f"{per_minute:,.1f}", "last five minutes"))
        plots.append(_requests_plot(minutes, requests, errors))
    return Panel(
        "Is the system healthy?",
        f"Not entirely: {', '.join(problems)}."
        if problems
        else "Yes: a model is in service, requests succeed, background work is on time, "
        f"no alert {'is open' if all_communities else 'about the site is open'}.",
        stats,
        plots,
        background,
    )


def _requests_plot(minutes: dict[datetime, _Requests], requests: int, errors: int) -> Plot:
    times = list(minutes)
    return Plot(
        "requests",
        f"{pluralize(requests, 'request was', 'requests were')} answered in the last hour; {errors:,} failed."
        if requests
        else "No requests were counted in the last hour.",
        [
            line("requests", times, (row.requests for row in minutes.values())),
            line("errors", times, (row.errors for row in minutes.values())),
        ],
        "per minute",
    )
