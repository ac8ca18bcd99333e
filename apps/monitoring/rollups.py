"""Building hourly rollups: which hours need it, and what an hour holds.

An hour is always counted anew and its rows replaced, so that counting it twice changes nothing. Predictions
are streamed, and of an hour only its counts are kept: memory does not grow with traffic.
"""

import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import islice
from typing import Any, NamedTuple, Protocol

import numpy as np
from django.db import transaction
from django.db.models import Count, Min, Q, Sum
from django.db.models.functions import Length, TruncHour
from django.utils import timezone

from apps.classifier.labels import LABELS
from apps.classifier.scorer import Scorer
from apps.moderation.models import Decision, QueueItem, Submission
from apps.monitoring import words
from apps.monitoring.models import (
    JUDGED_BINS,
    LATENCY_EDGES,
    LENGTH_EDGES,
    SCORE_BINS,
    WAIT_EDGES,
    HourlyRollup,
    Progress,
    RequestMinute,
)
from apps.predictions.models import ALL_LABELS, Feedback, Prediction
from apps.registry.models import Alias, ModelVersion, Promotion

HOUR = timedelta(hours=1)
OVERLAP = timedelta(minutes=15)  # rows show up when their transaction ends, some time after they were dated
RECOUNT_EVERY, RECOUNT_BACK = timedelta(hours=6), timedelta(days=7)
LEASE = timedelta(minutes=5)
MINUTES_KEPT = timedelta(days=8)
SLICES, SLICE_TEXTS = 10, 30  # texts whose words are looked at: of each tenth of an hour the first
_CHUNK = 20_000
_OUTCOMES = ("approve", "reject", "human_review")
_ROOM = 6  # labels


class Key(NamedTuple):
    """What a row is of, besides its hour; `community` is None for all of them."""

    version: int
    source: str
    community: str | None


Scored = tuple[int, str, str, int, int, int | None, float, float, float, float, float, float]
Sample = tuple[int, str, str, int, str]


class Origin(Protocol):
    """Where predictions are read from."""

    name: str

    def first(self) -> datetime | None:
        """When the oldest prediction was made."""

    def late(self, since: datetime) -> set[datetime]:
        """The hours of the predictions that were stored since then."""

    def counts(self, since: datetime) -> dict[datetime, int]:
        """How many predictions each hour since then has."""

    def scored(self, hour: datetime) -> Iterator[Scored]:
        """An hour's predictions: version, source, community, label mask, µs, characters, probabilities."""

    def sample(self, hour: datetime) -> Iterator[Sample]:
        """Some of them with their texts: version, source, community, label mask, text."""


class Database:
    """The predictions of this site's database."""

    name = "database"

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
        for number in range(SLICES):
            begin = hour + HOUR / SLICES * number
            rows = Prediction.objects.filter(
                created_at__gte=begin, created_at__lt=begin + HOUR / SLICES, text__isnull=False
            ).order_by("created_at")
            columns = ("model_version_id", "source", "community", "label_mask", "text")
            yield from rows.values_list(*columns)[:SLICE_TEXTS]


class LostError(Exception):
    """Another run has taken over; it does what is left."""


