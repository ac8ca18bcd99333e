"""What dashboard and alerts read: traffic by hour, calls by minute, and what traffic is held against.

The arrays of a `HourlyRollup`, packed as little-endian numbers; an empty one is all zeros:

- `flagged` (6,): comments whose label's threshold was reached, in the order of LABELS.
- `scores` (6, 50): comments by probability, for each label; equal bins from 0 to 1.
- `latency` (60,): comments by time of scoring, ten bins to a decade from 10 µs to 10 s.
- `lengths` (30,): comments by characters, six bins to a decade from 1 to 100,000; those kept with their text.
- `words` (2,): n-grams of the sampled comments: all, and those that the model never learned.
- `groups` (14, 2): sampled comments that name the group of GROUPS: all, and those with any label.
- `waits` (35,): decisions by the time since the item came, five bins to a decade from 1 to 10,000,000 s.
- `judged` (6, 10, 2, 2, 2): moderators' verdicts by label, tenth of the score, whether predicted, whether
  true; then the sum of their weights and that of the weights' squares.
- `said` (6, 10, 2, 2, 2): the same of feedback, each of weight 1.

`outcomes` is no array but counts by value of `Submission.Outcome`, so that a new value moves no other. Arrays
whose first axis is a list of names take new names at its end: in older rows their counts are zero.

A value beyond an array's range counts in its first or last bin. Predictions count in the hour they were made,
what people answer in the hour they answered, under their prediction's version, source and community. Every
prediction counts twice: in the row of its community and in the row over all communities. So read one kind or
the other: `overall()` or `of_community(name)`.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import numpy as np
from django.core.validators import validate_email
from django.db import models
from django.utils import timezone
from uuid_utils.compat import uuid7

from apps.classifier.labels import LABELS
from apps.core.text import pluralize
from apps.predictions.models import Prediction

SCORE_BINS = 50
JUDGED_BINS = 10
SCORE_EDGES = np.linspace(0, 1, SCORE_BINS + 1)
LATENCY_EDGES = np.logspace(1, 7, 61)  # µs
LENGTH_EDGES = np.logspace(0, 5, 31)  # characters
WAIT_EDGES = np.logspace(0, 7, 36)  # seconds
# Groups as they are named in comments; the words are those of the bias audit.
GROUPS = (
    "women", "men", "gay", "lesbian", "transgender", "black", "white", "asian", "muslim", "jewish",
    "christian", "immigrant", "disabled", "old",
)  # fmt: skip


class ArrayField(models.BinaryField):
    """A NumPy array of a fixed shape, packed; one of zeros takes no room.

    With `grows` the first axis is a list of names to which names may be appended.
    """

    def __init__(
        self, *args: Any, shape: Sequence[int], dtype: str = "<u4", grows: bool = False, **kwargs: Any
    ) -> None:
        self.shape, self.dtype, self.grows = tuple(shape), dtype, grows
        super().__init__(*args, **{"default": bytes, **kwargs})

    def deconstruct(self) -> Any:
        name, path, args, kwargs = super().deconstruct()
        own = {"shape": self.shape, "dtype": self.dtype} | ({"grows": True} if self.grows else {})
        return name, path, args, {**kwargs, **own}

    def from_db_value(self, value: Any, expression: Any, connection: Any) -> np.ndarray:
        if not value:
            return np.zeros(self.shape, self.dtype)
        stored = np.frombuffer(value, self.dtype)
        if not self.grows or stored.size == np.prod(self.shape):
            return stored.reshape(self.shape)
        whole = np.zeros(self.shape, self.dtype)
        stored = stored.reshape(-1, *self.shape[1:])[: self.shape[0]]
        whole[: len(stored)] = stored
        return whole

    def get_db_prep_value(self, value: Any, connection: Any, prepared: bool = False) -> Any:
        packed = np.ascontiguousarray(value, self.dtype).tobytes() if np.any(value) else b""
        return super().get_db_prep_value(packed, connection, prepared)


class HourlyRollupQuerySet(models.QuerySet["HourlyRollup"]):
    def overall(self) -> "HourlyRollupQuerySet":
        """Return the rows over all communities."""
        return self.filter(overall=True)

    def of_community(self, name: str) -> "HourlyRollupQuerySet":
        """Return the rows of one community; those of comments without one have the name ""."""
        return self.filter(overall=False, community=name)


class HourlyRollup(models.Model):
    """An hour's traffic of one model version, source and community, or of all communities."""

    hour = models.DateTimeField(help_text="Its start.")
    version = models.ForeignKey("registry.ModelVersion", on_delete=models.PROTECT, related_name="+")
    source = models.CharField(max_length=12, choices=Prediction.Source)
    overall = models.BooleanField(help_text="Over all communities; `community` is empty then.")
    community = models.CharField(max_length=100, blank=True)
    requests = models.PositiveIntegerField(default=0, help_text="Comments scored.")
    errors = models.PositiveIntegerField(
        default=0,
        help_text="Calls answered by 5xx. Known by source only: in the rows over all communities, under the "
        "version that served then.",
    )
    any_flagged = models.PositiveIntegerField(default=0, help_text="Comments with any label.")
    sampled = models.PositiveIntegerField(default=0, help_text="Comments whose words were looked at.")
    queued = models.PositiveIntegerField(default=0, help_text="Items that came into the queue.")
    approved = models.PositiveIntegerField(default=0, help_text="By moderators.")
    rejected = models.PositiveIntegerField(default=0, help_text="By moderators.")
    escalated = models.PositiveIntegerField(default=0)
    reversed = models.PositiveIntegerField(default=0, help_text="Decisions taken back, appeals included.")
    escalations_reversed = models.PositiveIntegerField(
        default=0, help_text="Those of `reversed` that took back an escalation; 0 in rows counted before."
    )
    right = models.PositiveIntegerField(default=0, help_text="Feedback that the prediction is right.")
    wrong = models.PositiveIntegerField(default=0, help_text="Feedback that it is wrong.")
    flagged = ArrayField(shape=(len(LABELS),), grows=True)
    scores = ArrayField(shape=(len(LABELS), SCORE_BINS), grows=True)
    latency = ArrayField(shape=(len(LATENCY_EDGES) - 1,))
    lengths = ArrayField(shape=(len(LENGTH_EDGES) - 1,))
    words = ArrayField(shape=(2,))
    groups = ArrayField(shape=(len(GROUPS), 2), grows=True)
    outcomes: Any = models.JSONField(default=dict, help_text="What the policy answered, by outcome.")
    waits = ArrayField(shape=(len(WAIT_EDGES) - 1,))
    judged = ArrayField(shape=(len(LABELS), JUDGED_BINS, 2, 2, 2), dtype="<f8", grows=True)
    said = ArrayField(shape=(len(LABELS), JUDGED_BINS, 2, 2, 2), dtype="<f8", grows=True)

    objects = HourlyRollupQuerySet.as_manager()

    class Meta:
        ordering = ("hour", "version", "source", "community")
        permissions = [("view_dashboard", "Can see the monitoring dashboard")]
        constraints = [
            models.UniqueConstraint(
                fields=["overall", "community", "hour", "version", "source"], name="monitoring_one_rollup"
            ),
            models.CheckConstraint(
                condition=models.Q(overall=False) | models.Q(community=""),
                name="monitoring_overall_has_no_community",
                violation_error_message="A rollup of all communities names no community.",
            ),
        ]
        indexes = [models.Index(fields=["hour"], name="monitoring_rollup_hour")]

    def __str__(self) -> str:
        where = "all communities" if self.overall else self.community or "no community"
        return f"{self.hour:%Y-%m-%d %H:00}, {where}"


