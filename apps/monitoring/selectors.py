"""Reads of monitoring's tables: what a user may see of alerts, and recent traffic."""

from django.db.models import QuerySet

from apps.accounts.models import User
from apps.accounts.permissions import communities_of
from apps.monitoring.models import SITE_METRICS, Alert, Notification


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
