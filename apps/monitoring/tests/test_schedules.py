"""Schedules that fail or do not run are seen on the dashboard, open an alert and appear in the metrics."""

from datetime import timedelta
from typing import Any

import pytest
from django.conf import settings
from django.utils import timezone

from apps.monitoring import actions, freshness, schedules, tasks
from apps.monitoring.dashboard import PANELS, Filters, build_panel
from apps.monitoring.exceptions import IncompleteRollupError
from apps.monitoring.models import Alert, IncompleteHour, Notification, RollupProgress, ScheduledTask
from apps.monitoring.prometheus import exposition
from apps.monitoring.rollups.hours import start_of_hour
from apps.registry import tracking
from apps.registry.exceptions import TrackingError
from apps.registry.models import ModelVersion
from apps.registry.tasks import sync_tracking

pytestmark = [pytest.mark.django_db, pytest.mark.database]
HOUR = timedelta(hours=1)
HEALTHY = ("health", "system")


@pytest.fixture
def well(on_time: None, champion: ModelVersion, monkeypatch: pytest.MonkeyPatch) -> None:
    """A site that is well, its broker included."""
    monkeypatch.setattr("apps.monitoring.live_metrics.broker_depths", lambda: {"default": 0})


def names() -> list[str]:
    return [state.name for state in schedules.problems()]


@pytest.mark.parametrize("name", settings.CELERY_BEAT_SCHEDULE)
def test_every_schedule_is_watched(well: None, name: str) -> None:
    """Each is late a while after it was due, and its task records how it ended."""
    task = settings.CELERY_BEAT_SCHEDULE[name]["task"]
    allowed = schedules.allowed_age(task)
    ScheduledTask.objects.filter(pk=task).update(succeeded_at=timezone.now() - allowed + timedelta(minutes=1))
    assert names() == []
    ScheduledTask.objects.filter(pk=task).update(succeeded_at=timezone.now() - allowed - timedelta(minutes=1))
    assert names() == [name]
    assert "overdue" in next(schedules.problems()).problem
    schedules.record_success(task)
    assert names() == []
    schedules.record_failure(task, ValueError("nobody may read this"))
    assert names() == [name]
    assert "nobody" not in next(schedules.problems()).problem
    schedules.record_success(task)
    assert names() == []


def test_a_migrated_database_waits_for_every_schedule() -> None:
    assert schedules.scheduled_tasks() <= set(ScheduledTask.objects.values_list("pk", flat=True))


def test_a_schedule_that_never_ran_is_overdue(well: None) -> None:
    row = ScheduledTask.objects.filter(pk=schedules.EVALUATE_RULES)
    row.update(succeeded_at=None, created_at=timezone.now())
    assert names() == []
    row.update(created_at=timezone.now() - HOUR)
    assert names() == ["evaluate-alert-rules"]
    row.delete()
    assert names() == ["evaluate-alert-rules"]


