from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from apps.monitoring import actions, freshness, schedules
from apps.monitoring.dashboard import PANELS, Filters, build_panel
from apps.monitoring.models import IncompleteHour, RollupProgress, ScheduledTask
from apps.monitoring.rollups.hours import start_of_hour

pytestmark = [pytest.mark.django_db, pytest.mark.database]
HOUR = timedelta(hours=1)
HEALTHY = ("health", "system")


def test_evaluate_rules_reports_late_rollups_despite_task_success(healthy_site: None) -> None:
    """The task succeeds without counting while another process holds the lease."""
    actions.install_default_rules()
    RollupProgress.objects.update(counted_until=timezone.now() - HOUR)
    (alert,) = actions.evaluate_rules()
    assert alert.subjects == ["late rollups"]


@pytest.mark.parametrize("name", PANELS)
def test_build_panel_shows_freshness(healthy_site: None, name: str) -> None:
    result = build_panel(name, Filters()).freshness
    assert result is not None
    assert result.as_of is not None
    assert (result.status, result.problems) == ("current", [])
    RollupProgress.objects.update(counted_until=timezone.now() - timedelta(minutes=14, seconds=18))
    result = build_panel(name, Filters()).freshness
    assert result is not None
    assert result.status == "late"
    assert "Traffic has not been counted since" in result.problems[-1]


@pytest.mark.parametrize("name", HEALTHY)
def test_health_and_system_panels_report_background_problems(healthy_site: None, name: str) -> None:
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


def test_of_rollups_ends_before_incomplete_hours(healthy_site: None) -> None:
    until = RollupProgress.objects.get().counted_until
    assert until is not None
    hour = start_of_hour(until)
    for number in (0, 1, 5):
        IncompleteHour.objects.create(
            origin="database", hour=hour - number * HOUR, error="ValueError", retry_at=until
        )
    result = freshness.of_rollups(now=until)
    assert result.as_of == hour - HOUR
    assert (
        sum("could not be counted and will be retried: ValueError" in problem for problem in result.problems)
        == 3
    )
    # Incomplete hours older than a week are only listed by panels that show them.
    IncompleteHour.objects.all().delete()
    old = hour - timedelta(days=8)
    IncompleteHour.objects.create(origin="database", hour=old, skipped=2, error="no number", retry_at=until)
    assert not freshness.of_rollups(now=until).is_late
    result = build_panel("traffic", Filters("30d")).freshness
    assert result is not None
    assert result.as_of == RollupProgress.objects.get().counted_until
    assert "2 rows could not be counted: no number" in result.problems[0]


def test_of_rollups_reads_progress_of_configured_origin(healthy_site: None, settings: Any) -> None:
    settings.ROLL_UP_FROM = "dynamodb"
    ScheduledTask.objects.update(created_at=timezone.now() - HOUR)
    assert freshness.of_rollups().is_late
    RollupProgress.objects.create(origin="dynamodb", counted_until=timezone.now())
    RollupProgress.objects.filter(pk="database").delete()
    assert not freshness.of_rollups().is_late


def test_of_rollups_is_current_before_first_count(healthy_site: None) -> None:
    RollupProgress.objects.all().delete()
    ScheduledTask.objects.update(created_at=timezone.now(), succeeded_at=None)
    result = build_panel("traffic", Filters()).freshness
    assert result is not None
    assert (result.as_of, result.status) == (None, "current")
    ScheduledTask.objects.update(created_at=timezone.now() - HOUR)
    assert freshness.of_rollups().problems == ["Traffic has not been counted yet."]
