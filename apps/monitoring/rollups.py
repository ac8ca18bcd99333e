"""Building hourly rollups: which hours need it, and what an hour holds.

An hour is always counted anew and its rows replaced, so that counting it twice changes nothing. Predictions
are streamed, and of an hour only its counts are kept: memory does not grow with traffic. Predictions and
feedback come from an `Origin`; queue and decisions are this database's.
"""

import logging
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from celery.exceptions import SoftTimeLimitExceeded
from django.db import DatabaseError, transaction
from django.db.models import Count, Min, OuterRef, Q, QuerySet, Subquery, Sum
from django.utils import timezone

from apps.classifier.labels import LABELS
from apps.classifier.scorer import Scorer
from apps.moderation.insight import stated_labels
from apps.moderation.models import Decision, QueueItem, Submission
from apps.monitoring import origins, words
from apps.monitoring.failures import describe
from apps.monitoring.models import (
    JUDGED_BINS,
    LATENCY_EDGES,
    LENGTH_EDGES,
    SCORE_BINS,
    WAIT_EDGES,
    HourlyRollup,
    Progress,
    RequestMinute,
    UncountedHour,
)
from apps.monitoring.origins import HOUR, PREDICTED, Origin, Said, Sample, Scored, batches
from apps.predictions.mirror import MirrorError
from apps.predictions.models import ALL_LABELS, Prediction
from apps.registry.models import Alias, ModelVersion, Promotion

OVERLAP = timedelta(minutes=15)  # rows show up when their transaction ends, some time after they were dated
RECOUNT_EVERY, RECOUNT_BACK = timedelta(hours=6), timedelta(days=7)
LEASE = timedelta(minutes=5)
MINUTES_KEPT = timedelta(days=8)
_CHUNK = 20_000
_DRAWN = (QueueItem.Kind.REVIEW, QueueItem.Kind.AUDIT)
_VERDICTS = (Decision.Action.APPROVE, Decision.Action.REJECT)
DECISION_COLUMNS = {
    Decision.Action.APPROVE: "approved",
    Decision.Action.REJECT: "rejected",
    Decision.Action.ESCALATE: "escalated",
    Decision.Action.REVERSE: "reversed",
}
_FIRST_RETRY = timedelta(minutes=5)
# What ends a run, whatever row or hour it is at.
_FATAL = (DatabaseError, MirrorError, SoftTimeLimitExceeded)

logger = logging.getLogger(__name__)


class Key(NamedTuple):
    """What a row is of, besides its hour; `community` is None for all of them."""

    version: int
    source: str
    community: str | None


class UnknownVersionError(Exception):
    """Predictions name a model version that this database does not know; the message says what to do."""


class UnusableRowError(Exception):
    """A row holds a value that can't be counted."""


class IncompleteCountError(Exception):
    """Some hours could not be counted, or not completely; the others are. The message names them."""


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

    Changed are the hours since then, earlier ones for which a prediction was stored, a decision taken back or
    a review requested since then, those that are due to be retried, and, looked for every six hours, those of
    the last week whose number of predictions differs.

    An hour that fails, or of which rows had to be left out, is recorded as an `UncountedHour` and retried
    later; the other hours go on.

    Args:
        report: is told each hour before it is counted, and how many are left.

    Returns:
        How many hours were counted; 0 where another run is at work.

    Raises:
        MirrorError: DynamoDB can't be reached or refuses.
        IncompleteCountError: hours failed, or rows were left out; everything else is counted.
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
        failed: dict[datetime, str] = {}
        for place, hour in enumerate(hours):
            report(hour, len(hours) - place)
            if error := _count_and_store(origin, hour, queued.get(hour, Counter()), mine, now):
                failed[hour] = error
            if is_first:
                mine.update(until=min(hour + HOUR, now))
        mine.update(until=now)
        RequestMinute.objects.filter(minute__lt=now - MINUTES_KEPT).delete()
        if failed:
            first = min(failed)
            raise IncompleteCountError(
                f"{len(failed)} of {len(hours)} hours could not be counted completely, the first of them "
                f"{first:%Y-%m-%d %H:%M} UTC: {failed[first]}"
            )
        return len(hours)
    except LostError:
        return 0
    finally:
        mine.update(held_by=None, held_until=None)


