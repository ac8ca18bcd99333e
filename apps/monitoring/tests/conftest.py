"""Fixtures of monitoring's tests."""

from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from django.utils import timezone

from apps.monitoring import schedules
from apps.monitoring.models import AlertRule, HourlyRollup, RollupProgress, ScheduledTask
from apps.predictions.models import Prediction
from apps.registry.models import ModelVersion

NOW = datetime(2026, 11, 20, 12, 30, tzinfo=UTC)


@pytest.fixture
def up_to_date(db: None) -> None:
    """Let every scheduled task have just succeeded, and traffic be counted up to now."""
    for task in schedules.scheduled_tasks():
        ScheduledTask.objects.update_or_create(pk=task, defaults={"succeeded_at": timezone.now()})
    RollupProgress.objects.update_or_create(pk="database", defaults={"counted_until": timezone.now()})


@pytest.fixture
def healthy_site(up_to_date: None, champion: ModelVersion, monkeypatch: pytest.MonkeyPatch) -> None:
    """Create a site without problems, whose broker responds."""
    monkeypatch.setattr("apps.monitoring.live_metrics.broker_depths", lambda: {"default": 0})


@pytest.fixture
def rule() -> AlertRule:
    """Create a rule for an error rate above 1%."""
    return AlertRule.objects.create(
        name="Calls fail",
        metric=AlertRule.Metric.ERROR_RATE,
        threshold=0.01,
        emails="ann@example.org, ben@example.org",
        notification_interval_minutes=60,
    )


@pytest.fixture
def traffic(champion: ModelVersion) -> Callable[..., HourlyRollup]:
    """Return a function that creates or changes an hour's rollup."""

    def store(hour: datetime = NOW, **counts: object) -> HourlyRollup:
        start = hour.replace(minute=0, second=0, microsecond=0)
        return HourlyRollup.objects.update_or_create(
            hour=start, version=champion, source=Prediction.Source.API, overall=True, defaults=counts
        )[0]

    return store
