"""Appeals."""

from collections.abc import Callable

import pytest
from django.core.exceptions import PermissionDenied
from django.utils import timezone

from apps.accounts.models import APIKey, User
from apps.moderation import actions, selectors, statistics, webhooks
from apps.moderation.availability import unavailable_reason
from apps.moderation.exceptions import ModerationError, StaleError
from apps.moderation.models import Appeal, Decision, Policy, QueueItem
from apps.moderation.permissions import decidable_by
from apps.registry.models import ModelVersion
from toxicmod.testing.factories import create_queue_item, decide_item

pytestmark = [pytest.mark.django_db, pytest.mark.database]


def test_appeal_excludes_first_moderator_and_sends_outcome(
    item: QueueItem, lea: User, person: Callable[..., User]
) -> None:
    first = decide_item(item, lea).decision
    appeal = actions.appeal(token=webhooks.appeal_token(first), text="It was a joke among friends.")
    assert (appeal.item.queue, appeal.item.excluded_reviewer) == ("appeal", lea)
    assert "appeals" in appeal.item.priority_explanation
    with pytest.raises(PermissionDenied, match="decided it before"):
        actions.claim(item_id=appeal.item.pk, user=lea)
    with pytest.raises(PermissionDenied, match="lead"):
        actions.claim(item_id=appeal.item.pk, user=person("max"))
    with pytest.raises(ModerationError, match="already"):
        actions.appeal(token=webhooks.appeal_token(first))
    with pytest.raises(ModerationError, match="appeal"):
        actions.undo(decision_id=first.pk, user=lea)
    leo = person("leo", "lead")
    result = decide_item(appeal.item, leo, "approve")
    appeal.refresh_from_db()
    assert (appeal.status, appeal.outcome) == ("overturned", result.decision)
    assert result.delivery is not None
    assert (result.delivery.event, result.delivery.payload["outcome"]) == ("appeal.resolved", "approve")
    assert item.submission.author is not None
    assert item.submission.author.active_strikes() == 0
    assert statistics.appeal_counts() == {"open": 0, "upheld": 0, "overturned": 1}
    assert statistics.moderator_statistics(lea).overturn_rate == 1
    actions.undo(decision_id=result.decision.pk, user=leo)
    appeal.refresh_from_db()
    assert appeal.status == "open"
    assert item.submission.author.active_strikes() == 1


def test_upheld_appeal_adds_no_strike(item: QueueItem, ann: User, lea: User) -> None:
    first = decide_item(item, ann).decision
    appeal = actions.appeal(token=webhooks.appeal_token(first))
    result = decide_item(appeal.item, lea)
    appeal.refresh_from_db()
    assert appeal.status == "upheld"
    assert result.delivery is not None
    assert result.delivery.payload["outcome"] == "reject"
    assert item.submission.author is not None
    assert item.submission.author.active_strikes() == 1


def test_appeal_for_automatic_rejection(model: ModelVersion, policy: Policy, platform_key: APIKey) -> None:
    submission = actions.moderate(text="threat=0.99", api_key=platform_key).submission
    decision = Decision.objects.get(submission=submission)
    assert actions.appeal_for(decision_id=decision.pk, api_key=platform_key).item.excluded_reviewer is None


def test_appeal_requires_valid_token_and_rejection_in_force(
    item: QueueItem, ann: User, platform_key: APIKey
) -> None:
    approval = decide_item(item, ann, "approve").decision
    with pytest.raises(ModerationError, match="not valid"):
        actions.appeal(token=f"{webhooks.appeal_token(approval)}x")
    with pytest.raises(ModerationError, match="rejection"):
        actions.appeal(token=webhooks.appeal_token(approval))
    with pytest.raises(ModerationError, match="no such decision"):
        actions.appeal_for(decision_id=0, api_key=platform_key)
    rejected = decide_item(create_queue_item("insult=0.7 other"), ann).decision
    with pytest.raises(ModerationError, match="no such decision"):
        actions.appeal_for(decision_id=rejected.pk, api_key=platform_key)
    actions.undo(decision_id=rejected.pk, user=ann)
    with pytest.raises(ModerationError, match="in force"):
        actions.appeal(token=webhooks.appeal_token(rejected))


