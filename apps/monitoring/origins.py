"""Where predictions and feedback are read from to be counted: the database, or its mirror in DynamoDB."""

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
SLICES, SLICE_TEXTS = 10, 30  # texts whose words are looked at: of each tenth of an hour the first
LATE = timedelta(hours=2)  # the mirror's records may come so late before the next recount finds them
PREDICTED = ("model_version", "source", "community", "label_mask", *LABELS)
_SAID = ("is_right", "true_mask", "known_mask")
_CHUNK = 20_000

Scored = tuple[int, str, str, int, int, int | None, float, float, float, float, float, float]
Sample = tuple[int, str, str, int, str]
Said = tuple[Any, ...]


class Origin(Protocol):
    """Where predictions and feedback are read from."""

    name: str
    unreadable: int  # records that had to be left out since this object was made

    def first(self) -> datetime | None:
        """When the oldest prediction was made."""

    def late(self, since: datetime) -> set[datetime]:
        """The hours of the predictions that were stored since then."""

    def counts(self, since: datetime) -> dict[datetime, int]:
        """How many predictions each hour since then has."""

    def scored(self, hour: datetime) -> Iterator[Scored]:
        """An hour's predictions: version, source, community, label mask, µs, characters, probabilities."""

    def sample(self, hour: datetime) -> Iterator[Sample]:
        """Of those just scored some with their texts: version, source, community, label mask, text."""

    def feedback(self, hour: datetime) -> Iterator[Said]:
        """An hour's feedback: whether right, true mask, known mask; PREDICTED of what it is about."""


class Database:
    """This site's database."""

    name = "database"
    unreadable = 0

    def first(self) -> datetime | None:
        return Prediction.objects.aggregate(first=Min("created_at"))["first"]

    def late(self, since: datetime) -> set[datetime]:
        # An id tells when it was made (UUIDv7), whatever hour its row is dated.
        oldest = uuid.UUID(int=int(since.timestamp() * 1000) << 80)
        stored = Prediction.objects.filter(pk__gte=oldest).order_by()
        return set(
            stored.annotate(hour=TruncHour("created_at", tzinfo=UTC))
            .values_list("hour", flat=True)
            .distinct()
        )

    def counts(self, since: datetime) -> dict[datetime, int]:
        stored = Prediction.objects.filter(created_at__gte=since).order_by()
        return dict(
            stored.annotate(hour=TruncHour("created_at", tzinfo=UTC))
            .values_list("hour")
            .annotate(Count("pk"))
        )

    def scored(self, hour: datetime) -> Iterator[Scored]:
        rows = Prediction.objects.filter(created_at__gte=hour, created_at__lt=hour + HOUR).order_by()
        columns = ("model_version_id", "source", "community", "label_mask", "latency_us")
        return rows.values_list(*columns, Length("text"), *LABELS).iterator(_CHUNK)

    def sample(self, hour: datetime) -> Iterator[Sample]:
        for begin in (hour + HOUR / SLICES * number for number in range(SLICES)):
            rows = Prediction.objects.filter(
                created_at__gte=begin, created_at__lt=begin + HOUR / SLICES, text__isnull=False
            ).order_by("created_at", "pk")
            columns = ("model_version_id", "source", "community", "label_mask", "text")
            yield from rows.values_list(*columns)[:SLICE_TEXTS]

    def feedback(self, hour: datetime) -> Iterator[Said]:
        given = Feedback.objects.filter(created_at__gte=hour, created_at__lt=hour + HOUR).order_by()
        return given.values_list(*_SAID, *(f"prediction__{name}" for name in PREDICTED)).iterator(_CHUNK)


class Mirror:
    """The mirror in DynamoDB; this database need only know the model versions."""

    name = "dynamodb"

    def __init__(self) -> None:
        self.unreadable = 0

    def _leave_out(self, error: UnreadableRecordError) -> None:
        self.unreadable += 1

    def first(self) -> datetime | None:
        oldest = next(reader.read(oldest_kept(), timezone.now()), None)
        return oldest and oldest["created_at"]

    def late(self, since: datetime) -> set[datetime]:
        hour = since.replace(minute=0, second=0, microsecond=0)
        return {hour - HOUR * number for number in range(LATE // HOUR + 1)}

    def counts(self, since: datetime) -> dict[datetime, int]:
        return dict(reader.count_by_hour(since, timezone.now()))

    def scored(self, hour: datetime) -> Iterator[Scored]:
        # The texts to sample are met on the way: reading them again would be paid again.
        self._sample: list[Sample] = []
        taken = [0] * SLICES
        for row in reader.read(hour, hour + HOUR, on_unreadable=self._leave_out):
            text = row["text"]
            key = row["model_version_id"], row["source"], row["community"], row["label_mask"]
            place = int((row["created_at"] - hour) * SLICES / HOUR)
            if text is not None and taken[place] < SLICE_TEXTS:
                taken[place] += 1
                self._sample.append((*key, text))
            characters = None if text is None else len(text)
            yield (*key, row["latency_us"], characters, *(row[label] for label in LABELS))  # type: ignore[misc]

    def sample(self, hour: datetime) -> Iterator[Sample]:
        yield from self._sample

    def feedback(self, hour: datetime) -> Iterator[Said]:
        given = reader.read(hour, hour + HOUR, replicated=FEEDBACK, on_unreadable=self._leave_out)
        for some in batches(given, 100):
            about = reader.find_predictions(
                {row["prediction_id"] for row in some}, on_unreadable=self._leave_out
            )
            for row in some:
                if prediction := about.get(row["prediction_id"]):
                    columns = ("model_version_id", *PREDICTED[1:])
                    yield (*(row[name] for name in _SAID), *(prediction[name] for name in columns))


def batches(rows: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Yield the rows in lists of that size, the last one shorter."""
    rows = iter(rows)
    while batch := list(islice(rows, size)):
        yield batch


ORIGINS: dict[str, type[Database | Mirror]] = {each.name: each for each in (Database, Mirror)}


def configured() -> Origin:
    """Return the origin that the settings name."""
    return ORIGINS[settings.ROLL_UP_FROM]()