class Progress(models.Model):
    """How far rollups have come, one row for each place that predictions are read from."""

    origin = models.CharField(max_length=10, primary_key=True)
    until = models.DateTimeField(null=True, help_text="What was stored before this moment has been counted.")
    recounted_at = models.DateTimeField(null=True, help_text="When old hours were last counted again.")
    held_by = models.UUIDField(null=True)
    held_until = models.DateTimeField(null=True, help_text="Another run may take over from here on.")

    class Meta:
        verbose_name_plural = "progress"

    def __str__(self) -> str:
        return f"{self.origin} until {self.until}"


class UncountedHour(models.Model):
    """An hour of which something could not be counted. It is retried until all of it is."""

    origin = models.CharField(max_length=10)
    hour = models.DateTimeField(help_text="Its start.")
    skipped = models.PositiveIntegerField(
        null=True, help_text="Rows that were left out; empty: nothing of the hour was counted."
    )
    error = models.CharField(max_length=300)
    attempts = models.PositiveIntegerField(default=1)
    first_failed_at = models.DateTimeField(default=timezone.now)
    retry_at = models.DateTimeField()

    class Meta:
        ordering = ("-hour", "origin")
        constraints = [
            models.UniqueConstraint(fields=["origin", "hour"], name="monitoring_one_uncounted_hour")
        ]

    def __str__(self) -> str:
        what = "not counted" if self.skipped is None else f"{pluralize(self.skipped, 'row')} left out"
        return f"{self.hour:%Y-%m-%d %H:00}, {what}: {self.error}"


