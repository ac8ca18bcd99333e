from datetime import timedelta

import pytest
from django.conf import settings
from django.utils import timezone

from apps.monitoring import actions, schedules, tasks
from apps.monitoring.exceptions import IncompleteRollupError
from apps.monitoring.models import Alert, Notification, ScheduledTask
from apps.monitoring.prometheus import exposition
from apps.registry import tracking
from apps.registry.exceptions import TrackingError
from apps.registry.tasks import sync_tracking

pytestmark = [pytest.mark.django_db, pytest.mark.database]
HOUR = timedelta(hours=1)


def failing_schedules() -> list[str]:
    return [state.name for state in schedules.problems()]


@pytest.mark.parametrize("name", settings.CELERY_BEAT_SCHEDULE)
def test_problems_reports_overdue_and_failing_schedule(healthy_site: None, name: str) -> None:
    task = settings.CELERY_BEAT_SCHEDULE[name]["task"]
    allowed = schedules.allowed_age(task)
    ScheduledTask.objects.filter(pk=task).update(succeeded_at=timezone.now() - allowed + timedelta(minutes=1))
    assert failing_schedules() == []
    ScheduledTask.objects.filter(pk=task).update(succeeded_at=timezone.now() - allowed - timedelta(minutes=1))
    assert failing_schedules() == [name]
    assert "overdue" in next(schedules.problems()).problem
    schedules.record_success(task)
    assert failing_schedules() == []
    schedules.record_failure(task, ValueError("a comment"))
    assert failing_schedules() == [name]
    assert "a comment" not in next(schedules.problems()).problem
    schedules.record_success(task)
    assert failing_schedules() == []


def test_create_rows_expects_every_schedule() -> None:
    assert schedules.scheduled_tasks() <= set(ScheduledTask.objects.values_list("pk", flat=True))


def test_problems_reports_schedule_that_never_ran(healthy_site: None) -> None:
    row = ScheduledTask.objects.filter(pk=schedules.EVALUATE_RULES)
    row.update(succeeded_at=None, created_at=timezone.now())
    assert failing_schedules() == []
    row.update(created_at=timezone.now() - HOUR)
    assert failing_schedules() == ["evaluate-alert-rules"]
    row.delete()
    assert failing_schedules() == ["evaluate-alert-rules"]


def test_signals_record_failure_and_recovery(healthy_site: None, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_signals_record_expected_exception_as_failure(
    healthy_site: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise TrackingError("MLflow does not answer.")

    monkeypatch.setattr(tracking, "sync", fail)
    sync_tracking.apply()
    assert "MLflow does not answer." in next(schedules.problems()).problem


def test_evaluate_rules_names_failing_schedules(healthy_site: None) -> None:
    actions.install_default_rules()
    assert actions.evaluate_rules() == []
    schedules.record_failure(schedules.ROLL_UP, ValueError())
    (first,) = actions.evaluate_rules()
    assert first.summary == "Scheduled tasks and rollups that fail or are overdue: roll-up."
    assert actions.evaluate_rules() == []
    # The second failure opens a new alert, because the first alert may be acknowledged.
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
    assert not Notification.objects.exists()  # the default rules have no recipients


def test_metrics_name_failing_schedules(healthy_site: None) -> None:
    schedules.record_failure(schedules.EVALUATE_RULES, ValueError())
    text = exposition().decode()
    assert f'toxicmod_schedule_failing{{task="{schedules.EVALUATE_RULES}"}} 1.0' in text
    assert f'toxicmod_schedule_failing{{task="{schedules.ROLL_UP}"}} 0.0' in text
    assert "toxicmod_rollup_incomplete_hours 0.0" in text
