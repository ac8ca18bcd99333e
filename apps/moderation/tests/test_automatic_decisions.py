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


def removed(text: str = "insult=0.99 you fool", **options: Any) -> Decision:
    """Send a comment that the policy rejects by itself; return the decision."""
    answer = actions.moderate(text=text, author_ref="troll", **options)
    assert answer.submission.outcome == "reject"
    decision = answer.submission.current_decision()
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


def test_send_to_review_queues_the_comment_and_keeps_the_decision(
    model: ModelVersion, policy: Policy, ann: User
) -> None:
    decision = removed()
    item = actions.send_to_review(decision=decision, by=ann)
    assert item is not None
    assert (item.kind, item.requested_by, item.label) == (QueueItem.Kind.REVIEW, ann, "insult")
    assert item.submission.current_decision() == decision
    assert "Sent to review by a colleague" in item.priority_explanation


def test_send_to_review_twice_queues_once(model: ModelVersion, policy: Policy, ann: User, ben: User) -> None:
    decision = removed()
    assert actions.send_to_review(decision=decision, by=ann)
    assert actions.send_to_review(decision=decision, by=ben) is None
    assert QueueItem.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_send_to_review_by_two_at_once_queues_once(
    model: ModelVersion, policy: Policy, ann: User, ben: User
) -> None:
    decision = removed()

    def request(user: User) -> bool:
        try:
            return actions.send_to_review(decision=decision, by=user) is not None
        finally:
            connection.close()

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(request, (ann, ben))) == [False, True]
    assert QueueItem.objects.count() == 1


def test_changed_decision_sends_a_webhook_and_lifts_the_strikes(
    model: ModelVersion, policy: Policy, ann: User, client_key: APIKey
) -> None:
    decision = removed(client=client_key, callback_url="https://platform.example/hook")
    assert Strike.objects.active().count() == 1
    item = actions.send_to_review(decision=decision, by=ann)
    assert item is not None
    held = actions.claim(item_id=item.pk, user=ann)
    result = actions.decide(item_id=item.pk, version=held.version, user=ann, action=Decision.Action.APPROVE)
    assert result.delivery is not None
    assert result.delivery.event == Delivery.Event.DECIDED
    assert result.delivery.payload["outcome"] == "approve"
    assert not Strike.objects.active().exists()
    # Sent again after the decision: nothing is left to do.
    assert actions.send_to_review(decision=decision, by=ann) is None
    # Undone, the automatic decision is in force again and the item waits again.
    actions.undo(decision_id=result.decision.pk, user=ann)
    assert decision.submission.current_decision() == decision
    assert actions.send_to_review(decision=decision, by=ann) is None


def test_confirmed_decision_sends_no_webhook(
    model: ModelVersion, policy: Policy, ann: User, client_key: APIKey
) -> None:
    decision = removed(client=client_key, callback_url="https://platform.example/hook")
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


def test_send_to_review_refuses(
    model: ModelVersion, policy: Policy, person: Callable[..., User], ann: User, lea: User
) -> None:
    decision = removed(community="news")
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


def test_list_shows_automatic_decisions_with_their_state(
    model: ModelVersion, policy: Policy, ann: User, signed_in: Callable[[User], Client]
) -> None:
    decision = removed(community="news")
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


def test_list_filters(
    model: ModelVersion, policy: Policy, lea: User, signed_in: Callable[[User], Client]
) -> None:
    removed("insult=0.99 first", community="news")
    removed("threat=0.99 second", community="music")
    actions.moderate(text="third")
    client = signed_in(lea)

    def listed(**query: str) -> set[str]:
        page = client.get(reverse(LIST), query).content.decode()
        return {word for word in ("first", "second", "third") if f" {word}<" in page or f">{word}<" in page}

    assert listed() == {"first", "second", "third"}
    assert listed(outcome="reject") == {"first", "second"}
    assert listed(community="news") == {"first"}
    assert listed(community="-") == {"third"}
    assert listed(rule="Threats") == {"second"}
    days = {"created_at__gte": "2020-01-01 00:00:00+00:00", "created_at__lt": "2020-01-02 00:00:00+00:00"}
    assert listed(**days) == set()


def test_limited_moderator_sees_and_sends_only_own_communities(
    model: ModelVersion, policy: Policy, ann: User, signed_in: Callable[[User], Client]
) -> None:
    mine, other = (
        removed("insult=0.99 mine", community="news"),
        removed("insult=0.99 hers", community="music"),
    )
    restrict_to_communities(ann, "news")
    client = signed_in(ann)
    page = client.get(reverse(LIST)).content.decode()
    assert "mine" in page
    assert "hers" not in page
    assert "music" not in page
    send(client, mine, other)
    assert [item.submission.text for item in QueueItem.objects.all()] == [mine.submission.text]
    url = reverse("admin:moderation_automaticdecision_change", args=[other.pk])
    assert client.get(url).status_code == 302


def test_viewer_sees_the_list_without_the_action(
    model: ModelVersion, policy: Policy, person: Callable[..., User], signed_in: Callable[[User], Client]
) -> None:
    decision = removed()
    client = signed_in(person("vic", "viewer"))
    assert "Send to review" not in client.get(reverse(LIST)).content.decode()
    send(client, decision)
    assert not QueueItem.objects.exists()


def test_list_needs_a_bounded_number_of_queries(
    model: ModelVersion,
    policy: Policy,
    ann: User,
    signed_in: Callable[[User], Client],
    django_assert_max_num_queries: Callable[..., Any],
) -> None:
    for number in range(20):
        removed(f"insult=0.99 number {number}", community="news")
    client = signed_in(ann)
    client.get(reverse(LIST))
    with django_assert_max_num_queries(16):
        client.get(reverse(LIST))