class ScheduledTask(models.Model):
    """How the last runs of a scheduled task ended; see `monitoring.schedules`."""

    task = models.CharField(max_length=200, primary_key=True)
    created_at = models.DateTimeField(default=timezone.now, help_text="Since when it is expected to run.")
    succeeded_at = models.DateTimeField(null=True, help_text="Its last success, to within 30 seconds.")
    failures = models.PositiveIntegerField(default=0, help_text="In a row.")
    failing_since = models.DateTimeField(null=True)
    error = models.CharField(max_length=300, blank=True)

    class Meta:
        ordering = ("task",)

    def __str__(self) -> str:
        return self.task


class RequestMinute(models.Model):
    """The calls that one process answered in a minute, by source."""

    minute = models.DateTimeField(help_text="Its start.")
    source = models.CharField(max_length=12, choices=Prediction.Source)
    process = models.CharField(max_length=100, help_text="Host and process number.")
    requests = models.PositiveIntegerField()
    refused = models.PositiveIntegerField(help_text="Answered by 4xx: the caller's mistake.")
    errors = models.PositiveIntegerField(help_text="Answered by 5xx: ours.")
    latency = ArrayField(shape=(len(LATENCY_EDGES) - 1,))

    class Meta:
        ordering = ("-minute",)
        constraints = [
            models.UniqueConstraint(fields=["minute", "source", "process"], name="monitoring_one_minute")
        ]

    def __str__(self) -> str:
        return f"{self.source} {self.minute:%Y-%m-%d %H:%M}"


class Reference(models.Model):
    """How a version did before it saw traffic: held-out rows scored by its twin, and the bias audit."""

    version = models.OneToOneField("registry.ModelVersion", primary_key=True, on_delete=models.CASCADE)
    dataset = models.CharField(
        max_length=120, blank=True, help_text="Its name and version; empty: its file is not here."
    )
    rows = models.PositiveIntegerField(default=0)
    bias: Any = models.JSONField(
        default=dict, help_text="Of each group: subgroup, BPSN and BNSP AUC of the label toxic."
    )
    flagged = ArrayField(shape=(len(LABELS),), grows=True)
    scores = ArrayField(shape=(len(LABELS), SCORE_BINS), grows=True)
    lengths = ArrayField(shape=(len(LENGTH_EDGES) - 1,))
    words = ArrayField(shape=(2,))
    created_at = models.DateTimeField(default=timezone.now)

    def __str__(self) -> str:
        return f"{self.version} on {self.dataset}"


class DomainCheck(models.Model):
    """How well a classifier told last week's comments from the reference's, and by which words."""

    version = models.ForeignKey("registry.ModelVersion", on_delete=models.CASCADE, related_name="+")
    compared = models.CharField(max_length=200, help_text="With what.")
    comments = models.PositiveIntegerField()
    auc = models.FloatField("ROC-AUC")
    low = models.FloatField(help_text="Of the 95 % interval.")
    high = models.FloatField(help_text="Of the 95 % interval.")
    phrases: Any = models.JSONField(help_text="Word or pair of words, share before, share after, strength.")
    created_at = models.DateTimeField(default=timezone.now, db_index=True)

    class Meta:
        ordering = ("-created_at", "-pk")

    def __str__(self) -> str:
        return f"{self.version} {self.created_at:%Y-%m-%d}: {self.auc:.3f}"


