"""Origins of the predictions and feedback that rollups count: the database, or its mirror in DynamoDB."""

import uuid
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any, Protocol

from django.conf import settings
from django.db.models import Count, Min
from django.db.models.functions import Length, TruncHour
from django.utils import timezone

from apps.classifier.labels import LABELS
from apps.mirror import reader
from apps.mirror.exceptions import UnreadableRecordError
from apps.mirror.replicated import FEEDBACK
from apps.mirror.table import oldest_kept
from apps.predictions.models import Feedback, Prediction

HOUR = timedelta(hours=1)
SLICES, TEXTS_PER_SLICE = 10, 30  # the first texts of each tenth of an hour are sampled
MAX_MIRROR_LAG = timedelta(hours=2)  # records that arrive later are found by the next recount
PREDICTION_COLUMNS = ("model_version", "source", "community", "label_mask", *LABELS)
_FEEDBACK_COLUMNS = ("is_right", "true_mask", "known_mask")
_CHUNK = 20_000

PredictionRow = tuple[int, str, str, int, int, int | None, float, float, float, float, float, float]
TextRow = tuple[int, str, str, int, str]
FeedbackRow = tuple[Any, ...]


class Origin(Protocol):
    """Where predictions and feedback are read from.

    Attributes:
        name: the value of the setting ROLL_UP_FROM.
        unreadable: the number of records that could not be read since this object was created.
    """

    name: str
    unreadable: int

    def oldest_kept(self) -> datetime | None:
        """Return the time before which predictions and feedback are not kept, or None if all are kept."""

    def first_prediction_at(self) -> datetime | None:
        """Return the time of the oldest prediction."""

    def hours_stored_since(self, since: datetime) -> set[datetime]:
        """Return the hours of the predictions that were stored since then."""

    def prediction_counts(self, since: datetime) -> dict[datetime, int]:
        """Return the number of predictions by hour."""

    def predictions(self, hour: datetime) -> Iterator[PredictionRow]:
        """Yield an hour's predictions: version, source, community, label mask, µs, characters, six scores."""

    def sampled_texts(self, hour: datetime) -> Iterator[TextRow]:
        """Yield a sample of the hour that `predictions` has read: version, source, community, mask, text."""

    def feedback(self, hour: datetime) -> Iterator[FeedbackRow]:
        """Yield an hour's feedback: is right, true mask, known mask, PREDICTION_COLUMNS of its prediction."""


class Database:
    """The site's database."""

    name = "database"
    unreadable = 0

    def oldest_kept(self) -> datetime | None:
        return None

    def first_prediction_at(self) -> datetime | None:
        return Prediction.objects.aggregate(first=Min("created_at"))["first"]

    def hours_stored_since(self, since: datetime) -> set[datetime]:
        # A UUIDv7 holds the time at which the row was stored, which may be later than its `created_at`.
        oldest = uuid.UUID(int=int(since.timestamp() * 1000) << 80)
        stored = Prediction.objects.filter(pk__gte=oldest).order_by()
        return set(
            stored.annotate(hour=TruncHour("created_at", tzinfo=UTC))
            .values_list("hour", flat=True)
            .distinct()
        )

    def prediction_counts(self, since: datetime) -> dict[datetime, int]:
        stored = Prediction.objects.filter(created_at__gte=since).order_by()
        return dict(
            stored.annotate(hour=TruncHour("created_at", tzinfo=UTC))
            .values_list("hour")
            .annotate(Count("pk"))
        )

    def predictions(self, hour: datetime) -> Iterator[PredictionRow]:
        rows = Prediction.objects.filter(created_at__gte=hour, created_at__lt=hour + HOUR).order_by()
        columns = ("model_version_id", "source", "community", "label_mask", "latency_us")
        return rows.values_list(*columns, Length("text"), *LABELS).iterator(_CHUNK)

    def sampled_texts(self, hour: datetime) -> Iterator[TextRow]:
        for begin in (hour + HOUR / SLICES * number for number in range(SLICES)):
            rows = Prediction.objects.filter(
                created_at__gte=begin, created_at__lt=begin + HOUR / SLICES, text__isnull=False
            ).order_by("created_at", "pk")
            columns = ("model_version_id", "source", "community", "label_mask", "text")
            yield from rows.values_list(*columns)[:TEXTS_PER_SLICE]

    def feedback(self, hour: datetime) -> Iterator[FeedbackRow]:
        rows = Feedback.objects.filter(created_at__gte=hour, created_at__lt=hour + HOUR).order_by()
        columns = (*_FEEDBACK_COLUMNS, *(f"prediction__{name}" for name in PREDICTION_COLUMNS))
        return rows.values_list(*columns).iterator(_CHUNK)


class Mirror:
    """The mirror in DynamoDB. This machine's database only needs to hold the model versions."""

    name = "dynamodb"

    def __init__(self) -> None:
        self.unreadable = 0

    def _count_unreadable(self, error: UnreadableRecordError) -> None:
        self.unreadable += 1

    def oldest_kept(self) -> datetime | None:
        return oldest_kept()

    def first_prediction_at(self) -> datetime | None:
        oldest = next(reader.read(oldest_kept(), timezone.now()), None)
        return oldest["created_at"] if oldest else None

    def hours_stored_since(self, since: datetime) -> set[datetime]:
        hour = since.replace(minute=0, second=0, microsecond=0)
        return {hour - HOUR * number for number in range(MAX_MIRROR_LAG // HOUR + 1)}

    def prediction_counts(self, since: datetime) -> dict[datetime, int]:
        return dict(reader.count_by_hour(since, timezone.now()))

    def predictions(self, hour: datetime) -> Iterator[PredictionRow]:
        # The sample is taken here because DynamoDB charges for every read.
        self._sample: list[TextRow] = []
        sampled = [0] * SLICES
        for row in reader.read(hour, hour + HOUR, on_unreadable=self._count_unreadable):
            text = row["text"]
            key = row["model_version_id"], row["source"], row["community"], row["label_mask"]
            index = int((row["created_at"] - hour) * SLICES / HOUR)
            if text is not None and sampled[index] < TEXTS_PER_SLICE:
                sampled[index] += 1
                self._sample.append((*key, text))
            characters = None if text is None else len(text)
            yield (*key, row["latency_us"], characters, *(row[label] for label in LABELS))

    def sampled_texts(self, hour: datetime) -> Iterator[TextRow]:
        yield from self._sample

    def feedback(self, hour: datetime) -> Iterator[FeedbackRow]:
        rows = reader.read(hour, hour + HOUR, replicated=FEEDBACK, on_unreadable=self._count_unreadable)
        columns = ("model_version_id", *PREDICTION_COLUMNS[1:])
        for batch in batches(rows, 100):
            ids = {row["prediction_id"] for row in batch}
            predictions = reader.find_predictions(ids, on_unreadable=self._count_unreadable)
            for row in batch:
                if prediction := predictions.get(row["prediction_id"]):
                    yield (
                        *(row[name] for name in _FEEDBACK_COLUMNS),
                        *(prediction[name] for name in columns),
                    )


def batches(rows: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Yield lists of `size` rows; the last one may be shorter."""
    rows = iter(rows)
    while batch := list(islice(rows, size)):
        yield batch


ORIGINS: dict[str, type[Database | Mirror]] = {origin.name: origin for origin in (Database, Mirror)}


def configured_origin() -> Origin:
    """Return the origin that the setting ROLL_UP_FROM names."""
    return ORIGINS[settings.ROLL_UP_FROM]()
