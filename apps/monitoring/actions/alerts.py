"""Evaluates alert rules, and opens, closes and acknowledges alerts."""

from datetime import datetime, timedelta

from celery.exceptions import SoftTimeLimitExceeded
from django.db import IntegrityError, transaction
from django.utils import timezone

from apps.accounts.models import User
from apps.accounts.permissions import require
from apps.core.text import pluralize
from apps.monitoring.alert_metrics import TrafficWindow, estimate
from apps.monitoring.drift import Estimate
from apps.monitoring.exceptions import RuleEvaluationError
from apps.monitoring.failures import describe
from apps.monitoring.models import Alert, AlertRule, Notification
from apps.training import actions as training

_DEFAULT_RULES: tuple[tuple[str, AlertRule.Metric, float, int], ...] = (
    ("Requests fail", AlertRule.Metric.ERROR_RATE, 0.01, 1),
    ("Scoring is slow", AlertRule.Metric.LATENCY, 50, 1),
    ("The flag rate has changed", AlertRule.Metric.FLAG_RATE_CHANGE, 1.1, 1),
    ("Scores have drifted", AlertRule.Metric.SCORE_DRIFT, 0.1, 1),
    ("Text lengths have drifted", AlertRule.Metric.LENGTH_DRIFT, 0.1, 1),
    ("Comments contain unknown words", AlertRule.Metric.UNKNOWN_NGRAM_CHANGE, 1.1, 1),
    ("Traffic differs from the training data", AlertRule.Metric.TRAINING_DRIFT, 0.25, 168),
    ("Feedback is mostly negative", AlertRule.Metric.NEGATIVE_FEEDBACK, 0.5, 24),
    ("An item has waited for more than a day", AlertRule.Metric.QUEUE_HOURS, 24, 1),
    ("The mirror lags behind", AlertRule.Metric.MIRROR_LAG, 900, 1),
    ("Messages pile up in the broker", AlertRule.Metric.BROKER_MESSAGES, 1_000, 1),
    ("Background work fails or is overdue", AlertRule.Metric.BACKGROUND_PROBLEMS, 0, 1),
)


@transaction.atomic
def install_default_rules() -> int:
    """Create the default rules whose metric has no rule yet, without recipients; return their number.

    Rules can be deactivated but not deleted, so this does not restore a rule that somebody has turned off.
    """
    metrics = set(AlertRule.objects.values_list("metric", flat=True))
    names = set(AlertRule.objects.values_list("name", flat=True))
    return len(
        AlertRule.objects.bulk_create(
            AlertRule(name=name, metric=metric, threshold=threshold, window_hours=hours)
            for name, metric, threshold, hours in _DEFAULT_RULES
            if metric not in metrics and name not in names
        )
    )


def evaluate_rules(*, now: datetime | None = None) -> list[Alert]:
    """Open alerts whose metric is beyond its threshold, close the others, and queue notifications.

    Several schedulers may call this at the same time; each change is made once.

    Returns:
        The alerts that this call opened.

    Raises:
        RuleEvaluationError: a rule could not be evaluated. All other rules were.
    """
    now = now or timezone.now()
    Alert.objects.open().filter(rule__is_active=False).update(closed_at=now)
    windows: dict[int, TrafficWindow] = {}
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
        raise RuleEvaluationError(
            f"{pluralize(len(failures), 'alert rule')} could not be evaluated: {', '.join(failures)}."
        )
    return opened


def acknowledge(*, alert: Alert, user: User) -> bool:
    """Acknowledge an alert, which stops its reminders. Return False if it was acknowledged already.

    Raises:
        PermissionDeniedError: the user may not acknowledge alerts.
    """
    require(user, "monitoring.acknowledge_alert")
    unacknowledged = Alert.objects.filter(pk=alert.pk, acknowledged_at=None)
    return bool(unacknowledged.update(acknowledged_at=timezone.now(), acknowledged_by=user))


def _evaluate(rule: AlertRule, windows: dict[int, TrafficWindow], now: datetime) -> list[Alert]:
    """Open, close or repeat the alert of one rule; return the alert if it was opened."""
    hours = rule.window_hours
    if hours not in windows:
        windows[hours] = TrafficWindow(now, hours=hours)
    value = estimate(rule.metric, windows[hours])
    alert = rule.alerts.open().first()
    opened = []
    if alert and value and set(value.subjects) - set(alert.subjects):
        _close(alert, now)  # a new problem needs a new alert, because the old one may be acknowledged
        alert = None
    if alert is None and value and _is_beyond(rule, value):
        alert = _open(rule, value, now)
        opened += [alert] if alert else []
    elif alert and value and not _is_beyond(rule, Estimate(value.value, value.value, value.value)):
        _close(alert, now)
        return []
    if alert:
        _notify_if_due(alert, now)
    return opened


def _is_beyond(rule: AlertRule, value: Estimate) -> bool:
    if rule.comparison == AlertRule.Comparison.ABOVE:
        return value.low > rule.threshold
    return value.high < rule.threshold


def _open(rule: AlertRule, value: Estimate, now: datetime) -> Alert | None:
    try:
        with transaction.atomic():
            alert = Alert.objects.create(
                rule=rule,
                metric=rule.metric,
                comparison=rule.comparison,
                threshold=rule.threshold,
                window_hours=rule.window_hours,
                value=value.value,
                low=value.low,
                high=value.high,
                subjects=list(value.subjects),
                opened_at=now,
            )
    except IntegrityError:
        return None  # another scheduler has opened it
    if rule.triggers_training:
        training.request_run(trigger=f"alert {alert.pk}: {rule.name}")
    return alert


@transaction.atomic
def _close(alert: Alert, now: datetime) -> None:
    if Alert.objects.open().filter(pk=alert.pk).update(closed_at=now) and alert.notified_at:
        _create_notifications(alert, Notification.Event.CLOSED, now)


@transaction.atomic
def _notify_if_due(alert: Alert, now: datetime) -> None:
    """Notify of an open alert unless it is acknowledged or its rule has notified recently."""
    since = now - timedelta(minutes=alert.rule.notification_interval_minutes)
    if alert.acknowledged_at or alert.rule.alerts.filter(notified_at__gt=since).exists():
        return
    event = Notification.Event.REMINDER if alert.notified_at else Notification.Event.OPENED
    if Alert.objects.filter(pk=alert.pk, notified_at=alert.notified_at).update(notified_at=now):
        _create_notifications(alert, event, now)


def _create_notifications(alert: Alert, event: Notification.Event, now: datetime) -> None:
    rule = alert.rule
    channels = {Notification.Channel.EMAIL: rule.emails, Notification.Channel.WEBHOOK: rule.webhook_url}
    Notification.objects.bulk_create(
        Notification(alert=alert, event=event, channel=channel, send_after=now)
        for channel, recipient in channels.items()
        if recipient
    )
