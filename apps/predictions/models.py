"""The record of every scored comment, and what people said of the score."""

from collections.abc import Iterable
from datetime import datetime
from operator import attrgetter
from typing import Any, NamedTuple, Self
from uuid import UUID

import numpy as np
from django.db import DEFAULT_DB_ALIAS, models
from django.utils import timezone
from uuid_utils.compat import uuid7

from apps.classifier.labels import LABELS
from apps.core.models import AppendOnly

ALL_LABELS = (1 << len(LABELS)) - 1
_probabilities = attrgetter(*LABELS)


def pack_labels(flags: Iterable[Any]) -> int:
    """Return six truth values, in the order of `LABELS`, as six bits, the lowest for the first label."""
    return sum(1 << bit for bit, flag in enumerate(flags) if flag)


def pack_rows(flags: np.ndarray) -> list[int]:
    """Return what `pack_labels` makes of each row of (n, labels) truth values."""
    return (flags @ (1 << np.arange(len(LABELS)))).tolist()


def unpack_labels(mask: int) -> dict[str, bool]:
    """Return each label's truth value from the bits that `pack_labels` made."""
    return {label: bool(mask >> bit & 1) for bit, label in enumerate(LABELS)}


class Scores:
    """What was answered of a comment: attributes of the labels' names, and these."""

    __slots__ = ()
    text_hash: str
    label_mask: int

    @property
    def probabilities(self) -> dict[str, float]:
        """The six calibrated probabilities by label."""
        return dict(zip(LABELS, _probabilities(self), strict=True))

    @property
    def labels(self) -> dict[str, bool]:
        """Whether each label's threshold was reached."""
        return unpack_labels(self.label_mask)

    @property
    def is_toxic(self) -> bool:
        """Whether any label's threshold was reached."""
        return bool(self.label_mask)


class _Columns(NamedTuple):
    id: UUID
    created_at: datetime
    client_id: int | None
    source: str
    community: str
    external_id: str
    text: str | None
    text_hash: str
    toxic: float
    severe_toxic: float
    obscene: float
    threat: float
    insult: float
    identity_hate: float
    label_mask: int
    model_version_id: int
    latency_us: int


class Row(Scores, _Columns):
    """A row of predictions: the model's columns in their order, in a fifth of an instance's time."""

    __slots__ = ()


class Prediction(Scores, AppendOnly):
    """One scored comment: what was asked, what was answered, by which model and how fast."""

    class Source(models.TextChoices):
        API = "api", "REST API"
        PERSPECTIVE = "perspective", "Perspective-compatible API"
        PAGE = "page", "Web page"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    created_at = models.DateTimeField(default=timezone.now, db_index=True)
    client = models.ForeignKey(
        "accounts.APIKey",
        null=True,
        on_delete=models.PROTECT,
        related_name="+",
        db_index=False,  # nothing looks by the client alone; keys are revoked, never deleted
        help_text="Empty: anonymous.",
    )
    source = models.CharField(max_length=12, choices=Source)
    community = models.CharField(max_length=100, blank=True)
    external_id = models.CharField("External ID", max_length=200, blank=True, help_text="The platform's own.")
    text = models.TextField(null=True, help_text="Empty where the client asked us not to store it.")
    text_hash = models.CharField(
        max_length=64, help_text="SHA-256 of the text, keyed with the site's secret."
    )
    toxic = models.FloatField()
    severe_toxic = models.FloatField()
    obscene = models.FloatField()
    threat = models.FloatField()
    insult = models.FloatField()
    identity_hate = models.FloatField()
    label_mask = models.PositiveSmallIntegerField(help_text="The labels whose threshold was reached.")
    model_version = models.ForeignKey("registry.ModelVersion", on_delete=models.PROTECT, related_name="+")
    latency_us = models.PositiveIntegerField(
        "Latency (µs)", help_text="Of scoring, the batch's mean in a batch."
    )

    class Meta:
        ordering = ("-id",)
        indexes = [
            models.Index(
                fields=["client", "external_id"],
                condition=~models.Q(external_id=""),
                name="predictions_by_external_id",
            )
        ]

    def __str__(self) -> str:
        return str(self.pk)

    @classmethod
    def of(cls, row: Row) -> Self:
        """Return a stored row as an instance."""
        return cls.from_db(DEFAULT_DB_ALIAS, Row._fields, row)


class Feedback(AppendOnly):
    """What somebody said of a prediction; it may become a training label."""

    prediction = models.ForeignKey(Prediction, on_delete=models.PROTECT)
    client = models.ForeignKey("accounts.APIKey", null=True, on_delete=models.PROTECT, related_name="+")
    is_right = models.BooleanField(help_text="Whether the prediction was right.")
    true_mask = models.PositiveSmallIntegerField(
        null=True, help_text="The labels that are true, where they were said."
    )
    known_mask = models.PositiveSmallIntegerField(
        null=True, help_text="The labels that true_mask speaks of; the others are unknown. Empty: all six."
    )
    remark = models.TextField(blank=True, max_length=2_000)
    visitor = models.CharField(
        max_length=32,
        blank=True,
        editable=False,
        help_text="Of the web pages: one opaque word per result and visitor.",
    )
    created_at = models.DateTimeField(default=timezone.now, db_index=True)

    class Meta:
        ordering = ("-created_at", "-pk")
        constraints = [
            models.UniqueConstraint(
                fields=["prediction", "visitor"],
                condition=~models.Q(visitor=""),
                name="predictions_one_feedback_per_visitor",
                violation_error_message="This visitor has given feedback on this prediction already.",
            )
        ]
        verbose_name_plural = "feedback"

    def __str__(self) -> str:
        return f"{self.prediction_id}: {'right' if self.is_right else 'wrong'}"

    @property
    def true_labels(self) -> dict[str, bool] | None:
        """Which labels are true, of those that were said; None where none were."""
        if self.true_mask is None:
            return None
        said = unpack_labels(ALL_LABELS if self.known_mask is None else self.known_mask)
        return {label: flag for label, flag in unpack_labels(self.true_mask).items() if said[label]}
