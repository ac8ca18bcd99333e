"""Decisions as CSV and as statements of reasons."""

import csv
import io
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from apps.accounts.models import APIKey, User
from apps.moderation import actions, exports
from apps.moderation.exceptions import ModerationError
from apps.moderation.models import Decision, Policy, PolicyRule, QueueItem
from apps.registry.models import ModelVersion
from toxicmod.testing.factories import create_queue_item, decide_item

pytestmark = [pytest.mark.django_db, pytest.mark.database]


def test_decisions_csv(model: ModelVersion, policy: Policy, ann: User) -> None:
    item = create_queue_item(
        "insult=0.7", author_ref="=HYPERLINK(1)", community="news", external_id="comment-9"
    )
    decision = decide_item(item, ann, labels=["insult", "toxic"], note="=cmd()", seconds=12.34).decision
    (row,) = csv.DictReader(io.StringIO("".join(exports.decisions_csv(Decision.objects.all()))))
    assert list(row.items()) == [
        ("decision", str(decision.pk)),
        ("decided_at", decision.created_at.isoformat()),
        ("action", "reject"),
        ("reverses", ""),
        ("automatic", "False"),
        ("by", "ann"),
        ("community", "news"),
        ("author", "'=HYPERLINK(1)"),
        ("external_id", "comment-9"),
        ("prediction", str(item.submission_id)),
        ("queue_item", str(item.pk)),
        ("labels", "toxic insult"),
        ("reason", decision.reason),
        ("note", "'=cmd()"),
        ("seconds", "12.3"),
        ("model_version", str(model.number)),
        ("policy", str(policy)),
    ]
    assert decision.reason


def test_statement_of_reasons(
    item: QueueItem, ann: User, model: ModelVersion, policy: Policy, platform_key: APIKey
) -> None:
    statement = exports.statement_of_reasons(decide_item(item, ann).decision)
    assert statement["decision_ground"] == "DECISION_GROUND_INCOMPATIBLE_CONTENT"
    assert statement["automated_detection"] == "Yes"
    assert statement["automated_decision"] == "AUTOMATED_DECISION_NOT_AUTOMATED"
    assert statement["content_type"] == ["CONTENT_TYPE_TEXT"]
    assert len(statement["territorial_scope"]) == 30
    automatic = actions.moderate(text="threat=0.99").submission.decisions.get()
    assert exports.statement_of_reasons(automatic)["automated_decision"] == "AUTOMATED_DECISION_FULLY"
    approval = actions.moderate(text="fine").submission.decisions.get()
    with pytest.raises(ModerationError, match="rejection"):
        exports.statement_of_reasons(approval)


@pytest.mark.parametrize(("score", "words"), [(0.996, "over 99%"), (1.0, "over 99%"), (0.98, "98%")])
def test_statement_of_reasons_shows_probability_as_percentage(
    model: ModelVersion, policy: Policy, score: float, words: str
) -> None:
    PolicyRule.objects.filter(label="toxic").update(reject_from=0.9)
    decision = actions.moderate(text=f"toxic={score}").submission.decisions.get()
    facts = exports.statement_of_reasons(decision)["decision_facts"]
    assert facts.endswith(f"Estimated probability of “toxic”: {words}.")


def test_export_decisions_writes_to_file_or_s3(
    item: QueueItem, ann: User, bucket_of: Any, settings: Any, tmp_path: Path
) -> None:
    decide_item(item, ann)
    with pytest.raises(CommandError, match="set S3_BUCKET"):
        call_command("export_decisions")
    with pytest.raises(CommandError, match="can't be written"):
        call_command("export_decisions", output=str(tmp_path / "none" / "x.csv"))
    call_command("export_decisions", output=str(tmp_path / "x.csv"))
    content = (tmp_path / "x.csv").read_bytes()
    assert content.count(b"\r\n") == 2
    client = bucket_of("shared")
    settings.S3_BUCKET = "shared"
    call_command("export_decisions", automatic=True)
    (stored,) = client.list_objects_v2(Bucket="shared")["Contents"]
    assert stored["Key"].startswith("exports/decisions-")
    assert client.get_object(Bucket="shared", Key=stored["Key"])["Body"].read() == content
    with pytest.raises(CommandError, match="no such bucket"):
        call_command("export_decisions", output="s3://none/x.csv")
