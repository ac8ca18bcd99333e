"""What is done with alerts: watch the rules, tell people, acknowledge."""

import logging
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from celery.exceptions import SoftTimeLimitExceeded
from django.conf import settings
from django.core.mail import EmailMessage
from django.db import IntegrityError, transaction
from django.urls import reverse
from django.utils import timezone

from apps.accounts.models import User
from apps.moderation.permissions import require
from apps.monitoring.drift import Estimate
from apps.monitoring.failures import describe
from apps.monitoring.measures import Traffic, measure
from apps.monitoring.models import Alert, AlertRule, Notice
from apps.training import actions as training
from apps.webhooks import actions as webhooks
from apps.webhooks import retries, signing
from apps.webhooks.exceptions import WebhookError
from apps.webhooks.retries import Attempt

logger = logging.getLogger(__name__)

ACKNOWLEDGE = "monitoring.acknowledge_alert"
_FIRST_WAIT = timedelta(minutes=1)
_AT_ONCE = 20
_ABOVE = AlertRule.Comparison.ABOVE
_RULES: tuple[tuple[str, AlertRule.Metric, float, int], ...] = (
    ("Calls fail", AlertRule.Metric.ERROR_SHARE, 0.01, 1),
    ("Scoring is slow", AlertRule.Metric.LATENCY, 50, 1),
    ("The flag rate has changed", AlertRule.Metric.FLAG_CHANGE, 1.1, 1),
    ("The scores have shifted", AlertRule.Metric.SCORE_SHIFT, 0.1, 1),
    ("The texts' length has shifted", AlertRule.Metric.LENGTH_SHIFT, 0.1, 1),
    ("People write unknown words", AlertRule.Metric.WORD_CHANGE, 1.1, 1),
    ("Traffic is not what the model learned from", AlertRule.Metric.TRAINING_SHIFT, 0.25, 168),
    ("Feedback says the model is wrong", AlertRule.Metric.WRONG_SHARE, 0.5, 24),
    ("An item waits for more than a day", AlertRule.Metric.QUEUE_HOURS, 24, 1),
    ("The mirror is behind", AlertRule.Metric.MIRROR_SECONDS, 900, 1),
    ("Background work piles up", AlertRule.Metric.BROKER_MESSAGES, 1_000, 1),
    ("Background work fails or is overdue", AlertRule.Metric.BACKGROUND_PROBLEMS, 0, 1),
)


class EvaluationError(Exception):
    """Some rules could not be evaluated; the others were. The message names them."""


@transaction.atomic
def install_default_rules() -> int:
    """Store the default rules whose metric has no rule yet, without recipients; return how many.

    Rules are turned off, not deleted, so no rule comes back that somebody did not want.
    """
    present = set(AlertRule.objects.values_list("metric", flat=True))
    names = set(AlertRule.objects.values_list("name", flat=True))
    return len(
        AlertRule.objects.bulk_create(
            AlertRule(name=name, metric=metric, threshold=threshold, window_hours=hours)
            for name, metric, threshold, hours in _RULES
            if metric not in present and name not in names
        )
    )


def evaluate(*, now: datetime | None = None) -> list[Alert]:
    """Open the alerts whose figure is beyond its threshold, close those where it isn't; tell who is to know.

    Any number of schedulers may call it at once, and again: each change is made by one of them, once.

    Returns:
        The alerts that this call opened.

    Raises:
        EvaluationError: a rule could not be evaluated; the others were.
    """
    now = now or timezone.now()
    Alert.objects.open().filter(rule__is_active=False).update(closed_at=now)
    windows: dict[int, Traffic] = {}
    opened: list[Alert] = []
    failures = []
    for rule in AlertRule.objects.filter(is_active=True):
        try:
            opened += _evaluate(rule, windows, now)
        except SoftTimeLimitExceeded:
            raise
        except Exception as error:
            failures.append(f"“{rule.name}” ({describe(error)})")
    if failures:
        raise EvaluationError(f"{len(failures)} alert rules could not be evaluated: {', '.join(failures)}.")
    return opened