def test_appeal_of_confirmed_rejection_is_about_newer_decision(
    model: ModelVersion, policy: Policy, platform_key: APIKey, lea: User
) -> None:
    automatic = actions.moderate(text="threat=0.99", api_key=platform_key).submission.decisions.get()
    item = actions.send_to_review(decision=automatic, by=lea)
    assert item is not None
    confirmed = decide_item(item, lea).decision
    appeal = actions.appeal_for(decision_id=automatic.pk, api_key=platform_key)
    assert appeal.decision == confirmed
    assert appeal.item.excluded_reviewer == lea
    for token in (webhooks.appeal_token(automatic), webhooks.appeal_token(confirmed)):
        with pytest.raises(ModerationError, match="already"):
            actions.appeal(token=token)


def test_open_appeal_covers_newer_rejection(
    model: ModelVersion, policy: Policy, lea: User, ann: User
) -> None:
    automatic = actions.moderate(text="threat=0.99").submission.decisions.get()
    item = actions.send_to_review(decision=automatic, by=lea)
    assert item is not None
    appeal = actions.appeal(token=webhooks.appeal_token(automatic))
    confirmed = decide_item(item, ann).decision
    for decision in (automatic, confirmed):
        with pytest.raises(ModerationError, match="already"):
            actions.appeal(token=webhooks.appeal_token(decision))
        assert selectors.appeal_state(decision) == (confirmed, appeal)


def test_upheld_rejection_is_appealed_once(item: QueueItem, ann: User, lea: User) -> None:
    first = decide_item(item, ann).decision
    appeal = actions.appeal(token=webhooks.appeal_token(first))
    upheld = decide_item(appeal.item, lea).decision
    for decision in (first, upheld):
        with pytest.raises(ModerationError, match="already"):
            actions.appeal(token=webhooks.appeal_token(decision))


@pytest.fixture
def audited_appeal(model: ModelVersion, policy: Policy, platform_key: APIKey) -> tuple[Appeal, QueueItem]:
    """An appeal of an automatic rejection that is in the audit as well, and the item of the audit."""
    Policy.objects.update(reject_audit_share=1)
    result = actions.moderate(
        text="threat=0.99", api_key=platform_key, callback_url="https://platform.example/hook"
    )
    assert result.item is not None
    decision = result.submission.decisions.get()
    return actions.appeal(token=webhooks.appeal_token(decision), text="A quotation."), result.item


def test_other_decision_overturns_open_appeal(
    audited_appeal: tuple[Appeal, QueueItem], lea: User, person: Callable[..., User]
) -> None:
    appeal, audit = audited_appeal
    actions.claim(item_id=appeal.item_id, user=person("leo", "lead"))
    result = decide_item(audit, lea, "approve")
    appeal.refresh_from_db()
    assert (appeal.status, appeal.outcome) == ("overturned", result.decision)
    assert appeal.resolved_at == result.decision.created_at
    assert (appeal.item.status, appeal.item.lease_by) == ("withdrawn", None)
    assert result.delivery is not None
    assert (result.delivery.event, result.delivery.payload["outcome"]) == ("appeal.resolved", "approve")
    with pytest.raises(StaleError, match="another decision overturned the rejection"):
        actions.claim(item_id=appeal.item_id, user=person("lia", "lead"))
    actions.undo(decision_id=result.decision.pk, user=lea)
    appeal.refresh_from_db()
    assert (appeal.status, appeal.outcome, appeal.resolved_at) == ("open", None, None)
    assert (appeal.item.status, appeal.item.lease_by) == ("open", None)
    decide_item(appeal.item, lea, "approve")
    appeal.refresh_from_db()
    assert appeal.status == "overturned"


def test_other_decision_that_confirms_leaves_appeal_open(
    audited_appeal: tuple[Appeal, QueueItem], lea: User
) -> None:
    appeal, audit = audited_appeal
    decide_item(audit, lea)
    appeal.refresh_from_db()
    assert (appeal.status, appeal.item.status) == ("open", "open")


@pytest.mark.parametrize("action", ["approve", "reject"])
@pytest.mark.parametrize("kind", [kind for kind in QueueItem.Kind if kind != QueueItem.Kind.APPEAL])
def test_decision_on_appeal_withdraws_other_items(
    audited_appeal: tuple[Appeal, QueueItem],
    kind: QueueItem.Kind,
    action: str,
    ann: User,
    lea: User,
    policy: Policy,
) -> None:
    appeal, other = audited_appeal
    reason = "uncertainty" if kind == QueueItem.Kind.ACTIVE_LEARNING else ""
    QueueItem.objects.filter(pk=other.pk).update(kind=kind, selection_reason=reason)
    held = actions.claim(item_id=other.pk, user=ann)
    outcome = decide_item(appeal.item, lea, action).decision
    other.refresh_from_db()
    assert (other.status, other.lease_by) == ("withdrawn", None)
    with pytest.raises(StaleError, match=r"withdrawn: the author has appealed, and the appeal decides\."):
        actions.decide(
            item_id=other.pk,
            version=held.version,
            user=ann,
            action=Decision.Action.REJECT,
            labels=[],
            rule=policy.rules.all()[0],
        )
    assert other.submission.current_decision() == outcome
    actions.undo(decision_id=outcome.pk, user=lea)
    other.refresh_from_db()
    # The moderator who decides the appeal sees the first decision, so a blind review stays withdrawn.
    assert other.status == ("withdrawn" if kind == QueueItem.Kind.SECOND else "open")
    assert QueueItem.objects.open().filter(pk=appeal.item_id).exists()


