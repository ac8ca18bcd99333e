"""Whether the scheduled tasks run: each keeps its last success and failure, which Celery's signals record.

A task that fails, or has not succeeded for too long, is a problem that the dashboard, an alert and `/metrics`
report. They compute it when they are asked, so none of them depends on the worker that may have stopped.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from celery.schedules import maybe_schedule
from celery.signals import task_failure, task_success
from django.apps import apps as registry
from django.conf import settings
from django.db import DatabaseError, transaction
from django.db.models import Q
from django.utils import timezone

from apps.monitoring.failures import describe
from apps.monitoring.models import ScheduledTask

ROLL_UP, EVALUATE_RULES = "apps.monitoring.tasks.roll_up", "apps.monitoring.tasks.evaluate_rules"
GRACE = timedelta(minutes=5)  # after a task was due; a worker may be busy with another one
TRAINING_GRACE = timedelta(hours=2)  # the trainer works on one training at a time, which may take that long
_WRITE_EVERY = timedelta(seconds=30)

logger = logging.getLogger(__name__)


def tasks() -> set[str]:
    """Return the names of the scheduled tasks."""
    return {entry["task"] for entry in settings.CELERY_BEAT_SCHEDULE.values()}


def allowed_age(task: str) -> timedelta:
    """Return how long ago a scheduled task may have succeeded last before it is overdue."""
    entry = next(each for each in settings.CELERY_BEAT_SCHEDULE.values() if each["task"] == task)
    queue = settings.CELERY_TASK_ROUTES.get(task, {}).get("queue")
    return maybe_schedule(entry["schedule"]).run_every + (TRAINING_GRACE if queue == "training" else GRACE)


@dataclass(frozen=True)
class ScheduleState:
    """What is known of a schedule at a moment."""

    name: str
    task: str
    succeeded_at: datetime | None
    is_overdue: bool
    failures: int
    failing_since: datetime | None
    error: str

    @property
    def problem(self) -> str:
        """What is wrong, in words; empty where nothing is."""
        last = f"{self.succeeded_at:%Y-%m-%d %H:%M} UTC" if self.succeeded_at else "never"
        if self.failures:
            times = "once" if self.failures == 1 else f"{self.failures:,} times in a row"
            return f"“{self.name}” failed {times}; it succeeded last: {last}. {self.error}"
        return f"“{self.name}” is overdue; it succeeded last: {last}." if self.is_overdue else ""


def states(now: datetime | None = None) -> list[ScheduleState]:
    """Return the state of each schedule in the settings."""
    now = now or timezone.now()
    rows = ScheduledTask.objects.in_bulk()
    return [
        _state(name, entry["task"], rows.get(entry["task"]), now)
        for name, entry in settings.CELERY_BEAT_SCHEDULE.items()
    ]


def _state(name: str, task: str, row: ScheduledTask | None, now: datetime) -> ScheduleState:
    since = row and (row.succeeded_at or row.created_at)
    return ScheduleState(
        name=name,
        task=task,
        succeeded_at=row and row.succeeded_at,
        is_overdue=since is None or now - since > allowed_age(task),
        failures=row.failures if row else 0,
        failing_since=row and row.failing_since,
        error=row.error if row else "",
    )


def problems(now: datetime | None = None) -> Iterator[ScheduleState]:
    """Yield the schedules that fail or are overdue."""
    return (state for state in states(now) if state.problem)


def record_success(task: str, *, now: datetime | None = None) -> None:
    """Note that a task succeeded: after a failure at once, otherwise at most every 30 seconds."""
    now = now or timezone.now()
    row = ScheduledTask.objects.filter(pk=task)
    is_news = Q(succeeded_at=None) | Q(succeeded_at__lte=now - _WRITE_EVERY) | Q(failures__gt=0)
    if not row.filter(is_news).update(succeeded_at=now, failures=0, failing_since=None, error=""):
        ScheduledTask.objects.get_or_create(pk=task, defaults={"succeeded_at": now})


@transaction.atomic
def record_failure(task: str, error: BaseException, *, now: datetime | None = None) -> None:
    """Note that a task failed, and why."""
    now = now or timezone.now()
    row, _ = ScheduledTask.objects.select_for_update().get_or_create(pk=task)
    row.failures += 1
    row.failing_since = row.failing_since or now
    row.error = describe(error)
    row.save()


@task_success.connect
def _succeeded(sender: Any, **kwargs: Any) -> None:
    if sender.name in tasks():
        try:
            record_success(sender.name)
        except DatabaseError as error:
            logger.warning("The success of %s was not recorded: %s", sender.name, describe(error))


@task_failure.connect
def _failed(sender: Any, exception: BaseException, **kwargs: Any) -> None:
    if sender.name in tasks():
        try:
            record_failure(sender.name, exception)
        except DatabaseError as error:
            logger.warning("The failure of %s was not recorded: %s", sender.name, describe(error))


def create_rows(apps: Any = registry, **kwargs: Any) -> None:
    """Begin to wait for each schedule when the database is migrated: one that never runs is overdue then.

    `flush` sends the same signal without the migrations' `apps`.
    """
    try:
        apps.get_model("monitoring", "ScheduledTask")
    except LookupError:  # migrated back
        return
    ScheduledTask.objects.bulk_create((ScheduledTask(pk=task) for task in tasks()), ignore_conflicts=True)