def floor(moment: datetime) -> datetime:
    """Return the start of the moment's hour."""
    return moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def roll_up(
    *,
    origin: Origin | None = None,
    since: datetime | None = None,
    now: datetime | None = None,
    report: Callable[[datetime, int], None] = lambda hour, left: None,
) -> int:
    """Count every hour that has changed since the last run, and those from `since` on.

    Changed are the hours since then, earlier ones for which a prediction was stored or a decision taken back
    since then, and, looked for every six hours, those of the last week whose number of predictions differs.

    Args:
        report: is told each hour before it is counted, and how many are left.

    Returns:
        How many hours were counted; 0 where another run is at work.
    """
    origin, now = origin or Database(), now or timezone.now()
    me = uuid.uuid4()
    Progress.objects.get_or_create(origin=origin.name)
    free = Q(held_by=None) | Q(held_until__lte=timezone.now())
    mine = Progress.objects.filter(pk=origin.name)
    if not mine.filter(free).update(held_by=me, held_until=timezone.now() + LEASE):
        return 0
    mine = mine.filter(held_by=me)
    try:
        progress = Progress.objects.get(pk=origin.name)
        is_first = progress.until is None
        hours = sorted(_hours(origin, progress, since, now))
        queued = _queued(hours[0]) if hours else {}
        for place, hour in enumerate(hours):
            report(hour, len(hours) - place)
            rows = _count(origin, hour, queued.get(hour, Counter()))
            _store(hour, rows, mine)
            if is_first:
                mine.update(until=min(hour + HOUR, now))
        mine.update(until=now)
        RequestMinute.objects.filter(minute__lt=now - MINUTES_KEPT).delete()
        return len(hours)
    except LostError:
        return 0
    finally:
        mine.update(held_by=None, held_until=None)


def _hours(origin: Origin, progress: Progress, since: datetime | None, now: datetime) -> set[datetime]:
    hours: set[datetime] = set()
    begin = since
    if progress.until is None:
        begin = min(filter(None, (since, origin.first(), _first_call())), default=now)
    else:
        changed = progress.until - OVERLAP
        begin = min(filter(None, (since, changed)))
        hours |= {floor(hour) for hour in origin.late(changed)}
        reversals = Decision.objects.filter(created_at__gte=changed, reverses__isnull=False)
        hours |= {floor(moment) for moment in reversals.values_list("reverses__created_at", flat=True)}
        if progress.recounted_at is None or progress.recounted_at <= now - RECOUNT_EVERY:
            hours |= _different(origin, floor(now - RECOUNT_BACK))
            Progress.objects.filter(pk=progress.pk).update(recounted_at=now)
    hour = floor(begin)
    while hour <= now:
        hours.add(hour)
        hour += HOUR
    return hours


def _first_call() -> datetime | None:
    return RequestMinute.objects.aggregate(first=Min("minute"))["first"]


def _different(origin: Origin, since: datetime) -> set[datetime]:
    rows = HourlyRollup.objects.overall().filter(hour__gte=since).order_by()
    rolled = dict(rows.values_list("hour").annotate(Sum("requests")))
    stored = origin.counts(since)
    return {hour for hour in rolled.keys() | stored.keys() if rolled.get(hour, 0) != stored.get(hour, 0)}


def _store(hour: datetime, rows: dict[Key, dict[str, Any]], mine: Any) -> None:
    fresh = [
        HourlyRollup(
            hour=hour,
            version_id=key.version,
            source=key.source,
            overall=key.community is None,
            community=key.community or "",
            **fields,
        )
        for key, fields in rows.items()
    ]
    with transaction.atomic():
        if not mine.update(held_until=timezone.now() + LEASE):
            raise LostError
        stale = [
            pk
            for pk, version, source, overall, community in HourlyRollup.objects.filter(hour=hour).values_list(
                "pk", "version", "source", "overall", "community"
            )
            if Key(version, source, None if overall else community) not in rows
        ]
        HourlyRollup.objects.filter(pk__in=stale).delete()
        HourlyRollup.objects.bulk_create(
            fresh, batch_size=30, update_conflicts=True, unique_fields=_UNIQUE, update_fields=_FIELDS
        )


_UNIQUE = ["overall", "community", "hour", "version", "source"]
_FIELDS = [
    field.name
    for field in HourlyRollup._meta.concrete_fields
    if not field.primary_key and field.name not in _UNIQUE
]
_ARRAYS = {
    field.name: (field.shape, field.dtype)
    for field in HourlyRollup._meta.concrete_fields
    if hasattr(field, "shape")
}
_NUMBERS = [name for name in _FIELDS if name not in _ARRAYS]


def _blank() -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(_NUMBERS, 0)
    for name, (shape, dtype) in _ARRAYS.items():
        row[name] = np.zeros(shape, np.int64 if dtype == "<u4" else np.float64)
    return row


