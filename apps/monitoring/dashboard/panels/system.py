"""The panel System: whether the infrastructure works."""

import shutil
from datetime import timedelta

from django.conf import settings
from django.db.models import Count
from django.utils import timezone

from apps.core.text import pluralize
from apps.moderation.models import Delivery
from apps.monitoring import freshness, live_metrics, schedules
from apps.monitoring.dashboard.charts import Kind, Panel, Plot, Series, Stat
from apps.monitoring.dashboard.queries import Filters
from apps.monitoring.dashboard.statistics import format_duration
from apps.monitoring.models import RequestMinute

MAX_MIRROR_LAG = 900  # seconds
MIN_FREE_DISK = 0.1


def system_panel(filters: Filters) -> Panel:
    """Return the panel System: processes, background work and webhooks."""
    now = timezone.now()
    recent = RequestMinute.objects.filter(minute__gte=now - timedelta(minutes=3))
    processes = recent.values("process").distinct().count()
    background, rollups = freshness.of_background_work(now), freshness.of_rollups(now=now)
    states = schedules.states(now)
    failing = [state.name for state in states if state.problem]
    deliveries = Delivery.objects.all()
    if filters.community is not None:
        deliveries = deliveries.filter(decision__submission__community=filters.community)
    by_status = dict(deliveries.order_by().values_list("status").annotate(Count("pk")))
    waiting = by_status.get("pending", 0) + by_status.get("sending", 0)
    failed = by_status.get("failed", 0)
    retried = deliveries.filter(status__in=Delivery.UNFINISHED).exclude(error="").count()
    disk = shutil.disk_usage(settings.DATA_DIR)
    free = disk.free / disk.total
    depths = live_metrics.broker_depths()
    lag = live_metrics.mirror_lag()
    mirror_is_late = lag is not None and lag > MAX_MIRROR_LAG
    problems = [
        problem
        for problem, is_present in (
            (f"{len(failing)} of {len(states)} scheduled tasks fail or are overdue", bool(failing)),
            ("rollups are late or incomplete", rollups.is_late),
            ("the broker does not respond", depths is None),
            ("the mirror lags behind", mirror_is_late),
            (f"{pluralize(failed, 'webhook')} failed", bool(failed)),
            (f"{pluralize(retried, 'webhook is', 'webhooks are')} being retried", bool(retried)),
            (f"only {free:.0%} of the disk is free", free < MIN_FREE_DISK),
        )
        if is_present
    ]
    return Panel(
        "Does the infrastructure work?",
        f"Not all of it: {', '.join(problems)}."
        if problems
        else "Yes: schedules, rollups, broker, mirror, webhooks and disk have no problems.",
        [
            Stat("Web processes", str(processes), "that answered in the last three minutes"),
            Stat(
                "Last rollup",
                format_duration((now - rollups.as_of).total_seconds() if rollups.as_of else None),
                "ago; everything before is counted",
                rollups.is_late,
            ),
            Stat(
                "Schedules",
                f"{len(states) - len(failing)} of {len(states)}",
                f"on time; with problems: {', '.join(failing)}" if failing else "on time",
                bool(failing),
            ),
            Stat("Webhooks waiting", f"{waiting:,}", "to be sent"),
            Stat("Webhooks failed", f"{failed:,}", "and not tried again", bool(failed)),
            Stat(
                "Mirror",
                "off" if lag is None else format_duration(lag),
                "DynamoDB" if lag is None else "replication lag",
                mirror_is_late,
            ),
            Stat("Disk", f"{free:.0%}", f"free of {disk.total / 2**30:.0f} GB", free < MIN_FREE_DISK),
        ],
        [_broker_plot(depths)],
        background,
    )


def _broker_plot(depths: dict[str, int] | None) -> Plot:
    queues = depths or {}
    return Plot(
        "broker",
        "The broker does not respond, or is in memory."
        if depths is None
        else f"{pluralize(sum(queues.values()), 'message is', 'messages are')} waiting in the broker.",
        [Series("messages", list(queues), [float(depth) for depth in queues.values()], Kind.BAR)],
        "messages",
    )
