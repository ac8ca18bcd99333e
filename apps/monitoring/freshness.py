"""Up to when traffic is counted, and what is missing. The dashboard, alerts and `/metrics` show it.

It is computed from the rollups and not from the schedule, because a task can succeed without counting.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from django.conf import settings
from django.db.models import Q
from django.utils import timezone

from apps.core.text import pluralize
from apps.monitoring import schedules
from apps.monitoring.models import IncompleteHour, RollupProgress, ScheduledTask

RECENT = timedelta(days=7)
_MAX_LISTED = 3
_HOUR, _MICROSECOND = timedelta(hours=1), timedelta(microseconds=1)


@dataclass(frozen=True)
class Freshness:
    """Up to when everything is counted, and what is wrong.

    Attributes:
        as_of: the time up to which everything is counted; None before the first count.
        problems: sentences for readers.
        subjects: short names of the problems, for alerts.
    """

    as_of: datetime | None
    problems: list[str] = field(default_factory=list)
    subjects: list[str] = field(default_factory=list)

    @property
    def is_late(self) -> bool:
        """Whether rollups are older than they should be, or incomplete."""
        return bool(self.problems)

    @property
    def status(self) -> str:
        """`late` or `current`."""
        return "late" if self.problems else "current"


def of_rollups(
    *, now: datetime | None = None, begin: datetime | None = None, end: datetime | None = None
) -> Freshness:
    """Return the freshness of the hourly rollups.

    Args:
        begin: list incomplete hours from here on; by default those of the last seven days.
        end: list incomplete hours before this time only.
    """
    now = now or timezone.now()
    origin = settings.ROLL_UP_FROM
    counted_until = RollupProgress.objects.filter(pk=origin).values_list("counted_until", flat=True).first()
    incomplete = list(
        IncompleteHour.objects.filter(
            Q(hour__gte=(begin or now - RECENT) - _HOUR) | Q(hour__gte=now - 2 * _HOUR), origin=origin
        ).order_by("hour")
    )
    uncounted = {row.hour for row in incomplete if row.skipped is None}
    as_of = counted_until
    while as_of and (hour := (as_of - _MICROSECOND).replace(minute=0, second=0, microsecond=0)) in uncounted:
        as_of = hour
    problems, subjects = [], []
    if _is_late(as_of, now):
        since = f"since {as_of:%Y-%m-%d %H:%M} UTC" if as_of else "yet"
        problems.append(f"Traffic has not been counted {since}.")
        subjects.append("late rollups")
    listed = [row for row in incomplete if end is None or row.hour < end]
    problems += [_describe(row) for row in listed[:_MAX_LISTED]]
    if len(listed) > _MAX_LISTED:
        problems.append(
            f"{pluralize(len(listed) - _MAX_LISTED, 'more hour is', 'more hours are')} incomplete."
        )
    if listed:
        subjects.append("incomplete hours")
    return Freshness(as_of, problems, subjects)


def of_background_work(now: datetime) -> Freshness:
    """Return the current problems of scheduled tasks and rollups, for metrics that are read live."""
    failing, rollups = list(schedules.problems(now)), of_rollups(now=now)
    return Freshness(
        now,
        [*(state.problem for state in failing), *rollups.problems],
        [*(state.name for state in failing), *rollups.subjects],
    )


def _is_late(as_of: datetime | None, now: datetime) -> bool:
    since = as_of
    if since is None:
        task = ScheduledTask.objects.filter(pk=schedules.ROLL_UP)
        since = task.values_list("created_at", flat=True).first()
    return since is None or now - since > schedules.allowed_age(schedules.ROLL_UP)


def _describe(row: IncompleteHour) -> str:
    hour = f"{row.hour:%Y-%m-%d %H:%M} UTC"
    if row.skipped is None:
        return f"The hour {hour} could not be counted and will be retried: {row.error}"
    return f"In the hour {hour} {pluralize(row.skipped, 'row')} could not be counted: {row.error}"
