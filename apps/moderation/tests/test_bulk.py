"""Bulk jobs: one decision for all items of a filter."""

from collections.abc import Callable

import pytest
from django.core.cache import cache
from django.core.exceptions import PermissionDenied
from django.test import Client
from django.urls import reverse

from apps.accounts.models import User
from apps.moderation import actions, webhooks
from apps.moderation.actions import bulk
from apps.moderation.exceptions import ModerationError
from apps.moderation.models import BulkJob, Decision, Policy, QueueItem
from apps.registry.models import ModelVersion
from toxicmod.testing.factories import create_queue_item, decide_item

pytestmark = [pytest.mark.django_db, pytest.mark.database]


@pytest.fixture
def items(model: ModelVersion, policy: Policy) -> list[QueueItem]:
    """Sixty insults, ten of them with a higher score, and a threat."""
    create_queue_item("threat=0.5 watch out")
    return [
        create_queue_item(f"insult={0.9 if number < 10 else 0.7} number {number}") for number in range(60)
    ]


def test_run_bulk_decides_items_of_filter(
    items: list[QueueItem], policy: Policy, lea: User, ann: User
) -> None:
    rule = policy.rules.get(label="insult")
    job, sample = actions.preview_bulk(
        user=lea,
        filter={"label": "insult", "score_to": 0.8},
        action=Decision.Action.REJECT,
        rule=rule,
        note="spam campaign",
    )
    assert (job.count, len(sample), job.status) == (50, 20, "draft")
    create_queue_item("insult=0.75 arrived after the preview")
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


def test_cancel_bulk_stops_job(items: list[QueueItem], lea: User) -> None:
    job, _ = actions.preview_bulk(user=lea, filter={"label": "insult"}, action=Decision.Action.APPROVE)
    actions.start_bulk(job_id=job.pk, user=lea, typed_count=60)
    assert bulk._run_batch(job.pk)
    actions.cancel_bulk(job_id=job.pk, user=lea)
    actions.run_bulk(job_id=job.pk)
    job.refresh_from_db()
    assert (job.status, job.done, job.cancelled_by) == ("cancelled", 50, lea)


def test_run_bulk_uses_rule_of_policy_of_item(items: list[QueueItem], policy: Policy, lea: User) -> None:
    rule = policy.rules.get(label="insult")
    draft = actions.draft_policy(user=lea, based_on=policy)
    actions.activate_policy(policy=draft, user=lea, reason="test")
    newest = create_queue_item("insult=0.7 newest")
    job, _ = actions.preview_bulk(
        user=lea, filter={"label": "insult"}, action=Decision.Action.REJECT, rule=rule
    )
    actions.start_bulk(job_id=job.pk, user=lea, typed_count=61)
    actions.run_bulk(job_id=job.pk)
    decision = newest.decisions.get()
    assert decision.rule is not None
    assert (decision.policy, decision.rule.policy, decision.rule.label) == (draft, draft, "insult")


def test_preview_bulk_rejects_wrong_arguments(items: list[QueueItem], lea: User, ann: User) -> None:
    with pytest.raises(PermissionDenied):
        actions.preview_bulk(user=ann, filter={}, action=Decision.Action.APPROVE)
    with pytest.raises(ModerationError, match="reason"):
        actions.preview_bulk(user=lea, filter={}, action=Decision.Action.REJECT)
    with pytest.raises(ModerationError, match="bulk"):
        actions.preview_bulk(user=lea, filter={}, action=Decision.Action.ESCALATE)
    with pytest.raises(ModerationError, match="colour"):
        actions.preview_bulk(user=lea, filter={"colour": "red"}, action=Decision.Action.APPROVE)  # type: ignore[typeddict-unknown-key]


def test_start_bulk_of_another_user(items: list[QueueItem], lea: User, person: Callable[..., User]) -> None:
    job, _ = actions.preview_bulk(user=lea, filter={}, action=Decision.Action.APPROVE)
    with pytest.raises(ModerationError, match="no such job"):
        actions.start_bulk(job_id=job.pk, user=person("leo", "lead"), typed_count=job.count)


