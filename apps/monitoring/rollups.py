"""Building hourly rollups: which hours need it, and what an hour holds.

An hour is always counted anew and its rows replaced, so that counting it twice changes nothing. Predictions
are streamed, and of an hour only its counts are kept: memory does not grow with traffic. Predictions and
feedback come from an `Origin`; queue and decisions are this database's.
"""

import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from django.db import transaction
from django.db.models import Count, Min, OuterRef, Q, QuerySet, Subquery, Sum
from django.utils import timezone

from apps.classifier.labels import LABELS
from apps.classifier.scorer import Scorer
from apps.moderation.models import Decision, QueueItem, Submission
from apps.monitoring import origins, words
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
from apps.monitoring.origins import HOUR, PREDICTED, Origin, Said, Sample, Scored, batches
from apps.predictions.models import ALL_LABELS, Prediction
from apps.registry.models import Alias, ModelVersion, Promotion

OVERLAP = timedelta(minutes=15)  # rows show up when their transaction ends, some time after they were dated
RECOUNT_EVERY, RECOUNT_BACK = timedelta(hours=6), timedelta(days=7)
LEASE = timedelta(minutes=5)
MINUTES_KEPT = timedelta(days=8)
_CHUNK = 20_000
_DRAWN = (QueueItem.Kind.REVIEW, QueueItem.Kind.AUDIT)
_OUTCOMES = ("approve", "reject", "human_review")
_ROOM = 6  # labels


class Key(NamedTuple):
    """What a row is of, besides its hour; `community` is None for all of them."""

    version: int
    source: str
    community: str | None


class UnknownVersionError(Exception):
    """Predictions name a model version that this database does not know; the message says what to do."""


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
    """Count every hour that has changed since the last run, and those from `since` on; at first only those.

    Changed are the hours since then, earlier ones for which a prediction was stored or a decision taken back
    since then, and, looked for every six hours, those of the last week whose number of predictions differs.

    Args:
        report: is told each hour before it is counted, and how many are left.

    Returns:
        How many hours were counted; 0 where another run is at work.

    Raises:
        MirrorError: DynamoDB can't be reached or refuses.
        UnknownVersionError: a prediction's model version is not in this database.
    """
    origin, now = origin or origins.configured(), now or timezone.now()
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
        begin = since or min(filter(None, (origin.first(), _first_call())), default=now)
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
    versions = {key.version for key in rows}
    if unknown := versions - set(ModelVersion.objects.filter(pk__in=versions).values_list("pk", flat=True)):
        raise UnknownVersionError(
            f"Predictions were made by a model version that is not here (id {min(unknown)}): copy the "
            "registry from the site's database by `manage.py dumpdata registry` and `manage.py loaddata`."
        )
    _count_words(rows, origin.sample(hour))
    _count_outcomes(rows, hour)
    _count_decisions(rows, hour)
    _count_feedback(rows, origin.feedback(hour))
    for key, count in queued.items():
        rows[key]["queued"] += count
    for key, row in list(rows.items()):
        total = rows[key._replace(community=None)]
        for name in row:
            total[name] = total[name] + row[name]
    _count_errors(rows, hour)
    return dict(rows)


def bins_of(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """The bin of each value; what is beyond the edges is in the first or last."""
    return np.clip(np.searchsorted(edges, values, side="right") - 1, 0, len(edges) - 2)


def _count_predictions(rows: dict[Key, dict[str, Any]], scored: Iterator[Scored]) -> None:
    for batch in batches(scored, _CHUNK):
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
    # Looked up one by one: joined, all submissions that there are would be read for every hour.
    outcome = Submission.objects.filter(prediction=OuterRef("pk")).values("outcome")[:1]
    answers = (
        Prediction.objects.filter(created_at__gte=hour, created_at__lt=hour + HOUR)
        .order_by()
        .annotate(outcome=Subquery(outcome))
        .values_list("model_version", "source", "community", "outcome")
        .annotate(Count("pk"))
    )
    for version, source, community, answer, count in answers:
        if answer:
            rows[Key(version, source, community)]["outcomes"][_OUTCOMES.index(answer)] += count


def add_verdict(
    row: np.ndarray, scores: Sequence[float], predicted: int, true: int, known: int, weight: float
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


VERDICT = (
    "action",
    "corrected_mask",
    "item__sampling_chance",
    "submission__prediction__label_mask",
    *(f"submission__prediction__{label}" for label in LABELS),
)


def verdicts() -> QuerySet[Decision]:
    """Return the decisions that say how often the model is right: of items that policy or chance drew."""
    return Decision.objects.human().filter(
        action__in=["approve", "reject"], reversal=None, item__kind__in=_DRAWN
    )


def truth(action: str, corrected: int | None, predicted: int) -> int:
    """Return the labels that a decision says are true."""
    return corrected if corrected is not None else predicted if action == "reject" else 0


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
            *(f"submission__prediction__{name}" for name in PREDICTED),
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
        if reversal is None and kind in _DRAWN:
            true = truth(action, corrected, predicted)
            add_verdict(row["judged"], scores, predicted, true, ALL_LABELS, 1 / chance)


def _count_feedback(rows: dict[Key, dict[str, Any]], given: Iterator[Said]) -> None:
    for is_right, true, known, version, source, community, predicted, *scores in given:
        row = rows[Key(version, source, community)]
        row["right" if is_right else "wrong"] += 1
        if true is None and is_right:
            true, known = predicted, None
        if true is not None:
            add_verdict(row["said"], scores, predicted, true, ALL_LABELS if known is None else known, 1.0)


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
