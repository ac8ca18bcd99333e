"""Sends notifications about alerts as e-mails and webhooks."""

import logging
import sys
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

from celery.exceptions import SoftTimeLimitExceeded
from django.conf import settings
from django.core.mail import EmailMessage, get_connection
from django.urls import reverse
from django.utils import timezone

from apps.accounts.models import User
from apps.accounts.permissions import require
from apps.core.retries import back_off
from apps.monitoring.failures import describe
from apps.monitoring.models import Alert, AlertRule, Notification
from apps.webhooks import actions as webhooks
from apps.webhooks import retries, signing
from apps.webhooks.exceptions import WebhookError
from apps.webhooks.retries import Attempt

logger = logging.getLogger(__name__)

_FIRST_RETRY, _LONGEST_RETRY = timedelta(minutes=1), timedelta(hours=2)
_BATCH = 20


def due_notifications() -> list[UUID]:
    """Return the ids of the notifications to send now, with at most one webhook for each URL."""
    notifications = Notification.objects.due(timezone.now()).select_related("alert__rule")
    urls: set[str] = set()
    due = []
    for notification in notifications[: 10 * _BATCH]:
        is_webhook = notification.channel == Notification.Channel.WEBHOOK
        url = notification.alert.rule.webhook_url if is_webhook else ""
        if url in urls:
            continue
        if url:
            urls.add(url)
        due.append(notification.pk)
    return due[:_BATCH]


def send_due_notifications() -> int:
    """Send the notifications that are due, and return the number of those sent."""
    return sum(send_notification(notification_id=pk) for pk in due_notifications())


def send_notification(*, notification_id: UUID) -> bool:
    """Send a notification if it is due, and return whether it was sent.

    A notification that can't be sent is retried with increasing delays.
    """
    notification = (
        Notification.objects.due(timezone.now())
        .filter(pk=notification_id)
        .select_related("alert__rule__webhook_api_key")
        .first()
    )
    return notification is not None and _send(notification)


def send_test_webhook(*, rule: AlertRule, user: User) -> Attempt:
    """Send a test webhook to the rule's URL and return the result.

    Raises:
        PermissionDeniedError: the user may not change alert rules.
        WebhookError: the rule has no URL, or too many tests are being sent.
    """
    permission = "monitoring.change_alertrule"
    require(user, permission)
    if not rule.webhook_url:
        raise WebhookError(f"The rule “{rule.name}” has no webhook URL. Enter one and save the rule.")
    return webhooks.send_test(
        api_key=rule.webhook_api_key, url=rule.webhook_url, actor=user, permission=permission
    )


def _send(notification: Notification) -> bool:
    # The process that moves `send_after` makes this attempt. If it dies, the next attempt is due then.
    now = timezone.now()
    retry_at = now + back_off(notification.attempts + 1, first=_FIRST_RETRY, longest=_LONGEST_RETRY)
    unclaimed = Notification.objects.filter(pk=notification.pk, sent_at=None, attempts=notification.attempts)
    if not unclaimed.update(attempts=notification.attempts + 1, send_after=retry_at):
        return False
    notification.attempts += 1
    try:
        attempt = SENDERS[notification.channel](notification)
    except SoftTimeLimitExceeded:
        raise
    except Exception as error:  # must not prevent other notifications
        attempt = Attempt(error=describe(error))
    if attempt.retry_after is not None:
        retry_at = now + max(attempt.retry_after, timedelta(seconds=1))
    Notification.objects.filter(pk=notification.pk).update(
        error=attempt.error[:300],
        send_after=retry_at,
        sent_at=timezone.now() if attempt.is_delivered else None,
        failed_at=timezone.now() if attempt.is_permanent else None,
    )
    if attempt.error:
        logger.warning("Notification %s could not be sent: %s", notification.pk, attempt.error)
    return attempt.is_delivered


def _send_email(notification: Notification) -> Attempt:
    alert = notification.alert
    event = notification.get_event_display().lower()
    opened = f"Opened {alert.opened_at:%Y-%m-%d %H:%M} UTC."
    message = EmailMessage(
        subject=f"toxicmod: {alert.rule.name} ({event})",
        body=f"{alert.summary}\n\n{opened}\n{_alert_url(alert)}".strip(),
        to=[address.strip() for address in alert.rule.emails.split(",")],
        # The default backend prints. In a worker, Celery redirects `sys.stdout` to a log that is off.
        connection=get_connection(stream=sys.__stdout__),
    )
    try:
        message.send()
    except OSError as error:  # the base class of socket, TLS and SMTP errors
        return Attempt(error=f"{error.__class__.__name__}: the mail server did not accept the message.")
    return Attempt()


def _send_webhook(notification: Notification) -> Attempt:
    rule = notification.alert.rule
    return retries.attempt(
        lambda: signing.send(
            delivery_id=str(notification.pk),
            attempt=notification.attempts,
            url=rule.webhook_url,
            payload=_payload(notification),
            api_key=rule.webhook_api_key,
        )
    )


SENDERS: dict[str, Callable[[Notification], Attempt]] = {
    Notification.Channel.EMAIL: _send_email,
    Notification.Channel.WEBHOOK: _send_webhook,
}


def _payload(notification: Notification) -> dict[str, Any]:
    """Return the JSON of a webhook about an alert. It holds no comments and no names of users."""
    alert = notification.alert
    return {
        "event": notification.event,
        "alert_id": alert.pk,
        "rule": alert.rule.name,
        "metric": alert.metric,
        "value": alert.value,
        "low": alert.low,
        "high": alert.high,
        "comparison": alert.comparison,
        "threshold": alert.threshold,
        "window_hours": alert.window_hours,
        "subjects": alert.subjects,
        "opened_at": alert.opened_at.isoformat(),
        "closed_at": alert.closed_at and alert.closed_at.isoformat(),
        "url": _alert_url(alert),
    }


def _alert_url(alert: Alert) -> str:
    return settings.PUBLIC_URL and settings.PUBLIC_URL + reverse(
        "admin:monitoring_alert_change", args=[alert.pk]
    )