def test_resume_bulk_jobs_enqueues_unfinished_job(
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


def test_undo_bulk_lists_decisions_that_cannot_be_undone(
    items: list[QueueItem], policy: Policy, lea: User, ann: User, person: Callable[..., User]
) -> None:
    rule = policy.rules.get(label="insult")
    job, _ = actions.preview_bulk(
        user=lea, filter={"label": "insult"}, action=Decision.Action.REJECT, rule=rule
    )
    with pytest.raises(ModerationError, match="has ended"):
        actions.undo_bulk(job_id=job.pk, user=lea, typed_count=60)
    actions.start_bulk(job_id=job.pk, user=lea, typed_count=60)
    actions.run_bulk(job_id=job.pk)
    decisions = list(Decision.objects.filter(job=job).order_by("pk"))
    appealed, undone = decisions[3], decisions[5]
    actions.appeal(token=webhooks.appeal_token(appealed), text="No.")
    actions.undo(decision_id=undone.pk, user=lea)
    with pytest.raises(PermissionDenied):
        actions.undo_bulk(job_id=job.pk, user=ann, typed_count=60)
    with pytest.raises(ModerationError, match="typed 59"):
        actions.undo_bulk(job_id=job.pk, user=lea, typed_count=59)
    # Another lead may undo it too, as leads may undo single decisions of others.
    actions.undo_bulk(job_id=job.pk, user=person("leo", "lead"), typed_count=60)
    assert bulk._undo_batch(job.pk)
    actions.resume_bulk_jobs()
    actions.run_bulk(job_id=job.pk)
    job.refresh_from_db()
    assert (job.status, job.undone, job.is_active, job.can_undo) == ("undone", 58, False, False)
    reasons = {entry["item"]: entry["reason"] for entry in job.not_undone}
    assert set(reasons) == {appealed.item_id, undone.item_id}
    assert "appealed" in reasons[appealed.item_id]
    assert "lea undid this decision" in reasons[undone.item_id]
    assert QueueItem.objects.open().exclude(kind="appeal").count() == 60
    assert QueueItem.objects.filter(lease_by__isnull=False).count() == 1  # the item of the single undo
    with pytest.raises(ModerationError, match="undone before"):
        actions.undo_bulk(job_id=job.pk, user=lea, typed_count=60)


@pytest.mark.parametrize("status", BulkJob.Status.values)
def test_job_page_and_resume_for_every_status(
    items: list[QueueItem], lea: User, client: Client, monkeypatch: pytest.MonkeyPatch, status: str
) -> None:
    job, _ = actions.preview_bulk(user=lea, filter={"label": "insult"}, action=Decision.Action.APPROVE)
    BulkJob.objects.filter(pk=job.pk).update(status=status, done=2, undone_by=lea, undone=1)
    User.objects.filter(pk=lea.pk).update(is_staff=True)
    client.force_login(lea, backend="django.contrib.auth.backends.ModelBackend")
    page = client.get(reverse("admin:moderation_job", args=[job.pk])).content.decode()
    assert ("Type <b>60</b> to confirm" in page) == (status == "draft")
    assert ("Undo all 2 decisions" in page) == (status in ("done", "cancelled"))
    assert ("data-refresh" in page) == (status in ("queued", "running", "undoing"))
    sent: list[tuple] = []
    monkeypatch.setattr(bulk, "enqueue", lambda *message: sent.append(message))
    actions.resume_bulk_jobs()
    assert bool(sent) == (status in ("queued", "running", "undoing"))


def test_histogram_counts_what_the_filter_selects(
    model: ModelVersion, policy: Policy, ann: User, lea: User
) -> None:
    for score in (0.65, 0.66, 0.97):
        create_queue_item(f"insult={score} {score}")
    assert actions.histogram(user=lea, filter={"label": "insult", "score_from": 0.9}, bins=10) == [
        0, 0, 0, 0, 0, 0, 2, 0, 0, 1
    ]  # fmt: skip
    assert sum(actions.histogram(user=lea, filter={"label": "threat"})) == 0
    decision = decide_item(QueueItem.objects.get(score=0.97), ann, Decision.Action.REJECT).decision
    actions.appeal(token=webhooks.appeal_token(decision))  # no bulk job decides it
    cache.clear()
    assert sum(actions.histogram(user=lea, filter={"label": "insult"})) == 2
