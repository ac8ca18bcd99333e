"""Traffic by hour and requests by minute, and how far the rollups have come."""

from typing import Any

import numpy as np
from django.db import models
from django.utils import timezone

from apps.classifier.labels import LABELS
from apps.core.models import Leasable
from apps.core.text import name_community, pluralize
from apps.monitoring.models.fields import ArrayField
from apps.predictions.models import Prediction

SCORE_BINS = 50
CONFUSION_BINS = 10
LATENCY_EDGES = np.logspace(1, 7, 61)  # µs
LENGTH_EDGES = np.logspace(0, 5, 31)  # characters
DECISION_TIME_EDGES = np.logspace(0, 7, 36)  # seconds
# Identity groups whose mentions are counted; the bias audit uses the same names.
IDENTITY_GROUPS = (
    "women", "men", "gay", "lesbian", "transgender", "black", "white", "asian", "muslim", "jewish",
    "christian", "immigrant", "disabled", "old",
)  # fmt: skip


class HourlyRollupQuerySet(models.QuerySet["HourlyRollup"]):
    """Queries of rollups over all communities or of one."""

    def overall(self) -> "HourlyRollupQuerySet":
        """Return the rows that count all communities together."""
        return self.filter(overall=True)

    def of_community(self, name: str) -> "HourlyRollupQuerySet":
        """Return the rows of one community. Comments without a community are counted under the name ""."""
        return self.filter(overall=False, community=name)


class HourlyRollup(models.Model):
    """An hour's traffic of one model version, source and community, or of all communities together.

    Each prediction is counted twice: in the row of its community and in the overall row. Read either
    `overall()` or `of_community(name)`. A prediction is counted in the hour in which it was made. Decisions
    and feedback are counted in the hour in which they were given, under the model version, source and
    community of their prediction.

    Arrays are histograms and counts; a value outside the range of a histogram is counted in its first or last
    bin:

    - `flagged` (6,): comments that reached the threshold of each label, in the order of LABELS.
    - `scores` (6, 50): comments by probability of each label, in equal bins from 0 to 1.
    - `latency` (60,): comments by scoring time, ten bins per decade from 10 µs to 10 s.
    - `lengths` (30,): comments that are stored with their text by number of characters, six bins per decade
      from 1 to 100,000.
    - `ngrams` (2,): n-grams of the sampled comments: all of them, and those unknown to the model.
    - `identity_groups` (14, 2): sampled comments that name each group: all, and those with a label.
    - `decision_times` (35,): approvals and rejections by the time since the item was queued, five bins per
      decade from 1 to 10,000,000 s.
    - `moderator_confusion` (6, 10, 2, 2, 2): moderators' decisions by label, decile of the probability,
      predicted (0 or 1) and true (0 or 1); the last axis holds the sum of weights and of squared weights.
    - `feedback_confusion` (6, 10, 2, 2, 2): the same from feedback, with weight 1.
    """

    hour = models.DateTimeField(help_text="Start of the hour.")
    version = models.ForeignKey("registry.ModelVersion", on_delete=models.PROTECT, related_name="+")
    source = models.CharField(max_length=12, choices=Prediction.Source)
    overall = models.BooleanField(help_text="Counts all communities together; `community` is empty then.")
    community = models.CharField(max_length=100, blank=True)
    requests = models.PositiveIntegerField(default=0, help_text="Scored comments.")
    errors = models.PositiveIntegerField(
        default=0,
        help_text="Requests answered with 5xx. Only the overall rows count them, under the version that was "
        "champion at the end of the hour.",
    )
    any_flagged = models.PositiveIntegerField(default=0, help_text="Comments with at least one label.")
    sampled = models.PositiveIntegerField(default=0, help_text="Comments sampled for n-grams and groups.")
    queued = models.PositiveIntegerField(default=0, help_text="Items added to the queue.")
    approved = models.PositiveIntegerField(default=0, help_text="Approved by moderators.")
    rejected = models.PositiveIntegerField(default=0, help_text="Rejected by moderators.")
    escalated = models.PositiveIntegerField(default=0, help_text="Escalated by moderators.")
    reversed = models.PositiveIntegerField(default=0, help_text="Decisions undone, also after an appeal.")
    escalations_reversed = models.PositiveIntegerField(
        default=0, help_text="Escalations among the decisions undone."
    )
    feedback_right = models.PositiveIntegerField(default=0, help_text="Feedback: the prediction is right.")
    feedback_wrong = models.PositiveIntegerField(default=0, help_text="Feedback: the prediction is wrong.")
    latency_total_us = models.PositiveBigIntegerField(default=0, help_text="Sum of the scoring times, in µs.")
    flagged = ArrayField(shape=(len(LABELS),), grows=True)
    scores = ArrayField(shape=(len(LABELS), SCORE_BINS), grows=True)
    latency = ArrayField(shape=(len(LATENCY_EDGES) - 1,))
    lengths = ArrayField(shape=(len(LENGTH_EDGES) - 1,))
    ngrams = ArrayField(shape=(2,))
    identity_groups = ArrayField(shape=(len(IDENTITY_GROUPS), 2), grows=True)
    # Counts by name, because the position of an outcome in an array changes when an outcome is added.
    outcomes: Any = models.JSONField(default=dict, help_text="Comments by the policy's outcome.")
    decision_times = ArrayField(shape=(len(DECISION_TIME_EDGES) - 1,))
    moderator_confusion = ArrayField(shape=(len(LABELS), CONFUSION_BINS, 2, 2, 2), dtype="<f8", grows=True)
    feedback_confusion = ArrayField(shape=(len(LABELS), CONFUSION_BINS, 2, 2, 2), dtype="<f8", grows=True)

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
                violation_error_message="A rollup of all communities has no community name.",
            ),
        ]
        indexes = [models.Index(fields=["hour"], name="monitoring_rollup_hour")]

    def __str__(self) -> str:
        scope = "all communities" if self.overall else name_community(self.community)
        return f"{self.hour:%Y-%m-%d %H:00} UTC, {scope}"


