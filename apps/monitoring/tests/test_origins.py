from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from apps.mirror import reader
from apps.mirror.sender import flush
from apps.mirror.triggers import sync_triggers
from apps.monitoring import actions
from apps.monitoring.models import HourlyRollup, IncompleteHour, RollupProgress
from apps.monitoring.rollups import hours, origins
from apps.predictions.actions import give_feedback
from apps.predictions.models import Prediction
from apps.registry.models import ModelVersion
from toxicmod.testing.factories import create_prediction, rollup_rows

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("start_of_hour")]
HOUR = timedelta(hours=1)


@pytest.fixture
def table(db: None, aws: Any, settings: Any) -> Any:
    """Create an empty mirror that keeps records for three days."""
    settings.DYNAMODB_TABLE = "mirror"
    settings.DYNAMODB_TTL_DAYS = 3
    call_command("mirror", "--create-table")
    sync_triggers()
    return aws


@pytest.fixture
def hour() -> datetime:
    """Return the hour before the last full one."""
    return hours.start_of_hour(timezone.now()) - 2 * HOUR


def _traffic(version: ModelVersion, hour: datetime) -> list[Prediction]:
    predictions = [
        create_prediction(
            version,
            hour + timedelta(minutes=number, microseconds=number),
            toxic=number / 100,
            label_mask=int(number > 50),
            community=f"c{number % 3}",
            source=("api", "page")[number % 2],
            text=None if number % 7 == 0 else "kind women said so " + "word " * number,
            latency_us=number * 37 + 5,
        )
        for number in range(100)
    ]
    give_feedback(prediction=predictions[3], is_right=True)
    give_feedback(prediction=predictions[4], is_right=False, true_labels=["insult"], known_labels=["insult"])
    return predictions


def _recount(count: Callable[[], object]) -> list[str]:
    HourlyRollup.objects.all().delete()
    RollupProgress.objects.all().delete()
    count()
    return _rows()


def _rows() -> list[str]:
    return sorted(str({**row, "id": 0}) for row in rollup_rows())


@pytest.mark.database
def test_roll_up_from_database_and_mirror_is_equal(
    table: Any, champion: ModelVersion, hour: datetime, capsys: pytest.CaptureFixture[str]
) -> None:
    _traffic(champion, hour)
    while flush():
        pass
    since = hour.isoformat()
    from_database = _recount(lambda: call_command("roll_up", "--since", since))
    from_mirror = _recount(lambda: call_command("roll_up", "--from", "dynamodb", "--since", since))
    assert RollupProgress.objects.get().origin == "dynamodb"
    assert from_mirror == from_database
    overall = HourlyRollup.objects.overall()
    assert sum(row.requests for row in overall) == 100
    assert sum(row.sampled for row in overall) == 85
    assert sum(row.feedback_right for row in overall) == sum(row.feedback_wrong for row in overall) == 1


@pytest.mark.slow
def test_roll_up_counts_late_records_of_mirror(
    table: Any, champion: ModelVersion, hour: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hours, "RECOUNT_BACK", timedelta(hours=4))
    rows = HourlyRollup.objects.overall()

    def store_and_roll_up(at: datetime) -> None:
        create_prediction(champion, at)
        flush()
        actions.roll_up(origin=origins.Mirror())

    create_prediction(champion, hour - 2 * HOUR)
    flush()
    actions.roll_up(origin=origins.Mirror(), since=hour - 2 * HOUR)
    RollupProgress.objects.update(recounted_at=timezone.now())
    store_and_roll_up(hour)
    assert rows.get(hour=hour).requests == 1
    store_and_roll_up(hour - 2 * HOUR)
    assert rows.get(hour=hour - 2 * HOUR).requests == 1
    RollupProgress.objects.update(recounted_at=None)
    actions.roll_up(origin=origins.Mirror())
    assert rows.get(hour=hour - 2 * HOUR).requests == 2


def test_roll_up_keeps_hours_that_expired_in_mirror(
    table: Any, champion: ModelVersion, hour: datetime
) -> None:
    old = hour - timedelta(days=4)
    create_prediction(champion, old)
    actions.roll_up(origin=origins.Database(), since=old)
    IncompleteHour.objects.create(origin="dynamodb", hour=old, error="ValueError", retry_at=old)
    for since in (old, None):
        actions.roll_up(origin=origins.Mirror(), since=since)
        assert HourlyRollup.objects.overall().get(hour=old).requests == 1
        assert not IncompleteHour.objects.exists()


def test_roll_up_reports_unknown_version(
    table: Any, champion: ModelVersion, hour: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    create_prediction(champion, hour)
    flush()
    read = reader.read

    def of_another_site(*args: Any, **options: Any) -> Any:
        return ({**row, "model_version_id": 999} for row in read(*args, **options))

    monkeypatch.setattr(reader, "read", of_another_site)
    with pytest.raises(CommandError, match="dumpdata registry"):
        call_command("roll_up", "--from", "dynamodb", "--since", hour.isoformat())
    assert not HourlyRollup.objects.exists()
    assert RollupProgress.objects.get().lease_owner is None


def test_roll_up_reports_unavailable_mirror(table: Any, champion: ModelVersion) -> None:
    table.fault = lambda operation: "ResourceNotFoundException"
    with pytest.raises(CommandError, match="DynamoDB reported"):
        call_command("roll_up", "--from", "dynamodb")
