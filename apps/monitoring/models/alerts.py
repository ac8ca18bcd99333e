"""Alert rules, the alerts that they opened, and the notifications about them."""

from datetime import datetime
from typing import Any

from django.core.validators import validate_email
from django.db import models
from django.utils import timezone
from uuid_utils.compat import uuid7

from apps.core.models import bounds
from apps.core.text import format_number


def validate_addresses(value: str) -> None:
    """Raise ValidationError unless `value` is a list of e-mail addresses, separated by commas."""
    for address in value.split(","):
        validate_email(address.strip())


class AlertRule(models.Model):
    """A metric, the threshold from which on an alert opens, and who is notified of it."""

    class Metric(models.TextChoices):
        """Metrics of the window. Baseline: the four weeks before, most often at the same hours of the day."""

        ERROR_RATE = "error_share", "Error rate (requests answered with 5xx)"
        LATENCY = "latency_p95_ms", "Scoring time, 95th percentile, ms"
        REQUESTS = "requests_per_hour", "Comments per hour"
        FLAG_RATE = "flag_share", "Flag rate (comments with any label)"
        FLAG_RATE_CHANGE = "flag_change", "Change of the flag rate, ratio to baseline"
        SCORE_DRIFT = "score_psi", "Score drift from the baseline, PSI, highest of all labels"
        LENGTH_DRIFT = "length_psi", "Text length drift from the baseline, PSI"
        UNKNOWN_NGRAM_CHANGE = "unknown_change", "Change of unknown n-grams, ratio to baseline"
        TRAINING_DRIFT = "training_psi", "Score drift from the training data, PSI, highest of all labels"
        NEGATIVE_FEEDBACK = "wrong_share", "Negative feedback rate"
        QUEUE_GROWTH = "queue_growth", "Queue growth (items added minus items decided)"
        QUEUE_ITEMS = "queue_items", "Open queue items now"
        QUEUE_HOURS = "queue_oldest_hours", "Age of the oldest open queue item, hours"
        MIRROR_LAG = "mirror_lag_seconds", "Replication lag of the mirror in DynamoDB, seconds"
        BROKER_MESSAGES = "broker_messages", "Messages waiting in the broker now"
        BACKGROUND_PROBLEMS = "background_problems", "Scheduled tasks and rollups that fail or are overdue"

    class Comparison(models.TextChoices):
        ABOVE = "above", "above"
        BELOW = "below", "below"

    name = models.CharField(max_length=80, unique=True)
    metric = models.CharField(max_length=20, choices=Metric)
    comparison = models.CharField(max_length=5, choices=Comparison, default=Comparison.ABOVE)
    threshold = models.FloatField(
        help_text="The alert opens when the metric's whole confidence interval is beyond the threshold, and "
        "closes when the metric is not beyond it any more. Intervals are 95%; those of ratios to baseline "
        "are 99.9%, so a threshold slightly above 1 reports every significant change.",
        validators=bounds(-1_000_000_000, 1_000_000_000),
    )
    window_hours = models.PositiveSmallIntegerField(
        "window, hours",
        default=1,
        validators=bounds(1, 168),
        help_text="Full hours, plus the current one.",
    )
    emails = models.CharField(
        "e-mail to",
        max_length=500,
        blank=True,
        validators=[validate_addresses],
        help_text="Addresses, separated by commas.",
    )
    webhook_url = models.URLField("webhook to", max_length=500, blank=True)
    webhook_api_key = models.ForeignKey(
        "accounts.APIKey",
        verbose_name="webhook signed for",
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="+",
        help_text="API key whose signing keys sign the webhook. Without one, it is not signed.",
    )
    notification_interval_minutes = models.PositiveIntegerField(
        "notification interval, minutes",
        default=240,
        validators=bounds(0, 525_600),
        help_text="Minimum minutes between notifications of this rule.",
    )
    triggers_training = models.BooleanField(
        "train a model",
        default=False,
        help_text="Train a challenger on the labels collected so far when an alert opens.",
    )
    is_active = models.BooleanField("active", default=True)

    class Meta:
        ordering = ("name",)
        constraints = [
            models.CheckConstraint(
                condition=models.Q(window_hours__gte=1, window_hours__lte=168),
                name="monitoring_rule_window",
                violation_error_message="The window must be from 1 to 168 hours.",
            )
        ]

    def __str__(self) -> str:
        return self.name


# Metrics of the moment of the evaluation, without a window.
MOMENTARY_METRICS = frozenset(
    {
        AlertRule.Metric.QUEUE_ITEMS,
        AlertRule.Metric.QUEUE_HOURS,
        AlertRule.Metric.MIRROR_LAG,
        AlertRule.Metric.BROKER_MESSAGES,
    }
)
# Metrics of the infrastructure. All others count comments or decisions of all communities.
SITE_METRICS = frozenset(
    {
        AlertRule.Metric.ERROR_RATE,
        AlertRule.Metric.LATENCY,
        AlertRule.Metric.MIRROR_LAG,
        AlertRule.Metric.BROKER_MESSAGES,
        AlertRule.Metric.BACKGROUND_PROBLEMS,
    }
)


