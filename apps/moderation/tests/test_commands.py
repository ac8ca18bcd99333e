"""The management commands, and the permissions of the roles."""

from types import SimpleNamespace

import pytest
from django.contrib.auth.models import Group
from django.core.management import CommandError, call_command

from apps.accounts.models import User
from apps.moderation import actions
from apps.moderation.actions.examples import seed_examples
from apps.moderation.models import Author, Decision, Policy, QueueItem, Submission
from apps.predictions.models import Prediction
from apps.registry.models import ModelVersion
from toxicmod.testing.factories import create_queue_item, decide_item

pytestmark = [pytest.mark.django_db, pytest.mark.database]


def test_create_roles_again_keeps_added_permissions() -> None:
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
def test_permissions_of_role(person: object, role: str, may: str, may_not: str) -> None:
    user: User = person("somebody", role)  # type: ignore[operator]
    assert user.has_perm(f"moderation.{may}")
    assert not user.has_perm(f"moderation.{may_not}")


def test_install_default_policy_twice(capsys: pytest.CaptureFixture[str]) -> None:
    Policy.objects.all().delete()
    call_command("install_default_policy")
    call_command("install_default_policy")
    assert Policy.objects.count() == 1
    assert "nothing was changed" in capsys.readouterr().out


def test_seed_demo_queue_twice_and_remove_examples(
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


def test_seed_demo_queue_without_policy(model: ModelVersion) -> None:
    Policy.objects.all().delete()
    with pytest.raises(CommandError, match="install_default_policy"):
        call_command("seed_demo_queue")


def test_seed_examples_compiles_before_scoring(model: ModelVersion, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def moderate(**kwargs: object) -> SimpleNamespace:
        calls.append("moderate")
        return SimpleNamespace(is_repeat=True)

    monkeypatch.setattr("apps.moderation.actions.examples.warm", lambda scorer: calls.append("warm"))
    monkeypatch.setattr("apps.moderation.actions.examples.moderate", moderate)
    seed_examples()
    assert calls[0] == "warm"
    assert calls.count("warm") == 1
