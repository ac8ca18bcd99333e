"""Many items decided alike."""

from collections.abc import Callable

import pytest
from django.core.exceptions import PermissionDenied

from apps.accounts.models import User
from apps.moderation import actions
from apps.moderation.actions import bulk
from apps.moderation.errors import ModerationError
from apps.moderation.models import BulkJob, Decision, Policy, QueueItem
from apps.moderation.tests.conftest import queued
from apps.registry.models import ModelVersion

pytestmark = [pytest.mark.django_db, pytest.mark.database]


@pytest.fixture
def items(model: ModelVersion, policy: Policy) -> list[QueueItem]:
    """Sixty insults, of which ten are surer than the others, and a threat."""
    queued("threat=0.5 watch out")
    return [queued(f"insult={0.9 if number < 10 else 0.7} number {number}") for number in range(60)]


def test_a_job_decides_what_its_filter_chose(
    items: list[QueueItem], policy: Policy, lea: User, ann: User
) -> None:
    rule = policy.rules.get(label="insult")
    job, sample = actions.preview_bulk(
        user=lea,
        filter={"label": "insult", "score_to": 0.8},
        action=Decision.Action.REJECT,
        rule=rule,
        note="wave",
    )
    assert (job.count, len(sample), job.status) == (50, 20, "draft")
    queued("insult=0.75 it came after the preview")
    actions.claim(item_id=items[20].pk, user=ann)
    with pytest.raises(ModerationError, match="typed 49"):
        actions.start_bulk(job_id=job.pk, user=lea, typed_count=49)
    actions.start_bulk(job_id=job.pk, user=lea, typed_count=50)
    actions.run_bulk(job_id=job.pk)
    job.refresh_from_db()
    assert (job.status, job.done, job.skipped, job.progress) == ("done", 49, 1, 1.0)
    decisions = Decision.objects.filter(job=job)
    assert decisions.count() == 49
    assert {decision.by for decision in decisions} == {lea}
    assert QueueItem.objects.open().count() == 13
    actions.run_bulk(job_id=job.pk)
    assert Decision.objects.filter(job=job).count() == 49
    assert actions.undo(decision_id=decisions[0].pk, user=lea).item.status == "open"


def test_a_cancelled_job_stops(items: list[QueueItem], lea: User) -> None:
    job, _ = actions.preview_bulk(user=lea, filter={"label": "insult"}, action=Decision.Action.APPROVE)
    actions.start_bulk(job_id=job.pk, user=lea, typed_count=60)
    assert bulk._run_batch(job.pk)
    actions.cancel_bulk(job_id=job.pk, user=lea)
    actions.run_bulk(job_id=job.pk)
    job.refresh_from_db()
    assert (job.status, job.done, job.cancelled_by) == ("cancelled", 50, lea)


def test_a_rule_is_found_in_each_items_own_policy(items: list[QueueItem], policy: Policy, lea: User) -> None:
    rule = policy.rules.get(label="insult")
    draft = actions.draft_policy(user=lea, based_on=policy)
    actions.activate_policy(policy=draft, user=lea, reason="test")
    later = queued("insult=0.7 later")
    job, _ = actions.preview_bulk(
        user=lea, filter={"label": "insult"}, action=Decision.Action.REJECT, rule=rule
    )
    actions.start_bulk(job_id=job.pk, user=lea, typed_count=61)
    actions.run_bulk(job_id=job.pk)
    decision = later.decisions.get()
    assert decision.rule is not None
    assert (decision.policy, decision.rule.policy, decision.rule.label) == (draft, draft, "insult")


def test_what_a_preview_refuses(items: list[QueueItem], lea: User, ann: User) -> None:
    with pytest.raises(PermissionDenied):
        actions.preview_bulk(user=ann, filter={}, action=Decision.Action.APPROVE)
    with pytest.raises(ModerationError, match="reason"):
        actions.preview_bulk(user=lea, filter={}, action=Decision.Action.REJECT)
    with pytest.raises(ModerationError, match="bulk"):
        actions.preview_bulk(user=lea, filter={}, action=Decision.Action.ESCALATE)
    with pytest.raises(ModerationError, match="colour"):
        actions.preview_bulk(user=lea, filter={"colour": "red"}, action=Decision.Action.APPROVE)  # type: ignore[typeddict-unknown-key]


def test_nobody_starts_anothers_job(items: list[QueueItem], lea: User, person: Callable[..., User]) -> None:
    job, _ = actions.preview_bulk(user=lea, filter={}, action=Decision.Action.APPROVE)
    with pytest.raises(ModerationError, match="no such job"):
        actions.start_bulk(job_id=job.pk, user=person("leo", "lead"), typed_count=job.count)


def test_the_schedule_goes_on_with_a_lost_job(
    items: list[QueueItem],
    lea: User,
    monkeypatch: pytest.MonkeyPatch,
    django_capture_on_commit_callbacks: Callable,
) -> None:
    sent: list[tuple] = []
    monkeypatch.setattr("apps.core.enqueue._add", lambda *message: sent.append(message))
    job, _ = actions.preview_bulk(user=lea, filter={}, action=Decision.Action.APPROVE)
    with django_capture_on_commit_callbacks(execute=True):
        actions.start_bulk(job_id=job.pk, user=lea, typed_count=job.count)
        actions.resume_bulk_jobs()
    assert [message[:2] for message in sent] == [("apps.moderation.tasks.run_bulk", (job.pk,))] * 2
    assert BulkJob.objects.get().status == "queued"