def test_escalation_of_appeal_leaves_other_items_open(
    audited_appeal: tuple[Appeal, QueueItem], lea: User
) -> None:
    appeal, audit = audited_appeal
    escalation = decide_item(appeal.item, lea, "escalate").decision
    audit.refresh_from_db()
    assert audit.status == "open"
    actions.undo(decision_id=escalation.pk, user=lea)
    audit.refresh_from_db()
    assert audit.status == "open"


def test_undo_of_appeal_after_edit_leaves_other_items_withdrawn(
    model: ModelVersion, policy: Policy, platform_key: APIKey, lea: User
) -> None:
    Policy.objects.update(reject_audit_share=1)
    result = actions.moderate(text="threat=0.99", api_key=platform_key, external_id="7")
    decision = result.submission.decisions.get()
    appeal = actions.appeal_for(decision_id=decision.pk, api_key=platform_key)
    outcome = decide_item(appeal.item, lea).decision
    actions.moderate(text="fine", api_key=platform_key, external_id="7")
    actions.undo(decision_id=outcome.pk, user=lea)
    assert list(result.submission.items.open()) == [appeal.item]


def test_comment_with_open_appeal_gets_no_blind_review(
    audited_appeal: tuple[Appeal, QueueItem], item: QueueItem, ann: User, ben: User, lea: User
) -> None:
    Policy.objects.update(second_review_share=1)
    audit = audited_appeal[1]
    decide_item(audit, ann)
    assert not audit.submission.items.filter(kind="second").exists()

    first = decide_item(item, ann).decision
    second = QueueItem.objects.get(kind="second")
    blind = decide_item(second, ben, labels=[]).decision
    actions.appeal(token=webhooks.appeal_token(first))
    assert actions.undo(decision_id=blind.pk, user=ben).item.status == "withdrawn"


def test_undo_of_escalation_leaves_withdrawn_item_closed(
    audited_appeal: tuple[Appeal, QueueItem], item: QueueItem, ann: User, lea: User
) -> None:
    appeal, audit = audited_appeal
    escalation = decide_item(appeal.item, lea, "escalate").decision
    decide_item(audit, lea, "approve")
    with pytest.raises(StaleError, match="decided the comment again"):
        actions.undo(decision_id=escalation.pk, user=lea)
    Policy.objects.update(second_review_share=1)
    item.policy.refresh_from_db()
    first = decide_item(item, ann).decision
    second = QueueItem.objects.get(kind="second")
    escalation = decide_item(second, lea, "escalate").decision
    actions.appeal(token=webhooks.appeal_token(first))
    assert actions.undo(decision_id=escalation.pk, user=lea).item.status == "withdrawn"


def test_appeal_excludes_everyone_who_decided_the_comment(
    audited_appeal: tuple[Appeal, QueueItem], lea: User, person: Callable[..., User]
) -> None:
    appeal, audit = audited_appeal
    confirmed = decide_item(audit, lea).decision
    assert not decidable_by(lea).filter(pk=appeal.item_id).exists()
    reasons = QueueItem.objects.annotate(reason=unavailable_reason(lea, timezone.now()))
    assert reasons.get(pk=appeal.item_id).reason == "decided_first"
    with pytest.raises(PermissionDenied, match="decided it before"):
        actions.claim(item_id=appeal.item_id, user=lea)
    leo = person("leo", "lead")
    upheld = decide_item(appeal.item, leo).decision
    assert actions.undo(decision_id=upheld.pk, user=lea).item.lease_by is None
    assert decide_item(appeal.item, leo).decision.action == "reject"
    actions.undo(decision_id=Decision.objects.human().in_force().order_by("-pk")[0].pk, user=leo)
    actions.release(item_id=appeal.item_id, user=leo)
    actions.undo(decision_id=confirmed.pk, user=lea)
    assert decidable_by(lea).filter(pk=appeal.item_id).exists()