def test_a_task_that_fails_and_recovers_is_recorded(well: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise IncompleteRollupError("1 of 2 hours could not be counted completely.")

    with monkeypatch.context() as patch:
        patch.setattr(actions, "roll_up", fail)
        tasks.roll_up.apply()
        tasks.roll_up.apply()
    row = ScheduledTask.objects.get(pk=schedules.ROLL_UP)
    assert (row.failures, row.error) == (2, "1 of 2 hours could not be counted completely.")
    assert row.failing_since is not None
    tasks.roll_up.apply()
    row.refresh_from_db()
    assert (row.failures, row.error, row.failing_since) == (0, "", None)


def test_a_task_whose_work_failed_does_not_count_as_run(well: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise TrackingError("MLflow does not answer.")

    monkeypatch.setattr(tracking, "sync", fail)
    sync_tracking.apply()
    assert "MLflow does not answer." in next(schedules.problems()).problem


def test_failing_schedules_open_an_alert_that_names_them(well: None) -> None:
    actions.install_default_rules()
    assert actions.evaluate_rules() == []
    schedules.record_failure(schedules.ROLL_UP, ValueError())
    (first,) = actions.evaluate_rules()
    assert first.summary == "Scheduled tasks and rollups that fail or are overdue: roll-up."
    assert actions.evaluate_rules() == []
    # A second failure must not hide behind the first one's alert.
    schedules.record_failure("apps.training.tasks.check_canary", ValueError())
    (second,) = actions.evaluate_rules()
    assert second.subjects == ["check-canary", "roll-up"]
    first.refresh_from_db()
    assert first.closed_at is not None
    schedules.record_success(schedules.ROLL_UP)
    assert actions.evaluate_rules() == []
    schedules.record_success("apps.training.tasks.check_canary")
    actions.evaluate_rules()
    assert not Alert.objects.open().exists()
    assert not Notification.objects.exists()  # nobody is to be told


def test_counts_that_are_late_open_an_alert_although_the_task_succeeds(well: None) -> None:
    """Another run holds the lease for ever: the task ends well and counts nothing."""
    actions.install_default_rules()
    RollupProgress.objects.update(counted_until=timezone.now() - HOUR)
    (alert,) = actions.evaluate_rules()
    assert alert.subjects == ["late rollups"]


@pytest.mark.parametrize("name", PANELS)
def test_every_panel_says_when_its_data_are_of(well: None, name: str) -> None:
    found = build_panel(name, Filters()).freshness
    assert found is not None
    assert found.as_of is not None
    assert (found.status, found.problems) == ("current", [])
    RollupProgress.objects.update(counted_until=timezone.now() - timedelta(minutes=14, seconds=18))
    found = build_panel(name, Filters()).freshness
    assert found is not None
    assert found.status == "late"
    assert "Traffic has not been counted since" in found.problems[-1]


@pytest.mark.parametrize("name", HEALTHY)
def test_all_is_well_only_while_everything_is(well: None, name: str) -> None:
    hour = start_of_hour(timezone.now()) - 3 * HOUR
    assert build_panel(name, Filters()).answer.startswith("Yes")
    ScheduledTask.objects.filter(pk=schedules.EVALUATE_RULES).update(succeeded_at=timezone.now() - HOUR)
    assert build_panel(name, Filters()).answer.startswith("Not ")
    schedules.record_success(schedules.EVALUATE_RULES)
    RollupProgress.objects.update(counted_until=timezone.now() - timedelta(minutes=14))
    assert build_panel(name, Filters()).answer.startswith("Not ")
    RollupProgress.objects.update(counted_until=timezone.now())
    IncompleteHour.objects.create(origin="database", hour=hour, error="ValueError", retry_at=timezone.now())
    assert build_panel(name, Filters()).answer.startswith("Not ")


def test_data_are_of_the_time_before_the_hours_that_failed(well: None) -> None:
    until = RollupProgress.objects.get().counted_until
    assert until is not None
    hour = start_of_hour(until)
    for number in (0, 1, 5):
        IncompleteHour.objects.create(
            origin="database", hour=hour - number * HOUR, error="ValueError", retry_at=until
        )
    found = freshness.of_rollups(now=until)
    assert found.as_of == hour - HOUR
    assert sum("could not be counted and will be retried: ValueError" in each for each in found.problems) == 3
    # A week's old rows that were left out are no news, but the panel that shows their hour names them.
    IncompleteHour.objects.all().delete()
    old = hour - timedelta(days=8)
    IncompleteHour.objects.create(origin="database", hour=old, skipped=2, error="no number", retry_at=until)
    assert not freshness.of_rollups(now=until).is_late
    shown = build_panel("traffic", Filters("30d")).freshness
    assert shown is not None
    assert shown.as_of == RollupProgress.objects.get().counted_until
    assert "2 rows could not be counted: no number" in shown.problems[0]


def test_the_site_that_counts_from_dynamodb_looks_at_that_progress(well: None, settings: Any) -> None:
    settings.ROLL_UP_FROM = "dynamodb"
    ScheduledTask.objects.update(created_at=timezone.now() - HOUR)
    assert freshness.of_rollups().is_late
    RollupProgress.objects.create(origin="dynamodb", counted_until=timezone.now())
    RollupProgress.objects.filter(pk="database").delete()
    assert not freshness.of_rollups().is_late


def test_a_new_site_is_not_late_before_its_first_count(well: None) -> None:
    RollupProgress.objects.all().delete()
    ScheduledTask.objects.update(created_at=timezone.now(), succeeded_at=None)
    found = build_panel("traffic", Filters()).freshness
    assert found is not None
    assert (found.as_of, found.status) == (None, "current")
    ScheduledTask.objects.update(created_at=timezone.now() - HOUR)
    assert freshness.of_rollups().problems == ["Traffic has not been counted yet."]


def test_metrics_name_the_schedules_that_fail(well: None) -> None:
    schedules.record_failure(schedules.EVALUATE_RULES, ValueError())
    text = exposition().decode()
    assert f'toxicmod_schedule_failing{{task="{schedules.EVALUATE_RULES}"}} 1.0' in text
    assert f'toxicmod_schedule_failing{{task="{schedules.ROLL_UP}"}} 0.0' in text
    assert "toxicmod_rollup_incomplete_hours 0.0" in text