def _count_and_store(
    origin: Origin, hour: datetime, queued: Counter[Key], mine: Any, now: datetime
) -> str | None:
    """Count one hour; return what failed, or None. A failure is recorded."""
    skipped: int | None = None
    try:
        counted = _count(origin, hour, queued)
        _store(hour, counted.rows, mine)
    except (LostError, SoftTimeLimitExceeded):
        raise
    except Exception as error:
        failure = describe(error)
        logger.error("The hour %s could not be counted: %s", f"{hour:%Y-%m-%d %H:%M}", failure)
    else:
        skipped, failure = counted.skipped, counted.error
        if skipped:
            logger.error(
                "%d rows of the hour %s were left out: %s", skipped, f"{hour:%Y-%m-%d %H:%M}", failure
            )
    known = UncountedHour.objects.filter(origin=origin.name, hour=hour)
    if skipped == 0:
        known.delete()
        return None
    attempts = 1 + (known.values_list("attempts", flat=True).first() or 0)
    wait = min(_FIRST_RETRY * 2 ** min(attempts, 16), RECOUNT_EVERY)
    UncountedHour.objects.update_or_create(
        origin=origin.name,
        hour=hour,
        defaults={"skipped": skipped, "error": failure, "attempts": attempts, "retry_at": now + wait},
        create_defaults={
            "skipped": skipped,
            "error": failure,
            "first_failed_at": now,
            "retry_at": now + _FIRST_RETRY,
        },
    )
    return failure


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
        hours |= _moderated_later(changed)
        retries = UncountedHour.objects.filter(origin=origin.name, retry_at__lte=now)
        hours |= set(retries.values_list("hour", flat=True))
        if progress.recounted_at is None or progress.recounted_at <= now - RECOUNT_EVERY:
            hours |= _different(origin, floor(now - RECOUNT_BACK))
            Progress.objects.filter(pk=progress.pk).update(recounted_at=now)
    hour = floor(begin)
    while hour <= now:
        hours.add(hour)
        hour += HOUR
    return hours


def _moderated_later(since: datetime) -> set[datetime]:
    """The hours of older comments that were sent to moderation since then, which changes their outcome."""
    columns = ("submission__outcome", "submission__created_at", "submission__prediction__created_at")
    return {
        floor(scored)
        for outcome, moderated, scored in _newest_items(since, *columns)
        if outcome != Submission.Outcome.NOT_MODERATED and floor(moderated) != floor(scored)
    }


def _newest_items(since: datetime, *columns: str) -> Iterator[tuple[Any, ...]]:
    """Yield columns of the queue items that came since then. They are numbered as they come, in a way."""
    rows = QueueItem.objects.order_by("-pk").values_list("created_at", *columns)
    for came, *values in rows.iterator(2_000):
        if came < since - HOUR:
            break
        yield tuple(values)


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
    row["outcomes"] = Counter()
    for name, (shape, dtype) in _ARRAYS.items():
        row[name] = np.zeros(shape, np.int64 if dtype == "<u4" else np.float64)
    return row


class HourCount:
    """The rows of an hour while they are counted, and how many records could not be."""

    def __init__(self) -> None:
        self.rows: dict[Key, dict[str, Any]] = defaultdict(_blank)
        self.skipped = 0
        self.error = ""

    def skip(self, error: str, count: int = 1) -> None:
        """Note that records are left out; the first reason is kept."""
        self.skipped += count
        self.error = self.error or error

    @contextmanager
    def record(self) -> Iterator[None]:
        """Leave a record out where it can't be counted."""
        try:
            yield
        except _FATAL:
            raise
        except Exception as error:
            self.skip(describe(error))


def _count(origin: Origin, hour: datetime, queued: Counter[Key]) -> HourCount:
    """Count what an hour's rows hold, those over all communities included."""
    counted = HourCount()
    rows = counted.rows
    before = origin.unreadable
    _count_predictions(counted, origin.scored(hour))
    _leave_out_unknown_versions(counted)
    _count_words(counted, origin.sample(hour))
    _count_outcomes(rows, hour)
    _count_decisions(counted, hour)
    _count_feedback(counted, origin.feedback(hour))
    _leave_out_unknown_versions(counted)
    if unreadable := origin.unreadable - before:
        counted.skip("Records in DynamoDB can't be read.", unreadable)
    for key, count in queued.items():
        rows[key]["queued"] += count
    for key, row in list(rows.items()):
        total = rows[key._replace(community=None)]
        for name in row:
            total[name] = total[name] + row[name]
    _count_errors(rows, hour)
    return counted


def _leave_out_unknown_versions(counted: HourCount) -> None:
    versions = {key.version for key in counted.rows}
    unknown = versions - set(ModelVersion.objects.filter(pk__in=versions).values_list("pk", flat=True))
    for key in [key for key in counted.rows if key.version in unknown]:
        error = UnknownVersionError(
            f"Predictions were made by a model version that is not here (id {key.version}): copy the "
            "registry from the site's database by `manage.py dumpdata registry` and `manage.py loaddata`."
        )
        counted.skip(describe(error), counted.rows.pop(key)["requests"] or 1)


