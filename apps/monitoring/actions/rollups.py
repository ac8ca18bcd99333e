"""Counts the hours that have changed and stores their rollups."""

import logging
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta

from celery.exceptions import SoftTimeLimitExceeded
from django.db import transaction
from django.utils import timezone

from apps.core.leases import Lease
from apps.core.retries import back_off
from apps.monitoring.exceptions import IncompleteRollupError
from apps.monitoring.failures import describe
from apps.monitoring.models import HourlyRollup, IncompleteHour, RequestMinute, RollupProgress
from apps.monitoring.rollups.counter import COUNT_FIELDS, KEY_FIELDS, Rows, count_hour
from apps.monitoring.rollups.hours import RECOUNT_EVERY, Key, count_queued_items, hours_to_count
from apps.monitoring.rollups.origins import HOUR, Origin, configured_origin

LEASE = timedelta(minutes=5)
KEEP_REQUEST_MINUTES = timedelta(days=8)
_FIRST_RETRY = timedelta(minutes=5)

logger = logging.getLogger(__name__)


class _LeaseLostError(Exception):
    """Another process has taken over the lease and counts the remaining hours."""


def roll_up(
    *,
    origin: Origin | None = None,
    since: datetime | None = None,
    now: datetime | None = None,
    report: Callable[[datetime, int], None] = lambda hour, left: None,
) -> int:
    """Count every hour that has changed since the last run, and every hour from `since` on.

    An hour is always counted completely and its rows are replaced, so a second run changes nothing. An hour
    that fails, or in which rows are left out, is recorded as an `IncompleteHour` and retried; the other hours
    are counted. See `rollups.hours.hours_to_count` for the hours that are counted. An hour older than
    KEEP_REQUEST_MINUTES keeps the errors that its rollups have.

    Args:
        origin: where predictions and feedback are read from; by default the setting ROLL_UP_FROM.
        report: called with each hour before it is counted, and with the number of hours left.

    Returns:
        The number of hours counted; 0 if another process holds the lease.

    Raises:
        MirrorError: DynamoDB does not respond or rejects a request.
        IncompleteRollupError: hours failed, or rows were left out.
    """
    origin, now = origin or configured_origin(), now or timezone.now()
    RollupProgress.objects.get_or_create(origin=origin.name)
    lease = Lease.acquire(RollupProgress.objects.filter(pk=origin.name), LEASE)
    if lease is None:
        return 0
    try:
        progress = RollupProgress.objects.get(pk=origin.name)
        is_first_run = progress.counted_until is None
        hours = sorted(hours_to_count(origin, progress, since, now))
        queued = count_queued_items(hours[0]) if hours else {}
        errors: dict[datetime, str] = {}
        for number, hour in enumerate(hours):
            report(hour, len(hours) - number)
            if error := _roll_up_hour(origin, hour, queued.get(hour, Counter()), lease, now):
                errors[hour] = error
            if is_first_run:
                lease.update(counted_until=min(hour + HOUR, now))
        lease.update(counted_until=now)
        RequestMinute.objects.filter(minute__lt=now - KEEP_REQUEST_MINUTES).delete()
        if oldest := origin.oldest_kept():  # older hours can't be completed any more
            IncompleteHour.objects.filter(origin=origin.name, hour__lt=oldest).delete()
        if errors:
            first = min(errors)
            raise IncompleteRollupError(
                f"{len(errors)} of {len(hours)} hours could not be counted completely, the first of them "
                f"{first:%Y-%m-%d %H:%M} UTC: {errors[first]}"
            )
        return len(hours)
    except _LeaseLostError:
        return 0
    finally:
        lease.release()


def _roll_up_hour(
    origin: Origin, hour: datetime, queued: Counter[Key], lease: Lease, now: datetime
) -> str | None:
    """Count and store one hour. Return the error that made it incomplete, after recording it, or None."""
    skipped: int | None = None
    try:
        counter = count_hour(origin, hour, queued)
        _store(hour, counter.rows, lease)
    except (_LeaseLostError, SoftTimeLimitExceeded):
        raise
    except Exception as failure:
        error = describe(failure)
        logger.error("The hour %s could not be counted: %s", f"{hour:%Y-%m-%d %H:%M}", error)
    else:
        skipped, error = counter.skipped, counter.error
        if skipped:
            logger.error("%d rows of the hour %s were left out: %s", skipped, f"{hour:%Y-%m-%d %H:%M}", error)
    incomplete = IncompleteHour.objects.filter(origin=origin.name, hour=hour)
    if skipped == 0:
        incomplete.delete()
        return None
    attempts = 1 + (incomplete.values_list("attempts", flat=True).first() or 0)
    wait = back_off(attempts, first=_FIRST_RETRY, longest=RECOUNT_EVERY)
    fields = {"skipped": skipped, "error": error, "attempts": attempts, "retry_at": now + wait}
    IncompleteHour.objects.update_or_create(
        origin=origin.name, hour=hour, defaults=fields, create_defaults=fields | {"first_failed_at": now}
    )
    return error


def _store(hour: datetime, rows: Rows, lease: Lease) -> None:
    """Replace an hour's rollups, and extend the lease.

    Raises:
        _LeaseLostError: another process holds the lease.
    """
    rollups = [
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
        if not lease.update():
            raise _LeaseLostError
        stored = HourlyRollup.objects.filter(hour=hour).values_list(
            "pk", "version", "source", "overall", "community"
        )
        obsolete = [
            pk
            for pk, version, source, overall, community in stored
            if Key(version, source, None if overall else community) not in rows
        ]
        HourlyRollup.objects.filter(pk__in=obsolete).delete()
        HourlyRollup.objects.bulk_create(
            rollups,
            batch_size=30,
            update_conflicts=True,
            unique_fields=KEY_FIELDS,
            update_fields=COUNT_FIELDS,
        )
