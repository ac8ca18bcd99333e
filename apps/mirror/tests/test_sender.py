"""The mirror equals the database, whatever errors DynamoDB and the network produce."""

import itertools
import logging
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.core.management import CommandError, call_command
from django.db import connection, transaction
from django.utils import timezone

from apps.accounts.models import User
from apps.core import aws as aws_clients
from apps.mirror import reader, sender, tasks
from apps.mirror.models import ChangeLogEntry, MirrorState, ReplicationLag
from apps.mirror.replicated import DECISIONS, FEEDBACK, PREDICTIONS, REPLICATED_MODELS
from apps.mirror.sender import backfill, flush
from apps.mirror.triggers import sync_triggers
from apps.mirror.verify import HourComparison, verify
from apps.moderation import actions
from apps.moderation.models import Decision, Policy, QueueItem
from apps.predictions.actions import give_feedback, score
from apps.predictions.models import Feedback, Prediction
from apps.registry.models import ModelVersion
from toxicmod.testing.factories import create_queue_item

pytestmark = [pytest.mark.django_db, pytest.mark.database, pytest.mark.slow]


@pytest.fixture
def table(db: None, aws: Any, settings: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Turn on an empty mirror and return its server. The test's transaction rolls back the triggers."""
    settings.DYNAMODB_TABLE = "mirror"
    monkeypatch.setattr(sender, "FIRST_WAIT", timedelta(0))
    call_command("mirror", "--create-table")
    sync_triggers()
    return aws


def store_predictions(*texts: str, **options: Any) -> list[Prediction]:
    return score(texts=texts, source=Prediction.Source.API, **options)[0]


def store_feedback_and_decision(ann: User) -> tuple[Feedback, Decision]:
    item = create_queue_item("insult=0.7 you fool")
    feedback = give_feedback(
        prediction=item.prediction, is_right=False, remark="not me", true_labels=["toxic"]
    )
    return feedback, approve(item, ann)


def approve(item: QueueItem, user: User) -> Decision:
    item = actions.claim(item_id=item.pk, user=user)
    return actions.decide(
        item_id=item.pk,
        version=item.version,
        user=user,
        action=Decision.Action.APPROVE,
        note="knows him",
    ).decision


def find_differences() -> list[HourComparison]:
    until = timezone.now()
    since = until - timedelta(hours=1)
    return [
        comparison
        for replicated in REPLICATED_MODELS
        for comparison in verify(replicated, since, until)
        if not comparison.is_equal
    ]


def scan_table() -> list[dict[str, Any]]:
    return aws_clients.client("dynamodb").scan(TableName="mirror")["Items"]


def test_flush_copies_each_record_once(table: Any, model: ModelVersion, policy: Policy, ann: User) -> None:
    feedback, decision = store_feedback_and_decision(ann)
    store_predictions("threat=0.000012345678901 a", "toxic=1 b", community="c", external_ids=["x", "y"])
    assert ChangeLogEntry.objects.replication_lag().count == ChangeLogEntry.objects.count() == 5
    assert find_differences()

    assert flush() == 5

    assert ChangeLogEntry.objects.replication_lag() == ReplicationLag(0, 0.0)
    assert not find_differences()
    assert len(scan_table()) == 5
    partition = [item for item in scan_table() if item["prediction"]["S"] == str(decision.submission_id)]
    assert {item["record"]["S"] for item in partition} == {
        "prediction",
        f"feedback#{feedback.pk}",
        f"decision#{decision.pk}",
    }
    span = (timezone.now() - timedelta(hours=1), timezone.now())
    rows = list(reader.read(*span))
    assert rows == list(Prediction.objects.order_by("created_at", "id").values())
    assert [type(value) for value in rows[0].values()] == [
        type(value) for value in Prediction.objects.order_by("created_at", "id").values()[0].values()
    ]
    assert list(reader.read(*span, replicated=FEEDBACK)) == list(Feedback.objects.values())
    assert list(reader.read(*span, replicated=DECISIONS)) == list(Decision.objects.values())


def test_backfill_twice_changes_nothing(table: Any, model: ModelVersion) -> None:
    store_predictions("a", "b")
    flush()
    before = scan_table()
    calls: list[str] = []
    table.fault = calls.append  # type: ignore[assignment]
    assert sum(backfill(PREDICTIONS)) == 2
    assert calls.count("PutItem") == 2
    assert scan_table() == before


def test_flush_leaves_out_text_that_must_not_be_stored(
    table: Any, model: ModelVersion, policy: Policy
) -> None:
    (secret,) = store_predictions("insult=0.9 unspeakable", do_not_store=True)
    give_feedback(prediction=secret, is_right=True, remark="he said unspeakable")
    flush()
    assert len(scan_table()) == 2
    assert "unspeakable" not in str(scan_table())
    assert not find_differences()
    assert next(reader.read(secret.created_at, timezone.now()))["insult"] == 0.9


def test_change_log_entry_is_rolled_back_with_record(table: Any, model: ModelVersion) -> None:
    with transaction.atomic():
        store_predictions("a")
        assert ChangeLogEntry.objects.count() == 1
        transaction.set_rollback(True)
    assert not ChangeLogEntry.objects.exists()


@pytest.mark.parametrize(
    "fault",
    ["ProvisionedThroughputExceededException", "ThrottlingException", "InternalServerError", "cut", "lost"],
)
def test_flush_with_failing_calls_copies_each_record_once(
    table: Any, model: ModelVersion, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sender, "BATCH_SIZE", 20)
    monkeypatch.setattr(aws_clients, "MAX_ATTEMPTS", 2)
    store_predictions(*(f"comment {number}" for number in range(50)))
    calls = itertools.count()
    table.fault = lambda operation: fault if operation == "PutItem" and next(calls) % 2 else None
    for _ in range(200):  # the order of the calls varies, and so does the number of rounds
        if not ChangeLogEntry.objects.exists():
            break
        flush()
    assert not ChangeLogEntry.objects.exists()
    assert next(calls) > 50
    table.fault = lambda operation: None
    assert not find_differences()
    assert len(scan_table()) == 50


def test_flush_backs_off_during_outage(
    table: Any, model: ModelVersion, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sender, "FIRST_WAIT", timedelta(seconds=100))
    monkeypatch.setattr(aws_clients, "MAX_ATTEMPTS", 1)
    store_predictions("a")
    table.fault = lambda operation: "cut"
    pauses = []
    for failures in (1, 2, 3):
        assert flush() == 0
        state = MirrorState.objects.get()
        assert (state.failures, state.lease_owner) == (failures, None)
        assert state.error == "ConnectionClosedError"
        assert state.retry_at
        pauses.append((state.retry_at - timezone.now()).total_seconds())
        table.fault = None  # nothing is called while the pause lasts
        assert flush() == 0
        table.fault = lambda operation: "cut"
        MirrorState.objects.update(retry_at=timezone.now())
    assert pauses[0] < 100 < pauses[2] < 301
    assert "comment" not in caplog.text
    table.fault = lambda operation: None
    assert flush() == 1
    assert MirrorState.objects.get().failures == 0
    assert not find_differences()


def test_flush_needs_lease(table: Any, model: ModelVersion) -> None:
    store_predictions("a")
    MirrorState.objects.create(lease_owner=uuid4(), lease_expires_at=timezone.now() + timedelta(seconds=30))
    assert flush() == 0
    MirrorState.objects.update(lease_expires_at=timezone.now())
    assert flush() == 1


def test_flush_with_rejected_record_copies_others(
    table: Any, model: ModelVersion, caplog: pytest.LogCaptureFixture
) -> None:
    store_predictions("a", "b", "c")
    errors = iter(["ValidationException"])
    table.fault = lambda operation: next(errors, None) if operation == "PutItem" else None
    assert flush() == 2
    assert "rejected the record of change log entry" in caplog.text
    assert flush() == 1
    table.fault = lambda operation: "ValidationException" if operation == "PutItem" else None
    store_predictions("d")
    flush()
    assert MirrorState.objects.get().error == "ValidationException"


def test_sync_triggers_follows_setting_and_logs_lag(
    aws: Any, settings: Any, model: ModelVersion, caplog: pytest.LogCaptureFixture
) -> None:
    aws.fault = None  # any call would fail
    tasks.sync_triggers()
    store_predictions("a")
    tasks.flush()
    assert not ChangeLogEntry.objects.exists()
    settings.DYNAMODB_TABLE = "mirror"
    tasks.sync_triggers()
    store_predictions("b")
    ChangeLogEntry.objects.update(created_at=timezone.now() - timedelta(seconds=90))
    caplog.clear()
    with caplog.at_level(logging.INFO):
        tasks.sync_triggers()
    (record,) = (record for record in caplog.records if hasattr(record, "mirror_waiting"))
    assert record.mirror_waiting == 1
    assert 90 <= record.mirror_lag_seconds < 1_000
    settings.DYNAMODB_TABLE = ""
    connection.check_constraints()  # PostgreSQL drops no trigger while a deferred constraint is unchecked
    tasks.sync_triggers()
    store_predictions("c")
    assert ChangeLogEntry.objects.count() == 1


def test_read_returns_records_of_time_range(table: Any, model: ModelVersion, champion: ModelVersion) -> None:
    noon = (timezone.now() - timedelta(days=100)).replace(hour=12)
    template = store_predictions("a")[0].__dict__
    columns = [field.attname for field in Prediction._meta.concrete_fields if field.name != "id"]
    moments = [noon + timedelta(hours=6 * number) for number in range(20)]
    Prediction.objects.bulk_create(
        Prediction(**{name: template[name] for name in columns} | {"created_at": moment})
        for moment in moments
    )
    flush()
    read = [row["created_at"] for row in reader.read(moments[3], moments[15])]
    assert read == moments[3:15]


def test_mirror_command(
    aws: Any,
    settings: Any,
    model: ModelVersion,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(CommandError, match="The mirror is off: set DYNAMODB_TABLE"):
        call_command("mirror", "--verify")
    settings.DYNAMODB_TABLE = "mirror"
    old, new = store_predictions("a", "b")
    with pytest.raises(CommandError, match="ResourceNotFoundException"):
        call_command("mirror", "--verify")
    call_command("mirror", "--create-table")
    with pytest.raises(CommandError, match="differ"):
        call_command("mirror", "--verify")
    assert "database 2, mirror 0" in capsys.readouterr().out
    call_command("mirror", "--backfill", f"--since={new.created_at.isoformat()}")
    call_command("mirror", "--backfill", "--since=2000-01-01")
    assert "Copied 2 prediction records" in capsys.readouterr().out
    call_command("mirror", "--verify")
    assert "Both sides are equal: 2 records" in capsys.readouterr().out
    store_predictions("c")
    call_command("mirror")
    assert "1 records are pending" in capsys.readouterr().out
    changed = {"prediction": {"S": str(old.pk)}, "record": {"S": "prediction"}}
    aws_clients.client("dynamodb").update_item(
        TableName="mirror",
        Key=changed,
        UpdateExpression="SET toxic = :other",
        ExpressionAttributeValues={":other": {"N": "0.123"}},
    )
    flush()
    with pytest.raises(CommandError, match=r"1 of [12] hours differ"):
        call_command("mirror", "--verify")
    with pytest.raises(CommandError, match="YYYY-MM-DD"):
        call_command("mirror", "--backfill", "--since=yesterday")
    monkeypatch.setattr(sender, "BACKFILL_ATTEMPTS", 1)
    monkeypatch.setattr(aws_clients, "MAX_ATTEMPTS", 1)
    aws.fault = lambda operation: "cut"
    with pytest.raises(CommandError, match="continue with --since"):
        call_command("mirror", "--backfill")
