"""The commands, and the roles that one of them makes."""

import gzip
from pathlib import Path
from types import SimpleNamespace

import pytest
from django.contrib.auth.models import Group
from django.core.management import CommandError, call_command
from django.db import connection

from apps.accounts.models import User
from apps.moderation import actions, scale
from apps.moderation.actions.examples import seed_examples
from apps.moderation.errors import ModerationError
from apps.moderation.models import Author, Decision, Policy, QueueItem, Submission
from apps.predictions.models import Prediction
from apps.registry.models import ModelVersion
from toxicmod.testing.factories import create_queue_item, decide_item

pytestmark = [pytest.mark.django_db, pytest.mark.database]


def test_roles_can_be_created_again_and_keep_what_was_added() -> None:
    call_command("create_roles")
    lead = Group.objects.get(name="lead")
    before = lead.permissions.count()
    lead.permissions.add(*Group.objects.get(name="administrator").permissions.all()[:1])
    call_command("create_roles")
    assert Group.objects.count() == 5
    assert lead.permissions.count() == before + 1


@pytest.mark.parametrize(
    ("role", "may", "may_not"),
    [
        ("viewer", "view_queueitem", "decide_queueitem"),
        ("moderator", "decide_queueitem", "bulk_decide"),
        ("lead", "manage_policy", "delete_decision"),
        ("engineer", "view_queueitem", "decide_queueitem"),
    ],
)
def test_what_a_role_may(person: object, role: str, may: str, may_not: str) -> None:
    user: User = person("somebody", role)  # type: ignore[operator]
    assert user.has_perm(f"moderation.{may}")
    assert not user.has_perm(f"moderation.{may_not}")


def test_the_default_policy_is_installed_once(capsys: pytest.CaptureFixture[str]) -> None:
    Policy.objects.all().delete()
    call_command("install_default_policy")
    call_command("install_default_policy")
    assert Policy.objects.count() == 1
    assert "nothing was changed" in capsys.readouterr().out


def test_examples_come_once_and_go_without_a_trace(
    model: ModelVersion, policy: Policy, ann: User, lea: User, capsys: pytest.CaptureFixture[str]
) -> None:
    real = create_queue_item("insult=0.7 a real one", author_ref="somebody")
    Policy.objects.update(second_review_share=1)
    call_command("seed_demo_queue")
    call_command("seed_demo_queue")
    assert Submission.objects.filter(is_example=True).count() == 100
    example = QueueItem.objects.filter(kind="example").first()
    assert example is not None
    result = decide_item(example, ann)
    actions.undo(decision_id=result.decision.pk, user=lea)
    call_command("remove_examples")
    assert "Removed 100" in capsys.readouterr().out
    assert list(QueueItem.objects.all()) == [real]
    assert (Submission.objects.count(), Prediction.objects.count(), Author.objects.count()) == (1, 1, 1)
    assert not Decision.objects.exists()
    call_command("seed_demo_queue")
    assert Submission.objects.filter(is_example=True).count() == 100


def test_a_policy_is_needed_for_examples(model: ModelVersion) -> None:
    Policy.objects.all().delete()
    with pytest.raises(CommandError, match="install_default_policy"):
        call_command("seed_demo_queue")


def test_seeding_and_the_bench(
    model: ModelVersion, policy: Policy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "comments.csv.gz"
    with gzip.open(path, "wt") as file:
        file.write(
            "id,comment_text\n" + "".join(f"{n},insult={n / 50} threat={n / 100}\n" for n in range(50))
        )
    if connection.vendor != "postgresql":
        with pytest.raises(CommandError, match="PostgreSQL"):
            call_command("seed_scale", str(path), predictions=200, items=50)
        return
    scale.seed(path=path, predictions=200, items=50)
    assert (Prediction.objects.count(), QueueItem.objects.count(), Submission.objects.count()) == (
        200,
        50,
        100,
    )
    call_command("bench_moderation", runs=2)
    printed = capsys.readouterr().out
    assert "200 predictions, 50 queue items" in printed
    assert "| decide | 2 |" in printed
    assert QueueItem.objects.filter(status="open").exists()


def test_what_a_bench_needs(db: None) -> None:
    with pytest.raises(CommandError, match="seed_scale"):
        call_command("bench_moderation", runs=1)


def test_comments_are_read_from_a_csv(tmp_path: Path) -> None:
    path = tmp_path / "comments.csv"
    path.write_text('comment_text\n"one\ntwo"\nthree\n')
    assert scale.read_comments(path, 1) == ["one\ntwo"]
    path.write_text("text\na\n")
    with pytest.raises(ModerationError, match="comment_text"):
        scale.read_comments(path, 1)
    path.write_text("comment_text\n")
    with pytest.raises(ModerationError, match="no comments"):
        scale.read_comments(path, 1)


def test_the_compiler_is_not_timed_as_scoring(model: ModelVersion, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []

    def moderate(**kwargs: object) -> SimpleNamespace:
        done.append("scored")
        return SimpleNamespace(is_repeat=True)

    monkeypatch.setattr("apps.moderation.actions.examples.warm", lambda scorer: done.append("warm"))
    monkeypatch.setattr("apps.moderation.actions.examples.moderate", moderate)
    seed_examples()
    assert done[0] == "warm"
    assert done.count("warm") == 1
