"""The panel Queue: whether moderators keep up with the queue."""

from datetime import datetime

import numpy as np
from django.utils import timezone

from apps.classifier.labels import LABELS
from apps.core.text import pluralize
from apps.moderation import statistics
from apps.moderation.models import QueueItem
from apps.monitoring import live_metrics
from apps.monitoring.dashboard.charts import Kind, Panel, Plot, Series, Stat, line
from apps.monitoring.dashboard.queries import DAY, LABEL_NAMES, Filters, load_rollups
from apps.monitoring.dashboard.statistics import format_duration, format_percent, percentile, percentile_lines
from apps.monitoring.models import DECISION_TIME_EDGES


def queue_panel(filters: Filters) -> Panel:
    """Return the panel Queue: its size, the age of its items, and decisions over time."""
    rollups = load_rollups(
        filters, "queued", "approved", "rejected", "reversed", "escalations_reversed", "decision_times"
    )
    times, added = filters.times, rollups.by_step("queued")
    decided = rollups.by_step("approved") + rollups.by_step("rejected")
    # An escalated item stays in the queue, so undoing an escalation does not add it again.
    undone = rollups.by_step("reversed") - rollups.by_step("escalations_reversed")
    depth = live_metrics.open_items(filters.community)
    p50, p90, p99 = _ages(filters, depth, timezone.now())
    net = added + undone - decided
    backlog = np.maximum(0, depth - np.concatenate([np.cumsum(net[::-1])[::-1][1:], [0]]))
    steps = max(1, round(DAY / filters.step))
    per_step = float(net[-7 * steps :].mean()) if len(net) else 0.0
    forecast = [max(0.0, depth + per_step * number) for number in range(1, steps + 1)]
    forecast_times = [times[-1] + filters.step * number for number in range(1, steps + 1)]
    trend = "grows" if per_step > 0 else "shrinks" if per_step < 0 else "does not change"
    median, p95 = (
        percentile(rollups.total("decision_times"), DECISION_TIME_EDGES, fraction) for fraction in (0.5, 0.95)
    )
    total = float(decided.sum())
    return Panel(
        "Do moderators keep up?",
        f"{pluralize(depth, 'item is', 'items are')} open. In this window "
        f"{pluralize(int(added.sum()), 'was', 'were')} added and "
        f"{pluralize(int(total), 'was', 'were')} decided: the queue {trend}.",
        [
            Stat("Age, median", format_duration(p50), "of open items"),
            Stat("Age, p90", format_duration(p90), "of open items"),
            Stat("Age, p99", format_duration(p99), "of open items"),
            Stat("In a day", f"{forecast[-1]:,.0f}", "open items, at the current rate"),
            Stat(
                "Undone",
                format_percent(float(undone.sum()) / total if total else None),
                "of approvals and rejections",
            ),
            Stat("Time to decision", format_duration(median), "median, in this window"),
        ],
        [
            Plot(
                "flow",
                "Items added, items decided, and items reopened because their decision was undone.",
                [line("added", times, added), line("decided", times, decided), line("undone", times, undone)],
                "items",
            ),
            Plot(
                "backlog",
                f"At the rate of this window {pluralize(round(forecast[-1]), 'item')} will be open in a day.",
                [line("open", times, backlog), line("forecast", forecast_times, forecast)],
                "open items",
            ),
            Plot(
                "time to decision",
                f"Half of the items were decided within {format_duration(median)}, 95% within "
                f"{format_duration(p95)}.",
                percentile_lines(
                    times, rollups.by_step("decision_times"), DECISION_TIME_EDGES, 50, 95, unit=60
                ),
                "minutes",
                is_log=True,
            ),
            _agreement_plot(filters),
        ],
    )


def _agreement_plot(filters: Filters) -> Plot:
    agreement, _ = statistics.agreement(
        communities=None if filters.community is None else [filters.community]
    )
    kappas = [agreement[label].kappa for label in LABELS]
    return Plot(
        "agreement",
        "Agreement of blind second reviews with the first: 1 is perfect agreement, 0 is chance.",
        [Series("Cohen's kappa, 90 days", LABEL_NAMES, kappas, Kind.POINTS)],
        "kappa",
    )


def _ages(filters: Filters, depth: int, now: datetime) -> list[float | None]:
    """Return the median, 90th and 99th percentile of the open items' ages in seconds.

    Primary keys follow the time of creation, so a percentile is found by its position in their order.
    """
    items = QueueItem.objects.open().order_by("-pk")
    if filters.community is not None:
        items = items.filter(community=filters.community)
    ages: list[float | None] = []
    for fraction in (0.5, 0.9, 0.99):
        index = depth - 1 - int(depth * (1 - fraction))
        created_at = items.values_list("created_at", flat=True)[index : index + 1].first() if depth else None
        ages.append(None if created_at is None else (now - created_at).total_seconds())
    return ages