def _count(origin: Origin, hour: datetime, queued: Counter[Key]) -> dict[Key, dict[str, Any]]:
    """What an hour's rows hold, those over all communities included."""
    rows: dict[Key, dict[str, Any]] = defaultdict(_blank)
    _count_predictions(rows, origin.scored(hour))
    _count_words(rows, origin.sample(hour))
    _count_outcomes(rows, hour)
    _count_decisions(rows, hour)
    _count_feedback(rows, hour)
    for key, count in queued.items():
        rows[key]["queued"] += count
    for key, row in list(rows.items()):
        total = rows[key._replace(community=None)]
        for name in row:
            total[name] = total[name] + row[name]
    _count_errors(rows, hour)
    return dict(rows)


def _batches(rows: Iterable[Any]) -> Iterator[list[Any]]:
    rows = iter(rows)
    while batch := list(islice(rows, _CHUNK)):
        yield batch


def bins_of(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """The bin of each value; what is beyond the edges is in the first or last."""
    return np.clip(np.searchsorted(edges, values, side="right") - 1, 0, len(edges) - 2)


def _count_predictions(rows: dict[Key, dict[str, Any]], scored: Iterator[Scored]) -> None:
    for batch in _batches(scored):
        versions, sources, communities, masks, times, lengths, *scores = zip(*batch, strict=True)
        places: dict[tuple[int, str, str], int] = {}
        which = np.array(
            [places.setdefault(key, len(places)) for key in zip(versions, sources, communities, strict=True)]
        )
        size = len(places)

        def histogram(bins: np.ndarray, width: int, of: np.ndarray = which, size: int = size) -> np.ndarray:
            return np.bincount(of * width + bins, minlength=size * width).reshape(size, width)

        mask = np.array(masks, np.int64)
        kept = np.array([length is not None for length in lengths])
        characters = np.array([length for length in lengths if length is not None], np.float64)
        by_label = [
            histogram(np.clip((np.array(score) * SCORE_BINS).astype(np.int64), 0, SCORE_BINS - 1), SCORE_BINS)
            for score in scores
        ]
        flags = [histogram(mask >> bit & 1, 2)[:, 1] for bit in range(_ROOM)]
        latency = histogram(bins_of(np.array(times, np.float64), LATENCY_EDGES), len(LATENCY_EDGES) - 1)
        long = histogram(bins_of(characters, LENGTH_EDGES), len(LENGTH_EDGES) - 1, which[kept])
        any_flagged = histogram((mask > 0).astype(np.int64), 2)[:, 1]
        counts = np.bincount(which, minlength=size)
        for key, place in places.items():
            row = rows[Key(*key)]
            row["requests"] += int(counts[place])
            row["any_flagged"] += int(any_flagged[place])
            row["flagged"] += [flag[place] for flag in flags]
            row["scores"] += [label[place] for label in by_label]
            row["latency"] += latency[place]
            row["lengths"] += long[place]


def _count_words(rows: dict[Key, dict[str, Any]], sample: Iterator[Sample]) -> None:
    for version, source, community, mask, text in sample:
        row = rows[Key(version, source, community)]
        row["sampled"] += 1
        row["words"] += words.known_and_unknown(scorer_of(version), text)
        row["groups"] += words.groups_named(text)[:, None] * np.array([1, int(mask > 0)])


@lru_cache(maxsize=2)
def scorer_of(version: int) -> Scorer:
    """Return a version's scorer; the two used last are kept."""
    return Scorer.load(ModelVersion.objects.get(pk=version).modelartifact.artifact())


def _count_outcomes(rows: dict[Key, dict[str, Any]], hour: datetime) -> None:
    answers = (
        Submission.objects.filter(prediction__created_at__gte=hour, prediction__created_at__lt=hour + HOUR)
        .order_by()
        .values_list("prediction__model_version", "prediction__source", "prediction__community", "outcome")
        .annotate(Count("pk"))
    )
    for version, source, community, outcome, count in answers:
        rows[Key(version, source, community)]["outcomes"][_OUTCOMES.index(outcome)] += count


_PREDICTED = ("model_version", "source", "community", "label_mask", *LABELS)


def _verdict(
    row: np.ndarray, scores: tuple[float, ...], predicted: int, true: int, known: int, weight: float
) -> None:
    """Add what somebody says of a comment to a row's `judged` or `said`."""
    for bit, score in enumerate(scores):
        if known >> bit & 1:
            place = (
                bit,
                min(int(score * JUDGED_BINS), JUDGED_BINS - 1),
                predicted >> bit & 1,
                true >> bit & 1,
            )
            row[place] += (weight, weight * weight)


def _count_decisions(rows: dict[Key, dict[str, Any]], hour: datetime) -> None:
    made = (
        Decision.objects.human()
        .filter(created_at__gte=hour, created_at__lt=hour + HOUR)
        .order_by()
        .values_list(
            "action",
            "corrected_mask",
            "reversal",
            "item__kind",
            "item__sampling_chance",
            "item__created_at",
            "created_at",
            *(f"submission__prediction__{name}" for name in _PREDICTED),
        )
    )
    counted = {"approve": "approved", "reject": "rejected", "escalate": "escalated", "reverse": "reversed"}
    for action, corrected, reversal, kind, chance, came, at, *prediction in made.iterator(_CHUNK):
        version, source, community, predicted, *scores = prediction
        row = rows[Key(version, source, community)]
        row[counted[action]] += 1
        if action not in ("approve", "reject"):
            continue
        row["waits"][bins_of(np.array([(at - came).total_seconds()]), WAIT_EDGES)] += 1
        # Whose item was not drawn by the policy or by chance says nothing of how often the model is right.
        if reversal is None and kind in (QueueItem.Kind.REVIEW, QueueItem.Kind.AUDIT):
            true = corrected if corrected is not None else predicted if action == "reject" else 0
            _verdict(row["judged"], scores, predicted, true, ALL_LABELS, 1 / chance)


def _count_feedback(rows: dict[Key, dict[str, Any]], hour: datetime) -> None:
    given = (
        Feedback.objects.filter(created_at__gte=hour, created_at__lt=hour + HOUR)
        .order_by()
        .values_list("is_right", "true_mask", "known_mask", *(f"prediction__{name}" for name in _PREDICTED))
    )
    for is_right, true, known, version, source, community, predicted, *scores in given.iterator(_CHUNK):
        row = rows[Key(version, source, community)]
        row["right" if is_right else "wrong"] += 1
        if true is None and is_right:
            true, known = predicted, None
        if true is not None:
            _verdict(row["said"], scores, predicted, true, ALL_LABELS if known is None else known, 1.0)


def _queued(since: datetime) -> dict[datetime, Counter[Key]]:
    """Items by the hour they came in. They are numbered as they come: the newest are read, until `since`."""
    found: dict[datetime, Counter[Key]] = defaultdict(Counter)
    columns = [f"submission__prediction__{name}" for name in ("model_version", "source", "community")]
    rows = QueueItem.objects.order_by("-pk").values_list("created_at", *columns)
    for came, *key in rows.iterator(2_000):
        if came < since - HOUR:
            break
        found[floor(came)][Key(*key)] += 1
    return found


def _count_errors(rows: dict[Key, dict[str, Any]], hour: datetime) -> None:
    minutes = RequestMinute.objects.filter(minute__gte=hour, minute__lt=hour + HOUR, errors__gt=0).order_by()
    errors = dict(minutes.values_list("source").annotate(Sum("errors")))
    if not errors:
        return
    served = Promotion.objects.filter(created_at__lt=hour + HOUR).values_list("version", flat=True).first()
    served = served or ModelVersion.objects.filter(alias=Alias.CHAMPION).values_list("pk", flat=True).first()
    for source, count in errors.items() if served else ():
        rows[Key(served, source, None)]["errors"] += count
