"""Reads of monitoring's tables: what a user may see of alerts, and recent traffic."""

from dataclasses import dataclass
from datetime import datetime

from django.db.models import QuerySet, Sum
from django.utils import timezone

from apps.accounts.models import User
from apps.accounts.permissions import communities_of
from apps.monitoring.models import SITE_METRICS, Alert, HourlyRollup, Notification
from apps.monitoring.rollups.hours import HOUR, start_of_hour


def visible_alerts(user: User) -> QuerySet[Alert]:
    """Return all alerts, or those about infrastructure if the user does not see all communities."""
    alerts = Alert.objects.all()
    return alerts if communities_of(user) is None else alerts.of_the_site()


def visible_notifications(user: User) -> QuerySet[Notification]:
    """Return the notifications about the alerts that the user may see."""
    notifications = Notification.objects.all()
    if communities_of(user) is None:
        return notifications
    return notifications.filter(alert__metric__in=SITE_METRICS)


@dataclass(frozen=True)
class RecentTraffic:
    """The traffic of all communities since a full hour, as far as it is counted.

    Attributes:
        flagged: predictions with at least one label.
        mean_latency_us: mean scoring time in µs; None without predictions.
    """

    since: datetime
    predictions: int
    flagged: int
    feedback: int
    mean_latency_us: int | None


def recent_traffic() -> RecentTraffic:
    """Return the traffic of the current hour and the one before, from hourly rollups."""
    since = start_of_hour(timezone.now()) - HOUR
    columns = ("requests", "any_flagged", "feedback_right", "feedback_wrong", "latency_total_us")
    rollups = HourlyRollup.objects.overall().filter(hour__gte=since)
    totals = rollups.aggregate(**{name: Sum(name, default=0) for name in columns})
    requests = totals["requests"]
    return RecentTraffic(
        since=since,
        predictions=requests,
        flagged=totals["any_flagged"],
        feedback=totals["feedback_right"] + totals["feedback_wrong"],
        mean_latency_us=round(totals["latency_total_us"] / requests) if requests else None,
    )
