"""The admin's list of automatic decisions and its action "Send to review"."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.core.exceptions import PermissionDenied
from django.db import connection
from django.test import Client
from django.urls import reverse

from apps.accounts.models import APIKey, User
from apps.moderation import actions
from apps.moderation.exceptions import ModerationError
from apps.moderation.models import Decision, Delivery, Policy, QueueItem, Strike
from apps.registry.models import ModelVersion
from toxicmod.testing.factories import create_queue_item, restrict_to_communities

pytestmark = [pytest.mark.django_db, pytest.mark.database]
LIST = "admin:moderation_automaticdecision_changelist"


def reject_automatically(text: str = "insult=0.99 you fool", **options: Any) -> Decision:
    """Moderate a comment that the policy rejects automatically; return the decision."""
    submission = actions.moderate(text=text, author_ref="troll", **options).submission
    assert submission.outcome == "reject"
    decision = submission.current_decision()
    assert decision is not None
    return decision


@pytest.fixture
def signed_in(client: Client) -> Callable[[User], Client]:
    def sign_in(user: User) -> Client:
        user.is_staff = True
        user.save()
        client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
        return client

    return sign_in


def send(client: Client, *decisions: Decision, follow: bool = True) -> Any:
    return client.post(
        reverse(LIST),
        {"action": "send_to_review", "_selected_action": [decision.pk for decision in decisions]},
        follow=follow,
    )


def test_send_to_review_queues_comment_and_keeps_decision(
    model: ModelVersion, policy: Policy, ann: User
) -> None:
    decision = reject_automatically()
    item = actions.send_to_review(decision=decision, by=ann)
    assert item is not None
    assert (item.kind, item.requested_by, item.label) == (QueueItem.Kind.REVIEW, ann, "insult")
    assert item.submission.current_decision() == decision
    assert "Sent to review by a colleague" in item.priority_explanation


def test_send_to_review_twice_queues_once(model: ModelVersion, policy: Policy, ann: User, ben: User) -> None:
    decision = reject_automatically()
    assert actions.send_to_review(decision=decision, by=ann)
    assert actions.send_to_review(decision=decision, by=ben) is None
    assert QueueItem.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_send_to_review_concurrently_queues_once(
    model: ModelVersion, policy: Policy, ann: User, ben: User
) -> None:
    decision = reject_automatically()

    def request(user: User) -> bool:
        try:
            return actions.send_to_review(decision=decision, by=user) is not None
        finally:
            connection.close()

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(request, (ann, ben))) == [False, True]
    assert QueueItem.objects.count() == 1


def test_changed_decision_sends_webhook_and_lifts_strikes(
    model: ModelVersion, policy: Policy, ann: User, platform_key: APIKey
) -> None:
    decision = reject_automatically(api_key=platform_key, callback_url="https://platform.example/hook")
    assert Strike.objects.active().count() == 1
    item = actions.send_to_review(decision=decision, by=ann)
    assert item is not None
    held = actions.claim(item_id=item.pk, user=ann)
    result = actions.decide(item_id=item.pk, version=held.version, user=ann, action=Decision.Action.APPROVE)
    assert result.delivery is not None
    assert result.delivery.event == Delivery.Event.DECIDED
    assert result.delivery.payload["outcome"] == "approve"
    assert not Strike.objects.active().exists()
    # The automatic decision is not in force any more.
    assert actions.send_to_review(decision=decision, by=ann) is None
    # After an undo it is in force again, and the item is open again.
    actions.undo(decision_id=result.decision.pk, user=ann)
    assert decision.submission.current_decision() == decision
    assert actions.send_to_review(decision=decision, by=ann) is None


def test_confirmed_decision_sends_no_webhook(
    model: ModelVersion, policy: Policy, ann: User, platform_key: APIKey
) -> None:
    decision = reject_automatically(api_key=platform_key, callback_url="https://platform.example/hook")
    item = actions.send_to_review(decision=decision, by=ann)
    assert item is not None
    held = actions.claim(item_id=item.pk, user=ann)
    actions.decide(
        item_id=item.pk,
        version=held.version,
        user=ann,
        action=Decision.Action.REJECT,
        rule=held.default_rule(),
    )
    assert not Delivery.objects.exists()
    assert Strike.objects.active().count() == 1


def test_send_to_review_requires_permission_and_automatic_decision(
    model: ModelVersion, policy: Policy, person: Callable[..., User], ann: User, lea: User
) -> None:
    decision = reject_automatically(community="news")
    with pytest.raises(PermissionDenied):
        actions.send_to_review(decision=decision, by=person("vic", "viewer"))
    restrict_to_communities(ann, "music")
    with pytest.raises(PermissionDenied):
        actions.send_to_review(decision=decision, by=User.objects.get(pk=ann.pk))
    item = create_queue_item("insult=0.7 oaf")
    held = actions.claim(item_id=item.pk, user=lea)
    human = actions.decide(
        item_id=item.pk, version=held.version, user=lea, action=Decision.Action.APPROVE
    ).decision
    with pytest.raises(ModerationError, match="only an automatic one"):
        actions.send_to_review(decision=human, by=lea)


def test_changelist_shows_state_of_decisions(
    model: ModelVersion, policy: Policy, ann: User, signed_in: Callable[[User], Client]
) -> None:
    decision = reject_automatically(community="news")
    client = signed_in(ann)
    page = client.get(reverse(LIST)).content.decode()
    assert "you fool" in page
    assert "In force" in page
    assert "Rejected" in page
    page = send(client, decision).content.decode()
    assert "Sent 1 comment to review" in page
    assert LogEntry.objects.get().get_change_message().startswith("Sent to review as item")
    history = reverse("admin:moderation_automaticdecision_history", args=[decision.pk])
    assert "Sent to review as item" in client.get(history).content.decode()
    assert "In review" in page
    page = send(client, decision).content.decode()
    assert "Not sent: 1 (already in the queue" in page
    item = QueueItem.objects.get()
    held = actions.claim(item_id=item.pk, user=ann)
    actions.decide(item_id=item.pk, version=held.version, user=ann, action=Decision.Action.APPROVE)
    assert "Changed by a moderator" in client.get(reverse(LIST)).content.decode()


def test_changelist_filters(
    model: ModelVersion, policy: Policy, lea: User, signed_in: Callable[[User], Client]
) -> None:
    reject_automatically("insult=0.99 first", community="news")
    reject_automatically("threat=0.99 second", community="music")
    actions.moderate(text="third")
    client = signed_in(lea)

    def list_words(**query: str) -> set[str]:
        page = client.get(reverse(LIST), query).content.decode()
        return {word for word in ("first", "second", "third") if f" {word}<" in page or f">{word}<" in page}

    assert list_words() == {"first", "second", "third"}
    assert list_words(outcome="reject") == {"first", "second"}
    assert list_words(community="news") == {"first"}
    assert list_words(community="-") == {"third"}
    assert list_words(rule="Threats") == {"second"}
    days = {"created_at__gte": "2020-01-01 00:00:00+00:00", "created_at__lt": "2020-01-02 00:00:00+00:00"}
    assert list_words(**days) == set()


def test_changelist_is_limited_to_communities_of_moderator(
    model: ModelVersion, policy: Policy, ann: User, signed_in: Callable[[User], Client]
) -> None:
    visible, hidden = (
        reject_automatically("insult=0.99 visible", community="news"),
        reject_automatically("insult=0.99 concealed", community="music"),
    )
    restrict_to_communities(ann, "news")
    client = signed_in(ann)
    page = client.get(reverse(LIST)).content.decode()
    assert "0.99 visible" in page
    assert "concealed" not in page
    assert "music" not in page
    send(client, visible, hidden)
    assert [item.submission.text for item in QueueItem.objects.all()] == [visible.submission.text]
    url = reverse("admin:moderation_automaticdecision_change", args=[hidden.pk])
    assert client.get(url).status_code == 302


def test_changelist_offers_no_action_to_viewer(
    model: ModelVersion, policy: Policy, person: Callable[..., User], signed_in: Callable[[User], Client]
) -> None:
    decision = reject_automatically()
    client = signed_in(person("vic", "viewer"))
    assert "Send to review" not in client.get(reverse(LIST)).content.decode()
    send(client, decision)
    assert not QueueItem.objects.exists()


def test_changelist_query_count_is_bounded(
    model: ModelVersion,
    policy: Policy,
    ann: User,
    signed_in: Callable[[User], Client],
    django_assert_max_num_queries: Callable[..., Any],
) -> None:
    for number in range(20):
        reject_automatically(f"insult=0.99 number {number}", community="news")
    client = signed_in(ann)
    client.get(reverse(LIST))
    with django_assert_max_num_queries(16):
        client.get(reverse(LIST))
