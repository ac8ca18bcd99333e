"""Triage, claim, decide and undo."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.core.exceptions import PermissionDenied
from django.utils import timezone

from apps.accounts.models import APIKey, User
from apps.classifier.labels import LABELS
from apps.moderation import actions, webhooks
from apps.moderation.exceptions import ModerationError, StaleError
from apps.moderation.exports import statement_of_reasons
from apps.moderation.models import (
    Decision,
    Delivery,
    Policy,
    Queue,
    QueueItem,
    Strike,
    Submission,
)
from apps.predictions.models import Prediction
from apps.registry.models import ModelVersion
from toxicmod.testing.factories import create_queue_item, decide_item, restrict_to_communities

pytestmark = [pytest.mark.django_db, pytest.mark.database]
Action = Decision.Action


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        ("fine", "approve"),
        ("threat=0.5", "human_review"),
        ("threat=0.96", "reject"),
        ("threat=0.5 insult=0.99", "reject"),
    ],
)
def test_moderate_prefers_reject_to_review_to_approve(
    model: ModelVersion, policy: Policy, text: str, outcome: str
) -> None:
    result = actions.moderate(text=text)
    assert result.submission.outcome == outcome
    assert (result.item is not None) == (outcome == "human_review")
    assert Decision.objects.filter(automatic=True).count() == (outcome != "human_review")
    assert bool(result.submission.reasons) == (outcome != "approve")


def test_moderate_without_thresholds_approves(model: ModelVersion, policy: Policy) -> None:
    policy.rules.filter(label="threat").update(reject_from=None, review_from=None)
    assert actions.moderate(text="threat=1.0").submission.outcome == "approve"


def test_moderate_stores_sampling_chance_of_audit(
    model: ModelVersion, policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    Policy.objects.update(audit_share=0.25)
    monkeypatch.setattr("random.random", lambda: 0.2)
    result = actions.moderate(text="fine")
    assert result.submission.outcome == "approve"
    assert result.item is not None
    assert (result.item.kind, result.item.sampling_chance) == ("audit", 0.25)


def test_moderate_applies_policy_of_community(model: ModelVersion, policy: Policy, lea: User) -> None:
    draft = actions.draft_policy(
        user=lea,
        community="quiet",
        rules=[{"label": "toxic", "title": "Rude", "reason": "Rude.", "reject_from": 0.3}],
    )
    actions.activate_policy(policy=draft, user=lea, reason="the community is quiet")
    assert actions.moderate(text="toxic=0.4", community="quiet").submission.outcome == "reject"
    assert actions.moderate(text="toxic=0.4", community="loud").submission.outcome == "approve"


GREEK = "Καλημέρα σε όλους, σήμερα θα πάμε στην αγορά και μετά θα φάμε μαζί στο σπίτι."


@pytest.mark.parametrize(
    ("text", "is_reviewed", "outcome"),
    [
        (GREEK, True, "human_review"),
        (GREEK + " threat=0.99", True, "human_review"),
        (GREEK, False, "approve"),
        ("Good morning everybody, today we go to the market.", True, "approve"),
        ("threat=0.99", True, "reject"),
    ],
)
def test_moderate_holds_languages_that_the_model_does_not_score(
    model: ModelVersion, policy: Policy, text: str, is_reviewed: bool, outcome: str
) -> None:
    Policy.objects.update(review_other_languages=is_reviewed)
    result = actions.moderate(text=text)
    assert result.submission.outcome == outcome
    titles = [reason["title"] for reason in result.submission.reasons]
    assert (titles == ["Language"]) == (outcome == "human_review")


def test_comment_in_language_that_is_not_scored_has_no_label(
    model: ModelVersion, policy: Policy, lea: User, platform_key: APIKey
) -> None:
    Policy.objects.update(review_other_languages=True)
    result = actions.moderate(
        text=f"{GREEK} threat=0.99", api_key=platform_key, callback_url="https://platform.example/hook"
    )
    assert result.submission.reasons == [
        {
            "label": "",
            "title": "Language",
            "reason": "The model does not score comments in this language.",
            "probability": 0.0,
            "threshold": 0.0,
        }
    ]
    assert result.submission.confidence == 0
    item = result.item
    assert item is not None
    assert (item.label, item.score) == ("", 0.0)
    assert item.priority_explanation == "Language not scored"
    for label in LABELS:
        assert not actions.select_items({"label": label}).exists()
        assert sum(actions.histogram(user=lea, filter={"label": label})) == 0
    decided = decide_item(item, lea, rule=item.policy.rules.get(label="threat"))
    assert decided.delivery is not None
    assert decided.delivery.payload["outcome"] == "reject"
    assert "Estimated probability" not in statement_of_reasons(decided.decision)["decision_facts"]
    appeal = actions.appeal(token=webhooks.appeal_token(decided.decision))
    assert appeal.item.priority_explanation == "The author appeals · language not scored"


def test_moderate_without_policy_stores_nothing(model: ModelVersion) -> None:
    with pytest.raises(ModerationError, match="No policy"):
        actions.moderate(text="fine")
    assert not Prediction.objects.exists()


def test_moderate_with_same_external_id_returns_first_result(
    model: ModelVersion, policy: Policy, platform_key: APIKey
) -> None:
    first = actions.moderate(text="threat=0.5", api_key=platform_key, external_id="7")
    again = actions.moderate(text="threat=0.5", api_key=platform_key, external_id="7")
    assert again.is_repeat
    assert again.submission == first.submission
    assert again.item == first.item
    assert not actions.moderate(text="other", external_id="7").is_repeat
    assert Submission.objects.count() == 2


def test_moderate_edited_comment_is_a_revision(
    model: ModelVersion, policy: Policy, platform_key: APIKey
) -> None:
    def moderate(text: str, **options: Any) -> actions.ModerationResult:
        return actions.moderate(text=text, api_key=platform_key, external_id="7", **options)

    first = moderate("threat=0.5")
    edited = moderate("threat=0.6")
    assert (edited.submission.revision, edited.submission.previous) == (2, first.submission)
    assert edited.submission.previous_text == "threat=0.5"
    assert first.item is not None
    assert edited.item is not None
    first.item.refresh_from_db()
    assert (first.item.status, edited.item.status) == ("withdrawn", "open")
    again = moderate("threat=0.6")
    assert (again.submission, again.is_repeat) == (edited.submission, True)
    harmless = moderate("fine")
    assert (harmless.submission.revision, harmless.item) == (3, None)
    edited.item.refresh_from_db()
    assert edited.item.status == "withdrawn"
    restored = moderate("threat=0.5", community="cats")
    assert (restored.submission.revision, restored.is_repeat) == (4, False)
    assert restored.submission.previous_text == ""  # of another community, whose moderators may differ


def test_replaced_text_is_not_reviewed_again(
    model: ModelVersion, policy: Policy, platform_key: APIKey, ann: User, lea: User
) -> None:
    Policy.objects.update(audit_share=0.0)

    def moderate(text: str, number: int) -> Submission:
        return actions.moderate(
            text=text, api_key=platform_key, external_id=str(number), author_ref="troll"
        ).submission

    decided = moderate("threat=0.5 rejected by a moderator", 1)
    decision = decide_item(decided.items.get(), ann).decision
    rejected = moderate("threat=0.99 rejected by the policy", 2)
    appealed = moderate("threat=0.98 rejected, appealed", 3)
    item = actions.appeal_for(decision_id=appealed.decisions.get().pk, api_key=platform_key).item
    approved = moderate("threat=0.3 approved by the policy", 4)
    replaced = [decided, rejected, appealed, approved]
    for number in range(1, 5):
        moderate(f"edited and harmless, {number}", number)

    undone = actions.undo(decision_id=decision.pk, user=ann)
    assert (undone.item.status, undone.item.lease_by) == ("withdrawn", None)
    assert not Strike.objects.filter(decision=decision, lifted_at=None).exists()
    with pytest.raises(StaleError, match=r"withdrawn: the comment has been edited since\."):
        actions.claim(item_id=undone.item.pk, user=ann)
    assert actions.send_to_review(decision=rejected.decisions.get(), by=lea) is None
    assert actions.request_review(prediction=approved.prediction, by=lea) is None
    assert not {item.submission for item in actions.queue_for_labeling(count=9)} & set(replaced)

    # An appeal is about the decision and its strikes, which the new text does not change.
    outcome = decide_item(item, lea, "approve").decision
    item.appeal.refresh_from_db()
    assert item.appeal.status == "overturned"
    assert actions.undo(decision_id=outcome.pk, user=lea).item.status == "open"


def test_near_duplicates_share_a_cluster(model: ModelVersion, policy: Policy) -> None:
    spam = "threat=0.5 buy the best pills in town at example dot com before they are all gone for good"
    first = create_queue_item(spam)
    assert create_queue_item(spam).cluster == first.cluster
    assert create_queue_item(spam.replace("gone", "sold")).cluster == first.cluster
    assert (
        create_queue_item("threat=0.5 an entirely different sentence about the weather").cluster
        != first.cluster
    )


def test_claim_next_returns_highest_priority(model: ModelVersion, policy: Policy, ann: User) -> None:
    mild = create_queue_item("insult=0.65 mild")
    severe = create_queue_item("threat=0.9 severe")
    assert severe.queue == Queue.URGENT
    assert actions.claim_next(user=ann) == severe
    actions.release(item_id=severe.pk, user=ann)
    QueueItem.objects.filter(pk=mild.pk).update(priority=mild.priority + 2)
    assert actions.claim_next(user=ann) == mild


def test_claim_of_leased_item_names_the_moderator(item: QueueItem, ann: User, ben: User) -> None:
    held = actions.claim(item_id=item.pk, user=ann)
    assert held.version == 2
    assert actions.claim(item_id=item.pk, user=ann).version == 2
    with pytest.raises(StaleError, match="ann is reviewing this"):
        actions.claim(item_id=item.pk, user=ben)
    assert actions.claim_next(user=ben) is None
    with pytest.raises(StaleError, match="ann is reviewing this"):
        actions.decide(item_id=item.pk, version=2, user=ben, action=Action.APPROVE)


def test_claim_of_decided_item_names_the_moderator(item: QueueItem, ann: User, ben: User) -> None:
    decide_item(item, ann)
    with pytest.raises(StaleError, match="Already handled by ann: rejected 0 s ago"):
        actions.claim(item_id=item.pk, user=ben)
    with pytest.raises(StaleError, match="Already handled by ann: rejected 0 s ago"):
        actions.decide(item_id=item.pk, version=2, user=ben, action=Action.APPROVE)


def test_item_with_expired_lease_can_be_claimed(item: QueueItem, ann: User, ben: User) -> None:
    held = actions.claim(item_id=item.pk, user=ann)
    QueueItem.objects.update(lease_until=timezone.now() - timedelta(seconds=1))
    assert actions.expire_leases() == 1
    assert actions.expire_leases() == 0
    assert actions.claim_next(user=ben) == item
    with pytest.raises(StaleError, match="ben is reviewing this"):
        actions.decide(item_id=item.pk, version=held.version, user=ann, action=Action.APPROVE)


def test_decide_accepts_older_version_unless_item_was_decided(
    item: QueueItem, ann: User, ben: User, lea: User
) -> None:
    seen = item.version
    actions.claim(item_id=item.pk, user=ben)
    actions.release(item_id=item.pk, user=ben)
    first = actions.decide(item_id=item.pk, version=seen, user=ann, action=Action.APPROVE)
    assert first.item.status == "approved"
    actions.undo(decision_id=first.decision.pk, user=ann)
    actions.release(item_id=item.pk, user=ann)
    with pytest.raises(StaleError, match=r"ann: reversed .* Open the item again"):
        actions.decide(item_id=item.pk, version=seen, user=ben, action=Action.APPROVE)
    with pytest.raises(StaleError, match="no such version"):
        actions.decide(item_id=item.pk, version=99, user=ben, action=Action.APPROVE)


def test_skip_leaves_item_to_others(item: QueueItem, ann: User, ben: User) -> None:
    actions.claim(item_id=item.pk, user=ann)
    actions.skip(item_id=item.pk, user=ann, reason="I know the author")
    assert actions.claim_next(user=ann) is None
    assert actions.claim_next(user=ben) == item


def test_decide_rejects_missing_rule_and_unknown_label(item: QueueItem, ann: User) -> None:
    with pytest.raises(ModerationError, match="reason"):
        decide_item(item, ann, rule=None)
    with pytest.raises(ModerationError, match="Unknown labels: rude"):
        decide_item(item, ann, labels=["rude"])


def test_decide_stores_labels_note_and_strikes(item: QueueItem, ann: User, policy: Policy) -> None:
    result = decide_item(item, ann, labels=["insult", "toxic"], note="repeat offender")
    decision = Decision.objects.get(pk=result.decision.pk)
    assert (decision.by, decision.policy, decision.automatic, decision.note) == (
        ann,
        policy,
        False,
        "repeat offender",
    )
    assert decision.labels is not None
    assert [label for label, flag in decision.labels.items() if flag] == ["toxic", "insult"]
    assert decision.seconds is not None
    assert item.submission.author is not None
    assert item.submission.author.active_strikes() == 1
    assert result.item.status == "rejected"


def test_undo_within_ten_seconds_cancels_webhook(item: QueueItem, ann: User) -> None:
    result = decide_item(item, ann)
    assert result.delivery is not None
    assert result.delivery.send_after > timezone.now() + timedelta(seconds=9)
    undone = actions.undo(decision_id=result.decision.pk, user=ann)
    assert undone.delivery is None
    assert Delivery.objects.get().status == "cancelled"
    assert undone.item.status == "open"
    assert undone.item.lease_by == ann
    assert item.submission.author is not None
    assert item.submission.author.active_strikes() == 0
    assert list(Decision.objects.effective()) == []
    with pytest.raises(StaleError):
        actions.undo(decision_id=result.decision.pk, user=ann)
    again = actions.decide(item_id=item.pk, version=undone.item.version, user=ann, action=Action.APPROVE)
    assert again.item.status == "approved"


def test_undo_after_delivery_sends_correction(item: QueueItem, ann: User) -> None:
    result = decide_item(item, ann)
    Delivery.objects.update(status="delivered")
    undone = actions.undo(decision_id=result.decision.pk, user=ann)
    assert undone.delivery is not None
    assert undone.delivery.event == "decision.reversed"
    assert undone.delivery.payload["outcome"] == "human_review"
    assert undone.delivery.payload["reverses"] == result.decision.pk


def test_undo_requires_own_decision_or_lead(item: QueueItem, ann: User, ben: User, lea: User) -> None:
    result = decide_item(item, ann)
    with pytest.raises(PermissionDenied):
        actions.undo(decision_id=result.decision.pk, user=ben)
    assert actions.undo(decision_id=result.decision.pk, user=lea).item.lease_by == lea


def test_escalated_item_requires_lead(item: QueueItem, ann: User, ben: User, lea: User) -> None:
    held = actions.claim(item_id=item.pk, user=ann)
    result = actions.decide(
        item_id=item.pk, version=held.version, user=ann, note="help", action=Action.ESCALATE
    )
    assert (result.item.queue, result.item.status, result.delivery) == ("escalated", "open", None)
    assert actions.claim_next(user=ben) is None
    with pytest.raises(PermissionDenied, match="lead"):
        actions.claim(item_id=item.pk, user=ben)
    assert actions.claim_next(user=lea, view="escalated") == item


def test_undo_of_escalation_restores_queue_and_priority(item: QueueItem, ann: User) -> None:
    held = actions.claim(item_id=item.pk, user=ann)
    result = actions.decide(item_id=item.pk, version=held.version, user=ann, action=Decision.Action.ESCALATE)
    undone = actions.undo(decision_id=result.decision.pk, user=ann)
    assert undone.item.queue == item.queue
    assert undone.item.priority == pytest.approx(item.priority)


def test_decide_audit_overrules_automatic_decision_until_undo(
    model: ModelVersion, policy: Policy, ann: User, monkeypatch: pytest.MonkeyPatch, platform_key: APIKey
) -> None:
    Policy.objects.update(reject_audit_share=1)
    item = create_queue_item("threat=0.99", api_key=platform_key, callback_url="https://platform.example/")
    author = item.submission.author
    assert author is not None
    assert author.active_strikes() == 3
    result = decide_item(item, ann, Action.APPROVE)
    assert author.active_strikes() == 0
    assert result.delivery is not None
    Delivery.objects.update(status="delivered")
    undone = actions.undo(decision_id=result.decision.pk, user=ann)
    assert author.active_strikes() == 3
    assert undone.delivery is not None
    assert undone.delivery.payload["outcome"] == "reject"


def test_decide_audit_that_confirms_sends_no_webhook(
    model: ModelVersion, policy: Policy, ann: User, platform_key: APIKey
) -> None:
    Policy.objects.update(reject_audit_share=1)
    item = create_queue_item("threat=0.99", api_key=platform_key, callback_url="https://platform.example/")
    assert decide_item(item, ann).delivery is None
    assert Strike.objects.count() == 1


def test_strikes_expire(item: QueueItem, ann: User) -> None:
    decide_item(item, ann)
    author = item.submission.author
    assert author is not None
    assert author.active_strikes(timezone.now() + timedelta(days=91)) == 0


def test_decide_cluster_leaves_out_leased_and_other_items(
    model: ModelVersion, policy: Policy, ann: User, ben: User
) -> None:
    items = [create_queue_item("insult=0.7 the very same words") for _ in range(5)]
    other = create_queue_item("insult=0.7 what a bad day for all of us it was")
    actions.claim(item_id=items[4].pk, user=ben)
    held = actions.claim(item_id=items[0].pk, user=ann)
    assert held.similar().count() == 4
    results = actions.decide_cluster(
        item_id=held.pk, version=held.version, user=ann, action=Action.REJECT, rule=held.default_rule()
    )
    assert {result.item.pk for result in results} == {item.pk for item in items[:4]}
    assert Decision.objects.human().count() == 4
    other.refresh_from_db()
    assert other.status == "open"


def test_second_review_is_blind_and_excludes_first_reviewer(
    model: ModelVersion, policy: Policy, ann: User, ben: User
) -> None:
    Policy.objects.update(second_review_share=1)
    decide_item(create_queue_item("insult=0.7 you"), ann)
    second = QueueItem.objects.get(kind="second")
    assert second.is_blind
    assert actions.claim_next(user=ann) is None
    with pytest.raises(PermissionDenied, match="decided it before"):
        actions.claim(item_id=second.pk, user=ann)
    result = decide_item(second, ben, labels=["insult"])
    assert result.delivery is None
    assert Strike.objects.count() == 1
    assert QueueItem.objects.count() == 2


@pytest.mark.parametrize("role", ["viewer", "engineer"])
def test_actions_require_permission_to_decide(
    item: QueueItem, person: Callable[..., User], role: str
) -> None:
    user = person("val", role)
    for action in (
        lambda: actions.claim(item_id=item.pk, user=user),
        lambda: actions.claim_next(user=user),
        lambda: actions.decide(item_id=item.pk, version=1, user=user, action=Action.APPROVE),
        lambda: actions.skip(item_id=item.pk, user=user),
        lambda: actions.draft_policy(user=user),
    ):
        with pytest.raises(PermissionDenied):
            action()


def test_policy_actions_require_lead(policy: Policy, ann: User) -> None:
    for action in (
        lambda: actions.draft_policy(user=ann),
        lambda: actions.edit_draft(policy=policy, user=ann),
        lambda: actions.activate_policy(policy=policy, user=ann, reason="x"),
    ):
        with pytest.raises(PermissionDenied):
            action()


def test_access_by_community(model: ModelVersion, policy: Policy, ann: User) -> None:
    visible, hidden = (
        create_queue_item("insult=0.7", community="visible"),
        create_queue_item("insult=0.9", community="hidden"),
    )
    restrict_to_communities(ann, "visible")
    assert actions.claim_next(user=ann) == visible
    actions.skip(item_id=visible.pk, user=ann)
    assert actions.claim_next(user=ann) is None
    with pytest.raises(PermissionDenied, match="do not have access to this community"):
        actions.claim(item_id=hidden.pk, user=ann)


def test_allowed_groups_of_policy_restrict_claims(item: QueueItem, ann: User, lea: User) -> None:
    Policy.objects.update(allowed_groups=["lead"])
    assert actions.claim_next(user=ann) is None
    with pytest.raises(PermissionDenied, match="lead"):
        actions.claim(item_id=item.pk, user=ann)
    assert actions.claim_next(user=lea) == item


def test_edit_draft_of_active_policy_creates_version(policy: Policy, lea: User) -> None:
    draft = actions.edit_draft(policy=policy, user=lea, audit_share=0.5)
    assert (draft.version, draft.status, draft.rules.count()) == (2, "draft", 7)
    assert actions.edit_draft(policy=draft, user=lea, audit_share=0.6).version == 2
    with pytest.raises(ModerationError, match="reason"):
        actions.activate_policy(policy=draft, user=lea, reason=" ")
    actions.activate_policy(policy=draft, user=lea, reason="more audits")
    policy.refresh_from_db()
    assert (policy.status, policy.audit_share) == ("retired", 0)
    restored = actions.activate_policy(policy=policy, user=lea, reason="too many")
    assert (restored.version, restored.status) == (3, "active")


def test_install_default_policy_twice_changes_nothing(policy: Policy) -> None:
    assert actions.install_default_policy() is None


def decide_two_clusters(ann: User, seconds: float | None = None) -> list[list[actions.DecisionResult]]:
    """Decide three similar items, and three more copies of them that arrive within seconds."""
    results = []
    for _ in range(2):
        items = [create_queue_item("insult=0.7 the very same words") for _ in range(3)]
        held = actions.claim(item_id=items[0].pk, user=ann)
        results.append(
            actions.decide_cluster(
                item_id=held.pk, version=held.version, user=ann, action=Action.APPROVE, seconds=seconds
            )
        )
    return results


@pytest.mark.parametrize("seconds", [None, 0.0, 3.5])
def test_undo_cluster_with_two_recent_clusters_undoes_only_one(
    model: ModelVersion, policy: Policy, ann: User, seconds: float | None
) -> None:
    first, second = decide_two_clusters(ann, seconds)
    undone, failed = actions.undo_cluster(decision_id=first[0].decision.pk, user=ann)
    assert failed == []
    assert {result.item.pk for result in undone} == {result.item.pk for result in first}
    assert set(QueueItem.objects.open()) == {result.item for result in first}
    undone, failed = actions.undo_cluster(decision_id=second[0].decision.pk, user=ann)
    assert failed == []
    assert {result.item.pk for result in undone} == {result.item.pk for result in second}


def test_undo_cluster_leaves_single_decision_with_zero_seconds(
    model: ModelVersion, policy: Policy, ann: User
) -> None:
    cluster, _ = decide_two_clusters(ann)
    single = decide_item(
        create_queue_item("insult=0.7 the very same words"), ann, Action.APPROVE, seconds=0.0
    )
    actions.undo_cluster(decision_id=cluster[0].decision.pk, user=ann)
    single.item.refresh_from_db()
    assert single.item.status == "approved"
    actions.undo_cluster(decision_id=single.decision.pk, user=ann)
    single.item.refresh_from_db()
    assert single.item.status == "open"
    assert Decision.objects.filter(action=Action.REVERSE).count() == 4


def test_undo_of_second_escalation_keeps_the_first(item: QueueItem, ann: User, lea: User) -> None:
    decide_item(item, ann, Decision.Action.ESCALATE)
    second = decide_item(item, lea, Decision.Action.ESCALATE)
    assert actions.undo(decision_id=second.decision.pk, user=lea).item.queue == Queue.ESCALATED


@pytest.mark.parametrize("is_undone", [False, True])
def test_remove_examples_that_were_decided_together(
    model: ModelVersion, policy: Policy, ann: User, is_undone: bool
) -> None:
    first, _ = (
        actions.moderate(
            text=f"insult=0.7 you fool you really are one of them number {number}",
            external_id=f"example-{number}",
            example=True,
        ).item
        for number in (1, 2)
    )
    assert first is not None
    held = actions.claim(item_id=first.pk, user=ann)
    results = actions.decide_cluster(
        item_id=first.pk, version=held.version, user=ann, action=Decision.Action.APPROVE
    )
    assert len(results) == 2
    if is_undone:
        actions.undo_cluster(decision_id=results[0].decision.pk, user=ann)
    assert actions.remove_examples() == 2
