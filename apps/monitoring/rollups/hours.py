"""Which hours a run of `actions.roll_up` counts."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from django.db.models import Min, Sum

from apps.moderation.models import Decision, QueueItem, Submission
from apps.monitoring.models import HourlyRollup, IncompleteHour, RequestMinute, RollupProgress
from apps.monitoring.rollups.origins import HOUR, Origin

OVERLAP = timedelta(minutes=15)  # a row becomes visible when its transaction ends, after its `created_at`
RECOUNT_EVERY, RECOUNT_BACK = timedelta(hours=6), timedelta(days=7)


class Key(NamedTuple):
    """The rollup that a record is counted in, within its hour; the community None means all communities."""

    version: int
    source: str
    community: str | None


def start_of_hour(moment: datetime) -> datetime:
    """Return the start of the hour, in UTC."""
    return moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def hours_to_count(
    origin: Origin, progress: RollupProgress, since: datetime | None, now: datetime
) -> set[datetime]:
    """Return the hours that have changed since the last run, and all hours from `since` on.

    These hours have changed:

    - hours since the last run;
    - hours for which a prediction was stored since then;
    - hours with a decision that was undone since then;
    - hours with a comment that was sent to moderation since then;
    - incomplete hours whose retry is due;
    - every six hours: hours of the last week whose number of predictions differs from the rollup.

    In the first run there are only the hours from `since` on, by default from the first record on. Hours of
    which the origin no longer keeps all records are never counted, so that their rollups stay.
    """
    hours: set[datetime] = set()
    begin = since
    if progress.counted_until is None:
        begin = since or min(filter(None, (origin.first_prediction_at(), _first_request_at())), default=now)
    else:
        changed = progress.counted_until - OVERLAP
        begin = min(filter(None, (since, changed)))
        hours |= {start_of_hour(hour) for hour in origin.hours_stored_since(changed)}
        reversals = Decision.objects.filter(created_at__gte=changed, reverses__isnull=False)
        hours |= {start_of_hour(at) for at in reversals.values_list("reverses__created_at", flat=True)}
        hours |= _hours_moderated_later(changed)
        retries = IncompleteHour.objects.filter(origin=origin.name, retry_at__lte=now)
        hours |= set(retries.values_list("hour", flat=True))
        if progress.recounted_at is None or progress.recounted_at <= now - RECOUNT_EVERY:
            hours |= _hours_that_differ(origin, start_of_hour(now - RECOUNT_BACK))
            RollupProgress.objects.filter(pk=progress.pk).update(recounted_at=now)
    hour = start_of_hour(begin)
    while hour <= now:
        hours.add(hour)
        hour += HOUR
    oldest = origin.oldest_kept()
    return {hour for hour in hours if oldest is None or hour >= oldest}


def count_queued_items(since: datetime) -> dict[datetime, Counter[Key]]:
    """Return the number of items that were queued since then, by hour and rollup key."""
    counts: dict[datetime, Counter[Key]] = defaultdict(Counter)
    columns = [f"submission__prediction__{name}" for name in ("model_version", "source", "community")]
    for queued_at, *key in _items_queued_since(since, "created_at", *columns):
        counts[start_of_hour(queued_at)][Key(*key)] += 1
    return counts


def _hours_moderated_later(since: datetime) -> set[datetime]:
    """Return the hours of older comments sent to moderation since then: their outcome has changed."""
    columns = ("submission__outcome", "submission__created_at", "submission__prediction__created_at")
    return {
        start_of_hour(predicted_at)
        for outcome, moderated_at, predicted_at in _items_queued_since(since, *columns)
        if outcome != Submission.Outcome.NOT_MODERATED
        and start_of_hour(moderated_at) != start_of_hour(predicted_at)
    }


def _items_queued_since(since: datetime, *columns: str) -> Iterator[tuple[Any, ...]]:
    """Yield columns of the queue items created since then.

    Primary keys follow the time of creation except for concurrent transactions, so the newest keys are read
    until one is an hour too old.
    """
    rows = QueueItem.objects.order_by("-pk").values_list("created_at", *columns)
    for created_at, *values in rows.iterator(2_000):
        if created_at < since - HOUR:
            break
        yield tuple(values)


def _first_request_at() -> datetime | None:
    return RequestMinute.objects.aggregate(first=Min("minute"))["first"]


def _hours_that_differ(origin: Origin, since: datetime) -> set[datetime]:
    rows = HourlyRollup.objects.overall().filter(hour__gte=since).order_by()
    counted = dict(rows.values_list("hour").annotate(Sum("requests")))
    stored = origin.prediction_counts(since)
    return {hour for hour in counted.keys() | stored.keys() if counted.get(hour, 0) != stored.get(hour, 0)}
