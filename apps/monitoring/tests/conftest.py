"""People and a policy, as moderation's tests have them."""

import pytest
from django.utils import timezone

from apps.monitoring import schedules
from apps.monitoring.models import RollupProgress, ScheduledTask


@pytest.fixture
def on_time(db: None) -> None:
    """Every scheduled task has just succeeded, and traffic is counted up to this moment."""
    for task in schedules.scheduled_tasks():
        ScheduledTask.objects.update_or_create(pk=task, defaults={"succeeded_at": timezone.now()})
    RollupProgress.objects.update_or_create(pk="database", defaults={"counted_until": timezone.now()})
