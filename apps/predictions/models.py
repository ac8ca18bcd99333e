"""Predictions, which record every scored comment, and feedback on them."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any, NamedTuple, Self
from uuid import UUID

import numpy as np
from django.db import DEFAULT_DB_ALIAS, models
from django.db.models import Exists, OuterRef
from django.utils import timezone
from uuid_utils.compat import uuid7

from apps.classifier.labels import LABELS
from apps.core.models import AppendOnly, AppendOnlyQuerySet

ALL_LABELS = (1 << len(LABELS)) - 1


def pack_labels(flags: Iterable[Any]) -> int:
    """Return a bit mask of six truth values in the order of `LABELS`, whose lowest bit is the first label."""
    return sum(1 << bit for bit, flag in enumerate(flags) if flag)


def pack_label_rows(flags: np.ndarray) -> list[int]:
    """Return the bit mask of each row of truth values (n, labels)."""
    return (flags @ (1 << np.arange(len(LABELS)))).tolist()


_LABELS_BY_MASK = [
    {label: bool(mask >> bit & 1) for bit, label in enumerate(LABELS)} for mask in range(1 << len(LABELS))
]


def unpack_labels(mask: int) -> dict[str, bool]:
    """Return each label's truth value from a bit mask."""
    return _LABELS_BY_MASK[mask].copy()


class LabelScores:
    """Properties of a scored comment that has an attribute per label."""

    __slots__ = ()
    text_hash: str
    label_mask: int
    model_version_id: int

    @property
    def probabilities(self) -> dict[str, float]:
        """The six calibrated probabilities by label."""
        return {label: getattr(self, label) for label in LABELS}

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
    api_key_id: int | None
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
    was_read: bool


class PredictionRow(LabelScores, _Columns):
    """A scored comment as a tuple of the columns of `Prediction`, in their order; see `bulk_insert`."""

    __slots__ = ()


class Prediction(LabelScores, AppendOnly):
    """A scored comment: the request, the scores, the model version and the latency."""

    class Source(models.TextChoices):
        API = "api", "REST API"
        PERSPECTIVE = "perspective", "Perspective-compatible API"
        OPENAI = "openai", "OpenAI-compatible API"
        CONNECTOR = "connector", "Connected platform"
        PAGE = "page", "Web page"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    created_at = models.DateTimeField(default=timezone.now, db_index=True)
    api_key = models.ForeignKey(
        "accounts.APIKey",
        verbose_name="API key",
        null=True,
        on_delete=models.PROTECT,
        related_name="+",
        db_index=False,  # no query filters by it alone, and API keys are not deleted
        help_text="Empty: anonymous.",
    )
    source = models.CharField(max_length=12, choices=Source)
    community = models.CharField(max_length=100, blank=True)
    external_id = models.CharField(
        "External ID", max_length=200, blank=True, help_text="The comment's ID on the platform."
    )
    text = models.TextField(null=True, help_text="Empty if the request asked not to store it.")
    text_hash = models.CharField(max_length=64, help_text="HMAC-SHA-256 of the text with the site's secret.")
    toxic = models.FloatField()
    severe_toxic = models.FloatField()
    obscene = models.FloatField()
    threat = models.FloatField()
    insult = models.FloatField()
    identity_hate = models.FloatField()
    label_mask = models.PositiveSmallIntegerField(
        help_text="Bit mask of the labels whose threshold was reached."
    )
    model_version = models.ForeignKey("registry.ModelVersion", on_delete=models.PROTECT, related_name="+")
    latency_us = models.PositiveIntegerField(
        "Latency (µs)", help_text="The time to score the comment; in a batch the mean."
    )
    was_read = models.BooleanField(
        default=False, help_text="Whether the encoder read the comment; if not, its words decided."
    )

    class Meta:
        ordering = ("-id",)
        indexes = [
            models.Index(
                fields=["external_id", "text_hash"],
                condition=~models.Q(external_id=""),
                name="predictions_by_external_id",
            )
        ]

    def __str__(self) -> str:
        return str(self.pk)

    @classmethod
    def from_row(cls, row: PredictionRow) -> Self:
        """Return a stored row as an instance."""
        return cls.from_db(DEFAULT_DB_ALIAS, row._fields, row)


class FeedbackQuerySet(AppendOnlyQuerySet):
    """Feedback, of which the newest of each source becomes a label."""

    def effective(self) -> "FeedbackQuerySet":
        """Leave out feedback that newer feedback of the same source replaces."""
        newer = Feedback.objects.filter(
            prediction=OuterRef("prediction"), visitor=OuterRef("visitor"), pk__gt=OuterRef("pk")
        )
        return self.filter(~Exists(newer))


class Feedback(AppendOnly):
    """Feedback on a prediction, which may become a training label.

    Prediction and visitor name the source: feedback without a visitor comes from the API key of the
    prediction. Feedback that repeats the newest of its source is not stored again. Anonymous clients of the
    API have no identity, so those that know a prediction's ID are one source: mostly there is only one, which
    requested it.
    """

    prediction = models.ForeignKey(Prediction, on_delete=models.PROTECT)
    api_key = models.ForeignKey(
        "accounts.APIKey", verbose_name="API key", null=True, on_delete=models.PROTECT, related_name="+"
    )
    is_right = models.BooleanField(help_text="Whether the prediction was right.")
    true_mask = models.PositiveSmallIntegerField(
        null=True, help_text="Bit mask of the labels that apply, if they were stated."
    )
    known_mask = models.PositiveSmallIntegerField(
        null=True,
        help_text="Bit mask of the labels that true_mask states; the others are unknown. Empty: all six.",
    )
    remark = models.TextField(blank=True, max_length=2_000)
    visitor = models.CharField(
        max_length=32,
        blank=True,
        editable=False,
        help_text="On the web pages, a random ID per result and visitor.",
    )
    created_at = models.DateTimeField(default=timezone.now, db_index=True)

    objects = FeedbackQuerySet.as_manager()  # type: ignore[misc]

    class Meta:
        ordering = ("-created_at", "-pk")
        verbose_name_plural = "feedback"

    def __str__(self) -> str:
        return f"{self.prediction_id}: {'right' if self.is_right else 'wrong'}"

    @property
    def true_labels(self) -> dict[str, bool] | None:
        """Whether each stated label applies; None if no labels were stated."""
        if self.true_mask is None:
            return None
        known = unpack_labels(ALL_LABELS if self.known_mask is None else self.known_mask)
        return {label: flag for label, flag in unpack_labels(self.true_mask).items() if known[label]}
