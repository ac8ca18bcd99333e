"""What dashboard and alerts read: traffic by hour, calls by minute, and what traffic is held against.

The arrays of a `HourlyRollup`, packed as little-endian numbers; an empty one is all zeros:

- `flagged` (6,): comments whose label's threshold was reached, in the order of LABELS.
- `scores` (6, 50): comments by probability, for each label; equal bins from 0 to 1.
- `latency` (60,): comments by time of scoring, ten bins to a decade from 10 µs to 10 s.
- `lengths` (30,): comments by characters, six bins to a decade from 1 to 100,000; those kept with their text.
- `words` (2,): n-grams of the sampled comments: all, and those that the model never learned.
- `groups` (14, 2): sampled comments that name the group of GROUPS: all, and those with any label.
- `outcomes` (3,): the policy's answers: approve, reject, human review.
- `waits` (35,): decisions by the time since the item came, five bins to a decade from 1 to 10,000,000 s.
- `judged` (6, 10, 2, 2, 2): moderators' verdicts by label, tenth of the score, whether predicted, whether
  true; then the sum of their weights and that of the weights' squares.
- `said` (6, 10, 2, 2, 2): the same of feedback, each of weight 1.

A value beyond an array's range counts in its first or last bin. Predictions count in the hour they were made,
what people answer in the hour they answered, under their prediction's version, source and community. Every
prediction counts twice: in the row of its community and in the row over all communities. So read one kind or
the other: `overall()` or `of_community(name)`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from django.db import models
from django.utils import timezone

from apps.classifier.labels import LABELS
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
    """A NumPy array of a fixed shape, packed; one of zeros takes no room."""

    def __init__(self, *args: Any, shape: Sequence[int], dtype: str = "<u4", **kwargs: Any) -> None:
        self.shape, self.dtype = tuple(shape), dtype
        super().__init__(*args, **{"default": bytes, **kwargs})

    def deconstruct(self) -> Any:
        name, path, args, kwargs = super().deconstruct()
        return name, path, args, {**kwargs, "shape": self.shape, "dtype": self.dtype}

    def from_db_value(self, value: Any, expression: Any, connection: Any) -> np.ndarray:
        return (
            np.frombuffer(value, self.dtype).reshape(self.shape)
            if value
            else np.zeros(self.shape, self.dtype)
        )

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
    right = models.PositiveIntegerField(default=0, help_text="Feedback that the prediction is right.")
    wrong = models.PositiveIntegerField(default=0, help_text="Feedback that it is wrong.")
    flagged = ArrayField(shape=(len(LABELS),))
    scores = ArrayField(shape=(len(LABELS), SCORE_BINS))
    latency = ArrayField(shape=(len(LATENCY_EDGES) - 1,))
    lengths = ArrayField(shape=(len(LENGTH_EDGES) - 1,))
    words = ArrayField(shape=(2,))
    groups = ArrayField(shape=(len(GROUPS), 2))
    outcomes = ArrayField(shape=(3,))
    waits = ArrayField(shape=(len(WAIT_EDGES) - 1,))
    judged = ArrayField(shape=(len(LABELS), JUDGED_BINS, 2, 2, 2), dtype="<f8")
    said = ArrayField(shape=(len(LABELS), JUDGED_BINS, 2, 2, 2), dtype="<f8")

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
    flagged = ArrayField(shape=(len(LABELS),))
    scores = ArrayField(shape=(len(LABELS), SCORE_BINS))
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