class AlertQuerySet(models.QuerySet["Alert"]):
    """Queries of alerts by subject and state."""

    def of_the_site(self) -> "AlertQuerySet":
        """Return the alerts about infrastructure, which reveal nothing about any community."""
        return self.filter(metric__in=SITE_METRICS)

    def open(self) -> "AlertQuerySet":
        """Return the alerts whose metric is still beyond the threshold."""
        return self.filter(closed_at=None)


class Alert(models.Model):
    """A metric that went beyond its rule's threshold: by how much, when, and who acknowledged it."""

    rule = models.ForeignKey(AlertRule, on_delete=models.PROTECT, related_name="alerts")
    metric = models.CharField(max_length=20, choices=AlertRule.Metric)
    comparison = models.CharField(max_length=5, choices=AlertRule.Comparison)
    threshold = models.FloatField()
    window_hours = models.PositiveSmallIntegerField("window, hours")
    value = models.FloatField(help_text="When the alert opened.")
    low = models.FloatField(help_text="Lower end of the confidence interval.")
    high = models.FloatField(help_text="Upper end of the confidence interval.")
    subjects: Any = models.JSONField(
        default=list, help_text="Names of what the metric counts, if it counts named things."
    )
    opened_at = models.DateTimeField(default=timezone.now, db_index=True)
    notified_at = models.DateTimeField(null=True, help_text="Last notification.")
    acknowledged_at = models.DateTimeField(null=True)
    acknowledged_by = models.ForeignKey(
        "accounts.User", null=True, on_delete=models.PROTECT, related_name="+"
    )
    closed_at = models.DateTimeField(null=True)

    objects = AlertQuerySet.as_manager()

    class Meta:
        ordering = ("-opened_at", "-pk")
        permissions = [("acknowledge_alert", "Can acknowledge alerts")]
        constraints = [
            models.UniqueConstraint(
                fields=["rule"],
                condition=models.Q(closed_at=None),
                name="monitoring_one_open_alert",
                violation_error_message="This rule already has an open alert.",
            ),
            models.CheckConstraint(
                condition=models.Q(acknowledged_at=None, acknowledged_by=None)
                | models.Q(acknowledged_at__isnull=False, acknowledged_by__isnull=False),
                name="monitoring_acknowledged_by_somebody",
                violation_error_message="An acknowledgement has both a time and a user.",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.rule}, {self.opened_at:%Y-%m-%d %H:%M} UTC"

    @property
    def summary(self) -> str:
        """The metric, its value and the threshold in a sentence."""
        if self.subjects:
            return f"{self.get_metric_display()}: {', '.join(self.subjects)}."
        value = f"{self.get_metric_display()}: {format_number(self.value)}"
        beyond = f"{self.comparison} {format_number(self.threshold)}"
        if self.metric in MOMENTARY_METRICS:
            return f"{value}, {beyond}."
        interval = f"{format_number(self.low)} to {format_number(self.high)}"
        return f"{value} ({interval}), {beyond} over {self.window_hours} h."


class NotificationQuerySet(models.QuerySet["Notification"]):
    """Queries of notifications to send."""

    def due(self, now: datetime) -> "NotificationQuerySet":
        """Return the notifications to be sent by now, the oldest first."""
        unsent = self.filter(sent_at=None, failed_at=None)
        due = unsent.filter(send_after__lte=now, attempts__lt=Notification.MAX_ATTEMPTS)
        return due.order_by("send_after", "pk")


class Notification(models.Model):
    """An e-mail or webhook about an alert, sent or to be sent."""

    MAX_ATTEMPTS = 8  # the last one about two hours after the first

    class Event(models.TextChoices):
        OPENED = "alert.opened", "Opened"
        REMINDER = "alert.reminder", "Still open"
        CLOSED = "alert.closed", "Closed"

    class Channel(models.TextChoices):
        EMAIL = "email", "E-mail"
        WEBHOOK = "webhook", "Webhook"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    alert = models.ForeignKey(Alert, on_delete=models.PROTECT, related_name="notifications")
    event = models.CharField(max_length=14, choices=Event)
    channel = models.CharField(max_length=7, choices=Channel)
    attempts = models.PositiveSmallIntegerField(default=0)
    send_after = models.DateTimeField()
    sent_at = models.DateTimeField(null=True)
    failed_at = models.DateTimeField(null=True, help_text="When the receiver rejected it permanently.")
    error = models.CharField(max_length=300, blank=True)

    objects = NotificationQuerySet.as_manager()

    class Meta:
        ordering = ("-id",)
        indexes = [
            models.Index(
                fields=["send_after"], condition=models.Q(sent_at=None), name="monitoring_notification_due"
            )
        ]

    def __str__(self) -> str:
        return f"{self.event} by {self.channel}"