def _evaluate(rule: AlertRule, windows: dict[int, Traffic], now: datetime) -> list[Alert]:
    """Open, close or repeat the alert of one rule; return what was opened."""
    hours = rule.window_hours
    if hours not in windows:
        windows[hours] = Traffic(now, hours=hours)
    found = measure(rule.metric, windows[hours])
    alert = rule.alerts.open().first()
    opened = []
    if alert and found and set(found.subjects) - set(alert.subjects):
        _close(alert, now)  # an alert that somebody acknowledged must not hide what fails later
        alert = None
    if alert is None and found and _is_beyond(rule, found):
        alert = _open(rule, found, now)
        opened += [alert] if alert else []
    elif alert and found and not _is_beyond(rule, Estimate(found.value, found.value, found.value)):
        _close(alert, now)
        return []
    if alert:
        _tell_if_due(alert, now)
    return opened


def _is_beyond(rule: AlertRule, found: Estimate) -> bool:
    return found.low > rule.threshold if rule.comparison == _ABOVE else found.high < rule.threshold


def _open(rule: AlertRule, found: Estimate, now: datetime) -> Alert | None:
    try:
        with transaction.atomic():
            alert = Alert.objects.create(
                rule=rule,
                metric=rule.metric,
                comparison=rule.comparison,
                threshold=rule.threshold,
                window_hours=rule.window_hours,
                value=found.value,
                low=found.low,
                high=found.high,
                subjects=list(found.subjects),
                opened_at=now,
            )
    except IntegrityError:
        return None  # another scheduler was faster
    if rule.trains:
        training.request_run(trigger=f"alert {alert.pk}: {rule.name}")
    return alert


@transaction.atomic
def _close(alert: Alert, now: datetime) -> None:
    if Alert.objects.open().filter(pk=alert.pk).update(closed_at=now) and alert.told_at:
        _write_notices(alert, Notice.Event.CLOSED, now)


@transaction.atomic
def _tell_if_due(alert: Alert, now: datetime) -> None:
    """Tell of an open alert that nobody acknowledged, unless somebody was told of its rule lately."""
    quiet = timedelta(minutes=alert.rule.quiet_minutes)
    if alert.acknowledged_at or alert.rule.alerts.filter(told_at__gt=now - quiet).exists():
        return
    event = Notice.Event.REMINDER if alert.told_at else Notice.Event.OPENED
    if Alert.objects.filter(pk=alert.pk, told_at=alert.told_at).update(told_at=now):
        _write_notices(alert, event, now)


def _write_notices(alert: Alert, event: Notice.Event, now: datetime) -> None:
    rule = alert.rule
    channels = {Notice.Channel.EMAIL: rule.emails, Notice.Channel.WEBHOOK: rule.webhook_url}
    Notice.objects.bulk_create(
        Notice(alert=alert, event=event, channel=channel, send_after=now)
        for channel, address in channels.items()
        if address
    )


def due_notices() -> list[UUID]:
    """Return the ids of the notices to be sent now; of webhooks, one to each URL."""
    notices = Notice.objects.due(timezone.now()).select_related("alert__rule")
    receivers: set[str] = set()
    due = []
    for notice in notices[: 10 * _AT_ONCE]:
        url = notice.alert.rule.webhook_url if notice.channel == Notice.Channel.WEBHOOK else ""
        if url in receivers:
            continue
        if url:
            receivers.add(url)
        due.append(notice.pk)
    return due[:_AT_ONCE]


def send_due_notices() -> int:
    """Send the notices that are due; return how many went out. What fails is tried ever more seldom."""
    return sum(send_notice(notice_id=pk) for pk in due_notices())


def send_notice(*, notice_id: UUID) -> bool:
    """Send a notice that is due; return whether it was sent."""
    notice = (
        Notice.objects.due(timezone.now())
        .filter(pk=notice_id)
        .select_related("alert__rule__webhook_client")
        .first()
    )
    return notice is not None and _send(notice)