def validate_addresses(value: str) -> None:
    """Raise ValidationError unless `value` is e-mail addresses separated by commas."""
    for address in value.split(","):
        validate_email(address.strip())


class AlertRule(models.Model):
    """What is to be noticed, from which figure on, and who is told."""

    class Metric(models.TextChoices):
        """The figures of the window; "before" is the four weeks before, at the same hours of the day."""

        ERROR_SHARE = "error_share", "Share of calls that failed (5xx)"
        LATENCY = "latency_p95_ms", "95th percentile of scoring time, ms"
        REQUESTS = "requests_per_hour", "Comments an hour"
        FLAG_SHARE = "flag_share", "Share of comments with any label"
        FLAG_CHANGE = "flag_change", "Comments with any label against before: times as many or as few"
        SCORE_SHIFT = "score_psi", "Scores against before: PSI, worst label"
        LENGTH_SHIFT = "length_psi", "Text lengths against before: PSI"
        WORD_CHANGE = "unknown_change", "Unknown n-grams against before: times as many or as few"
        TRAINING_SHIFT = "training_psi", "Scores against the training reference: PSI, worst label"
        WRONG_SHARE = "wrong_share", "Share of feedback that says the prediction is wrong"
        QUEUE_GROWTH = "queue_growth", "Queue items that came, less those decided"
        QUEUE_ITEMS = "queue_items", "Open queue items, at this moment"
        QUEUE_HOURS = "queue_oldest_hours", "Age of the oldest open queue item, hours"
        MIRROR_SECONDS = "mirror_lag_seconds", "How far the mirror in DynamoDB is behind, seconds"
        BROKER_MESSAGES = "broker_messages", "Messages that wait in the broker, at this moment"
        BACKGROUND_PROBLEMS = "background_problems", "Scheduled tasks and counts that fail or are overdue"

    class Comparison(models.TextChoices):
        ABOVE = "above", "above"
        BELOW = "below", "below"

    name = models.CharField(max_length=80, unique=True)
    metric = models.CharField(max_length=20, choices=Metric)
    comparison = models.CharField(max_length=5, choices=Comparison, default=Comparison.ABOVE)
    threshold = models.FloatField(
        help_text="The alert opens when the whole interval of the figure is beyond it, and closes when the "
        "figure is not. Intervals hold 95 %, those of “times as many” 99.9 %: with them a threshold "
        "little above 1 tells of any change that is not chance."
    )
    window_hours = models.PositiveSmallIntegerField(
        "window, hours", default=1, help_text="So many whole hours and the one that runs."
    )
    emails = models.CharField(
        "e-mail to",
        max_length=500,
        blank=True,
        validators=[validate_addresses],
        help_text="Addresses, separated by commas.",
    )
    webhook_url = models.URLField("webhook to", max_length=500, blank=True)
    webhook_client = models.ForeignKey(
        "accounts.APIKey",
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="+",
        help_text="Whose webhook keys sign it; empty: it is not signed.",
    )
    quiet_minutes = models.PositiveIntegerField(
        default=240, help_text="For so long after telling somebody nobody is told of this rule again."
    )
    trains = models.BooleanField(
        "train a model", default=False, help_text="Have a challenger trained on what was said until then."
    )
    is_active = models.BooleanField("active", default=True)

    class Meta:
        ordering = ("name",)
        constraints = [
            models.CheckConstraint(
                condition=models.Q(window_hours__gte=1, window_hours__lte=168),
                name="monitoring_rule_window",
                violation_error_message="The window has from 1 to 168 hours.",
            )
        ]

    def __str__(self) -> str:
        return self.name


