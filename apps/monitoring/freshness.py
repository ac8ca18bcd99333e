"""Up to when traffic is counted, and what is missing: from the counts themselves, not from the schedule."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from django.conf import settings
from django.db.models import Q
from django.utils import timezone

from apps.core.text import pluralize
from apps.monitoring import schedules
from apps.monitoring.models import Progress, ScheduledTask, UncountedHour

RECENT = timedelta(days=7)
_NAMED = 3  # hours that are named one by one
_HOUR, _TICK = timedelta(hours=1), timedelta(microseconds=1)


@dataclass(frozen=True)
class Freshness:
    """The moment up to which everything is counted, None before the first count, and what is wrong."""

    as_of: datetime | None
    problems: list[str] = field(default_factory=list)
    subjects: list[str] = field(default_factory=list)

    @property
    def is_late(self) -> bool:
        """Whether the counts are older than they should be, or incomplete."""
        return bool(self.problems)

    @property
    def status(self) -> str:
        """One word for it."""
        return "late" if self.problems else "current"


def of_counts(
    *, now: datetime | None = None, begin: datetime | None = None, end: datetime | None = None
) -> Freshness:
    """Return how fresh the hourly counts are, and which hours from `begin` to `end` are incomplete.

    Without `begin` the last seven days count: older hours are no news, panels that show them name them.
    """
    now = now or timezone.now()
    origin = settings.ROLL_UP_FROM
    until = Progress.objects.filter(pk=origin).values_list("until", flat=True).first()
    hours = list(
        UncountedHour.objects.filter(
            Q(hour__gte=(begin or now - RECENT) - _HOUR) | Q(hour__gte=now - 2 * _HOUR), origin=origin
        ).order_by("hour")
    )
    failed = {row.hour for row in hours if row.skipped is None}
    as_of = until
    while as_of and (hour := (as_of - _TICK).replace(minute=0, second=0, microsecond=0)) in failed:
        as_of = hour
    problems, subjects = [], []
    if _is_late(as_of, now):
        counted = f"since {as_of:%Y-%m-%d %H:%M} UTC" if as_of else "yet"
        problems.append(f"Traffic has not been counted {counted}.")
        subjects.append("late counts")
    shown = [row for row in hours if end is None or row.hour < end]
    problems += [_sentence(row) for row in shown[:_NAMED]]
    if len(shown) > _NAMED:
        problems.append(f"{pluralize(len(shown) - _NAMED, 'more hour is', 'more hours are')} incomplete.")
    if shown:
        subjects.append("incomplete hours")
    return Freshness(as_of, problems, subjects)


def _is_late(as_of: datetime | None, now: datetime) -> bool:
    since = as_of
    if since is None:
        expected = ScheduledTask.objects.filter(pk=schedules.ROLL_UP)
        since = expected.values_list("created_at", flat=True).first()
    return since is None or now - since > schedules.allowed_age(schedules.ROLL_UP)


def _sentence(row: UncountedHour) -> str:
    when = f"{row.hour:%Y-%m-%d %H:%M} UTC"
    if row.skipped is None:
        return f"The hour {when} could not be counted and is tried again: {row.error}"
    return f"In the hour {when} {pluralize(row.skipped, 'row')} could not be counted: {row.error}"


def of_background_work(now: datetime) -> Freshness:
    """Return what is wrong at this moment with schedules and counts; for figures that are read live."""
    failing, counts = list(schedules.problems(now)), of_counts(now=now)
    return Freshness(
        now,
        [*(state.problem for state in failing), *counts.problems],
        [*(state.name for state in failing), *counts.subjects],
    )