def _send(notice: Notice) -> bool:
    # Whoever moves the time of the next attempt makes this one; a sender that dies leaves it to the next.
    now = timezone.now()
    again = now + _FIRST_WAIT * 2**notice.attempts
    claimed = Notice.objects.filter(pk=notice.pk, sent_at=None, attempts=notice.attempts)
    if not claimed.update(attempts=notice.attempts + 1, send_after=again):
        return False
    notice.attempts += 1
    try:
        attempt = _SENDERS[notice.channel](notice)
    except SoftTimeLimitExceeded:
        raise
    except Exception as error:  # the other notices must go out
        attempt = Attempt(error=describe(error))
    if attempt.retry_after is not None:
        again = now + max(attempt.retry_after, timedelta(seconds=1))
    Notice.objects.filter(pk=notice.pk).update(
        error=attempt.error[:300],
        send_after=again,
        sent_at=timezone.now() if attempt.is_delivered else None,
        failed_at=timezone.now() if attempt.is_permanent else None,
    )
    if attempt.error:
        logger.warning("Notice %s could not be sent: %s", notice.pk, attempt.error)
    return attempt.is_delivered


def _email(notice: Notice) -> Attempt:
    """Send an e-mail; return how that ended."""
    alert = notice.alert
    message = EmailMessage(
        subject=f"toxicmod: {alert.rule.name} ({notice.get_event_display().lower()})",
        body=f"{alert.sentence}\n\nOpened {alert.opened_at:%Y-%m-%d %H:%M} UTC.\n{_address(alert)}".strip(),
        to=[address.strip() for address in alert.rule.emails.split(",")],
    )
    try:
        message.send()
    except OSError as failure:  # of sockets, TLS and SMTP alike
        return Attempt(error=f"{failure.__class__.__name__}: the mail server did not take it.")
    return Attempt()


def _webhook(notice: Notice) -> Attempt:
    """Sign and send a webhook; return how that ended."""
    rule = notice.alert.rule
    return retries.attempt(
        lambda: signing.send(
            delivery_id=str(notice.pk),
            attempt=notice.attempts,
            url=rule.webhook_url,
            payload=payload(notice),
            client=rule.webhook_client,
        )
    )


def send_test(*, rule: AlertRule, user: User) -> Attempt:
    """Send a test webhook to the rule's receiver and return how that ended.

    Raises:
        PermissionDenied: the user may not change alert rules.
        WebhookError: the rule has no receiver, or other tests are being sent.
    """
    require(user, "monitoring.change_alertrule")
    if not rule.webhook_url:
        raise WebhookError(f"The rule “{rule.name}” sends no webhook.")
    return webhooks.send_test(
        client=rule.webhook_client, url=rule.webhook_url, actor=webhooks.Actor(user.get_username())
    )


_SENDERS: dict[str, Callable[[Notice], Attempt]] = {
    Notice.Channel.EMAIL: _email,
    Notice.Channel.WEBHOOK: _webhook,
}


def payload(notice: Notice) -> dict[str, Any]:
    """Return what a webhook says of an alert: figures only, nobody's words or names."""
    alert = notice.alert
    return {
        "event": notice.event,
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
        "url": _address(alert),
    }


def _address(alert: Alert) -> str:
    return settings.PUBLIC_URL and settings.PUBLIC_URL + reverse(
        "admin:monitoring_alert_change", args=[alert.pk]
    )


def acknowledge(*, alert: Alert, user: User) -> bool:
    """Note that somebody sees to an alert: it reminds nobody any more. False where somebody did already.

    Raises:
        PermissionDenied: the user may not.
    """
    require(user, ACKNOWLEDGE)
    return bool(
        Alert.objects.filter(pk=alert.pk, acknowledged_at=None).update(
            acknowledged_at=timezone.now(), acknowledged_by=user
        )
    )