class RollupProgress(Leasable):
    """How far rollups have come and which process holds the lease; one row for each origin of predictions."""

    origin = models.CharField(max_length=10, primary_key=True)
    counted_until = models.DateTimeField(
        null=True, help_text="Everything stored before this time has been counted."
    )
    recounted_at = models.DateTimeField(null=True, help_text="Last search for hours whose counts differ.")

    class Meta:
        verbose_name_plural = "rollup progress"

    def __str__(self) -> str:
        return f"{self.origin} until {self.counted_until}"


class IncompleteHour(models.Model):
    """An hour that could not be counted, or not completely. It is counted again until it is complete."""

    origin = models.CharField(max_length=10)
    hour = models.DateTimeField(help_text="Start of the hour.")
    skipped = models.PositiveIntegerField(
        null=True, help_text="Number of rows left out. Empty if nothing of the hour was counted."
    )
    error = models.CharField(max_length=300)
    attempts = models.PositiveIntegerField(default=1)
    first_failed_at = models.DateTimeField(default=timezone.now)
    retry_at = models.DateTimeField()

    class Meta:
        ordering = ("-hour", "origin")
        constraints = [
            models.UniqueConstraint(fields=["origin", "hour"], name="monitoring_one_incomplete_hour")
        ]

    def __str__(self) -> str:
        state = "not counted" if self.skipped is None else f"{pluralize(self.skipped, 'row')} left out"
        return f"{self.hour:%Y-%m-%d %H:00} UTC, {state}: {self.error}"


class RequestMinute(models.Model):
    """The requests that one process answered in a minute, by source.

    `latency` is a histogram of response times in the bins of LATENCY_EDGES.
    """

    minute = models.DateTimeField(help_text="Start of the minute.")
    source = models.CharField(max_length=12, choices=Prediction.Source)
    process = models.CharField(max_length=100, help_text="Host, process id and a random suffix.")
    requests = models.PositiveIntegerField()
    client_errors = models.PositiveIntegerField(help_text="Requests answered with 4xx.")
    errors = models.PositiveIntegerField(help_text="Requests answered with 5xx.")
    latency = ArrayField(shape=(len(LATENCY_EDGES) - 1,))

    class Meta:
        ordering = ("-minute",)
        constraints = [
            models.UniqueConstraint(fields=["minute", "source", "process"], name="monitoring_one_minute")
        ]

    def __str__(self) -> str:
        return f"{self.source} {self.minute:%Y-%m-%d %H:%M} UTC"