def bins_of(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """The bin of each value; what is beyond the edges is in the first or last."""
    return np.clip(np.searchsorted(edges, values, side="right") - 1, 0, len(edges) - 2)


def _count_predictions(counted: HourCount, scored: Iterator[Scored]) -> None:
    for batch in batches(scored, _CHUNK):
        try:
            _count_batch(counted.rows, batch)
        except _FATAL:
            raise
        except Exception:
            for row in batch:
                with counted.record():
                    _count_batch(counted.rows, [row])


def _finite(values: Sequence[Any]) -> np.ndarray:
    found = np.array(values, np.float64)
    if not np.isfinite(found).all():
        raise UnusableRowError("A score, a time or a length is missing or is no finite number.")
    return found


def _count_batch(rows: dict[Key, dict[str, Any]], batch: list[Scored]) -> None:
    """Add predictions to the rows: all of them, or none where one can't be counted."""
    versions, sources, communities, masks, times, lengths, *scores = zip(*batch, strict=True)
    if None in versions or None in sources or None in communities:
        raise UnusableRowError("A prediction has no model version, source or community.")
    places: dict[tuple[int, str, str], int] = {}
    which = np.array(
        [places.setdefault(key, len(places)) for key in zip(versions, sources, communities, strict=True)]
    )
    size = len(places)

    def histogram(bins: np.ndarray, width: int, of: np.ndarray = which) -> np.ndarray:
        return np.bincount(of * width + bins, minlength=size * width).reshape(size, width)

    mask = np.array(masks, np.int64)
    kept = np.array([length is not None for length in lengths])
    characters = _finite([length for length in lengths if length is not None])
    by_label = [
        histogram(np.clip((_finite(score) * SCORE_BINS).astype(np.int64), 0, SCORE_BINS - 1), SCORE_BINS)
        for score in scores
    ]
    flags = [histogram(mask >> bit & 1, 2)[:, 1] for bit in range(len(LABELS))]
    latency = histogram(bins_of(_finite(times), LATENCY_EDGES), len(LATENCY_EDGES) - 1)
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


def _count_words(counted: HourCount, sample: Iterator[Sample]) -> None:
    for version, source, community, mask, text in sample:
        key = Key(version, source, community)
        if key not in counted.rows:
            continue  # left out already
        with counted.record():
            grams = words.known_and_unknown(scorer_of(version), text)
            groups = words.groups_named(text)[:, None] * np.array([1, int(mask > 0)])
            row = counted.rows[key]
            row["sampled"] += 1
            row["words"] += grams
            row["groups"] += groups


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
        if answer and answer != Submission.Outcome.NOT_MODERATED:
            rows[Key(version, source, community)]["outcomes"][answer] += count


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
    "rule__label",
    "item__sampling_chance",
    "submission__prediction__label_mask",
    *(f"submission__prediction__{label}" for label in LABELS),
)


def verdicts() -> QuerySet[Decision]:
    """Return the decisions that say how often the model is right: of items that policy or chance drew."""
    return Decision.objects.human().filter(
        action__in=_VERDICTS,
        reversal=None,
        item__kind__in=_DRAWN,
        item__requested_by=None,  # a person chose these, so they are no sample of the traffic
    )


def _count_decisions(counted: HourCount, hour: datetime) -> None:
    made = (
        Decision.objects.human()
        .filter(created_at__gte=hour, created_at__lt=hour + HOUR)
        .order_by()
        .values_list(
            "action",
            "corrected_mask",
            "rule__label",
            "reversal",
            "reverses__action",
            "item__kind",
            "item__sampling_chance",
            "item__created_at",
            "created_at",
            *(f"submission__prediction__{name}" for name in PREDICTED),
        )
    )
    for row in made.iterator(_CHUNK):
        with counted.record():
            _count_decision(counted.rows, *row)


def _count_decision(
    rows: dict[Key, dict[str, Any]],
    action: str,
    corrected: int | None,
    rule_label: str | None,
    reversal: int | None,
    taken_back: str | None,
    kind: str,
    chance: float,
    came: datetime,
    at: datetime,
    *prediction: Any,
) -> None:
    version, source, community, predicted, *scores = prediction
    if action not in Decision.Action.values:
        raise UnusableRowError(f"No column counts decisions of the kind “{action}”.")
    column, weight = DECISION_COLUMNS[Decision.Action(action)], 1 / chance
    _finite(scores)
    row = rows[Key(version, source, community)]
    row[column] += 1
    row["escalations_reversed"] += taken_back == Decision.Action.ESCALATE
    if action not in _VERDICTS:
        return
    row["waits"][bins_of(np.array([(at - came).total_seconds()]), WAIT_EDGES)] += 1
    # Whose item was not drawn by the policy or by chance says nothing of how often the model is right.
    if reversal is None and kind in _DRAWN:
        true, known = stated_labels(action, corrected, rule_label)
        add_verdict(row["judged"], scores, predicted, true, known, weight)


def _count_feedback(counted: HourCount, given: Iterator[Said]) -> None:
    for row in given:
        with counted.record():
            _count_statement(counted.rows, *row)


def _count_statement(
    rows: dict[Key, dict[str, Any]], is_right: bool, true: int | None, known: int | None, *prediction: Any
) -> None:
    version, source, community, predicted, *scores = prediction
    _finite(scores)
    if true is None and is_right:
        true, known = predicted, None
    row = rows[Key(version, source, community)]
    row["right" if is_right else "wrong"] += 1
    if true is not None:
        add_verdict(row["said"], scores, predicted, true, ALL_LABELS if known is None else known, 1.0)


def _queued(since: datetime) -> dict[datetime, Counter[Key]]:
    """Return how many items came into the queue in each hour since then."""
    found: dict[datetime, Counter[Key]] = defaultdict(Counter)
    columns = [f"submission__prediction__{name}" for name in ("model_version", "source", "community")]
    for came, *key in _newest_items(since, "created_at", *columns):
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
