"""Whether the scheduled tasks run. Celery's signals record the result of each task.

A task that fails, or has not succeeded for too long, is a problem. The dashboard, an alert and `/metrics`
report it. They evaluate this when they are read, because the worker itself may have stopped.
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
GRACE = timedelta(minutes=5)  # the worker may be busy with another task
TRAINING_GRACE = timedelta(hours=2)  # the training worker runs one training at a time
_WRITE_EVERY = timedelta(seconds=30)

logger = logging.getLogger(__name__)


def scheduled_tasks() -> set[str]:
    """Return the names of the tasks that have a schedule."""
    return {entry["task"] for entry in settings.CELERY_BEAT_SCHEDULE.values()}


def allowed_age(task: str) -> timedelta:
    """Return the age of a scheduled task's last success from which on it is overdue."""
    entry = next(entry for entry in settings.CELERY_BEAT_SCHEDULE.values() if entry["task"] == task)
    queue = settings.CELERY_TASK_ROUTES.get(task, {}).get("queue")
    return maybe_schedule(entry["schedule"]).run_every + (TRAINING_GRACE if queue == "training" else GRACE)


@dataclass(frozen=True)
class ScheduleState:
    """The state of a schedule at a given time."""

    name: str
    task: str
    succeeded_at: datetime | None
    is_overdue: bool
    failures: int
    failing_since: datetime | None
    error: str

    @property
    def problem(self) -> str:
        """A sentence that describes the problem, or an empty string."""
        last = (
            f"Last success: {self.succeeded_at:%Y-%m-%d %H:%M} UTC."
            if self.succeeded_at
            else "No success yet."
        )
        if self.failures:
            times = "once" if self.failures == 1 else f"{self.failures:,} times in a row"
            return f"“{self.name}” failed {times}. {last} {self.error}"
        return f"“{self.name}” is overdue. {last}" if self.is_overdue else ""


def states(now: datetime | None = None) -> list[ScheduleState]:
    """Return the state of each schedule in the settings."""
    now = now or timezone.now()
    rows = ScheduledTask.objects.in_bulk()
    return [
        _state(name, entry["task"], rows.get(entry["task"]), now)
        for name, entry in settings.CELERY_BEAT_SCHEDULE.items()
    ]


def problems(now: datetime | None = None) -> Iterator[ScheduleState]:
    """Yield the schedules that fail or are overdue."""
    return (state for state in states(now) if state.problem)


def record_success(task: str, *, now: datetime | None = None) -> None:
    """Record that a task succeeded: at once after a failure, otherwise at most every 30 seconds."""
    now = now or timezone.now()
    row = ScheduledTask.objects.filter(pk=task)
    is_due = Q(succeeded_at=None) | Q(succeeded_at__lte=now - _WRITE_EVERY) | Q(failures__gt=0)
    if not row.filter(is_due).update(succeeded_at=now, failures=0, failing_since=None, error=""):
        ScheduledTask.objects.get_or_create(pk=task, defaults={"succeeded_at": now})


@transaction.atomic
def record_failure(task: str, error: BaseException, *, now: datetime | None = None) -> None:
    """Record that a task failed, and why."""
    now = now or timezone.now()
    row, _ = ScheduledTask.objects.select_for_update().get_or_create(pk=task)
    row.failures += 1
    row.failing_since = row.failing_since or now
    row.error = describe(error)
    row.save()


def create_rows(apps: Any = registry, **kwargs: Any) -> None:
    """Create a row for each scheduled task after a migration, so that one that never runs becomes overdue.

    `flush` sends the same signal without the migrations' `apps`.
    """
    try:
        apps.get_model("monitoring", "ScheduledTask")
    except LookupError:  # migrated back to before the table
        return
    tasks = (ScheduledTask(pk=task) for task in scheduled_tasks())
    ScheduledTask.objects.bulk_create(tasks, ignore_conflicts=True)


def _state(name: str, task: str, row: ScheduledTask | None, now: datetime) -> ScheduleState:
    if row is None:
        return ScheduleState(name, task, None, True, 0, None, "")
    is_overdue = now - (row.succeeded_at or row.created_at) > allowed_age(task)
    return ScheduleState(name, task, row.succeeded_at, is_overdue, row.failures, row.failing_since, row.error)


@task_success.connect
def _on_success(sender: Any, **kwargs: Any) -> None:
    if sender.name in scheduled_tasks():
        try:
            record_success(sender.name)
        except DatabaseError as error:
            logger.warning("The success of %s was not recorded: %s", sender.name, describe(error))


@task_failure.connect
def _on_failure(sender: Any, exception: BaseException, **kwargs: Any) -> None:
    if sender.name in scheduled_tasks():
        try:
            record_failure(sender.name, exception)
        except DatabaseError as error:
            logger.warning("The failure of %s was not recorded: %s", sender.name, describe(error))