# Metrics of the machinery. All others count comments or decisions of all communities.
SITE_METRICS = frozenset(
    {
        AlertRule.Metric.ERROR_SHARE,
        AlertRule.Metric.LATENCY,
        AlertRule.Metric.MIRROR_SECONDS,
        AlertRule.Metric.BROKER_MESSAGES,
        AlertRule.Metric.BACKGROUND_PROBLEMS,
    }
)


class AlertQuerySet(models.QuerySet["Alert"]):
    def of_the_site(self) -> "AlertQuerySet":
        """Return the alerts on the machinery, which say nothing of any community."""
        return self.filter(metric__in=SITE_METRICS)

    def open(self) -> "AlertQuerySet":
        """Return the alerts whose figure is still beyond the threshold."""
        return self.filter(closed_at=None)


class Alert(models.Model):
    """A rule's figure went beyond its threshold: by how much, who saw to it, and when it was over."""

    rule = models.ForeignKey(AlertRule, on_delete=models.PROTECT, related_name="alerts")
    metric = models.CharField(max_length=20, choices=AlertRule.Metric)
    comparison = models.CharField(max_length=5, choices=AlertRule.Comparison)
    threshold = models.FloatField()
    window_hours = models.PositiveSmallIntegerField("window, hours")
    value = models.FloatField(help_text="When the alert opened.")
    low = models.FloatField(help_text="Of the interval.")
    high = models.FloatField(help_text="Of the interval.")
    subjects: Any = models.JSONField(
        default=list, help_text="What the figure counts, by name, where it counts named things."
    )
    opened_at = models.DateTimeField(default=timezone.now, db_index=True)
    told_at = models.DateTimeField(null=True, help_text="When somebody was told last.")
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
                violation_error_message="This rule has an open alert already.",
            ),
            models.CheckConstraint(
                condition=models.Q(acknowledged_at=None, acknowledged_by=None)
                | models.Q(acknowledged_at__isnull=False, acknowledged_by__isnull=False),
                name="monitoring_acknowledged_by_somebody",
                violation_error_message="An acknowledgement has both a time and a user.",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.rule}, {self.opened_at:%Y-%m-%d %H:%M}"

    @property
    def sentence(self) -> str:
        """What was found, in words."""
        if self.subjects:
            return f"{self.get_metric_display()}: {', '.join(self.subjects)}."
        return (
            f"{self.get_metric_display()}: {self.value:.4g} ({self.low:.4g} to {self.high:.4g}), "
            f"{self.comparison} {self.threshold:g} over {self.window_hours} h."
        )


class NoticeQuerySet(models.QuerySet["Notice"]):
    def due(self, now: datetime) -> "NoticeQuerySet":
        """Return the notices to be sent by now, the oldest first."""
        found = self.filter(
            sent_at=None, failed_at=None, send_after__lte=now, attempts__lt=Notice.MAX_ATTEMPTS
        )
        return found.order_by("send_after", "pk")


class Notice(models.Model):
    """That somebody is told of an alert: the outbox of e-mails and webhooks."""

    MAX_ATTEMPTS = 8  # the last one some two hours after the first

    class Event(models.TextChoices):
        OPENED = "alert.opened", "Opened"
        REMINDER = "alert.reminder", "Still open"
        CLOSED = "alert.closed", "Closed"

    class Channel(models.TextChoices):
        EMAIL = "email", "E-mail"
        WEBHOOK = "webhook", "Webhook"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    alert = models.ForeignKey(Alert, on_delete=models.PROTECT, related_name="notices")
    event = models.CharField(max_length=14, choices=Event)
    channel = models.CharField(max_length=7, choices=Channel)
    attempts = models.PositiveSmallIntegerField(default=0)
    send_after = models.DateTimeField()
    sent_at = models.DateTimeField(null=True)
    failed_at = models.DateTimeField(null=True, help_text="When the receiver refused it for good.")
    error = models.CharField(max_length=300, blank=True)

    objects = NoticeQuerySet.as_manager()

    class Meta:
        ordering = ("-id",)
        indexes = [
            models.Index(
                fields=["send_after"], condition=models.Q(sent_at=None), name="monitoring_notice_outbox"
            )
        ]

    def __str__(self) -> str:
        return f"{self.event} by {self.channel}"
