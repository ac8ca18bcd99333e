"""The moderation part of the REST API."""

from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
from django.test import Client
from pytest_django import DjangoAssertNumQueries

from apps.accounts.actions import create_api_key
from apps.accounts.models import APIKey, Scope, User
from apps.core.permissions import SYSTEM
from apps.moderation import actions
from apps.moderation.models import Decision, Delivery, Policy, QueueItem
from apps.registry.models import ModelVersion
from toxicmod.testing.factories import create_queue_item, decide_item, restrict_to_communities

pytestmark = [pytest.mark.django_db, pytest.mark.database]


class Caller:
    """Sends JSON with a key."""

    def __init__(self, client: Client, secret: str) -> None:
        self.client = client
        self.headers = {"Authorization": f"Api-Key {secret}"} if secret else {}

    def post(self, path: str, body: Any = None, status: int = 200) -> Any:
        answer = self.client.post(
            f"/api/v1/{path}", body or {}, content_type="application/json", headers=self.headers
        )
        assert answer.status_code == status, answer.content
        return answer.json() if answer.content else None

    def get(self, path: str, status: int = 200) -> Any:
        answer = self.client.get(path if path.startswith("http") else f"/api/v1/{path}", headers=self.headers)
        assert answer.status_code == status, answer.content
        return answer.json()


@pytest.fixture
def platform(client: Client, model: ModelVersion, policy: Policy) -> Caller:
    return Caller(client, create_api_key(actor=SYSTEM, name="platform")[1])


@pytest.fixture
def as_ann(client: Client, model: ModelVersion, policy: Policy, ann: User) -> Caller:
    return Caller(client, create_api_key(actor=SYSTEM, name="ann's", acts_as=ann)[1])


@pytest.fixture
def as_ben(client: Client, ben: User) -> Caller:
    return Caller(client, create_api_key(actor=SYSTEM, name="ben's", acts_as=ben)[1])


def test_moderate(platform: Caller) -> None:
    approved = platform.post("moderate", {"text": "fine"})
    assert (approved["outcome"], approved["reasons"], approved["queue_id"]) == ("approve", [], None)
    assert approved["confidence"] == pytest.approx(0.99)
    waiting = platform.post(
        "moderate",
        {
            "text": "threat=0.5",
            "community": "news",
            "author": "troll",
            "external_id": "7",
            "context": {"title": "A thread", "parent": "What do you think?"},
            "callback_url": "https://platform.example/hook",
        },
    )
    assert (waiting["outcome"], waiting["confidence"]) == ("human_review", 0.5)
    assert waiting["reasons"][0]["threshold"] == pytest.approx(0.2)
    item = QueueItem.objects.get(pk=waiting["queue_id"])
    assert item.submission.context["title"] == "A thread"
    assert platform.post("moderate", {"text": "threat=0.5", "external_id": "7"}) == waiting
    edited = platform.post("moderate", {"text": "other", "external_id": "7"})
    assert (waiting["revision"], edited["revision"]) == (1, 2)


def test_appeal_with_first_token_after_a_lead_confirmed_the_rejection(platform: Caller, lea: User) -> None:
    rejected = platform.post("moderate", {"text": "threat=0.99"})
    decision = Decision.objects.get(submission=rejected["id"])
    item = actions.send_to_review(decision=decision, by=lea)
    assert item is not None
    confirmed = decide_item(item, lea).decision
    appeal = platform.post("appeals", {"token": rejected["appeal_token"]}, 201)
    assert appeal["decision_id"] == confirmed.pk


def test_appeal_with_token_of_rejection(platform: Caller) -> None:
    rejected = platform.post("moderate", {"text": "threat=0.99"})
    appeal = platform.post("appeals", {"token": rejected["appeal_token"], "text": "It was a quotation."}, 201)
    assert appeal["status"] == "open"
    assert QueueItem.objects.get(pk=appeal["queue_id"]).kind == "appeal"
    assert "already" in platform.post("appeals", {"token": rejected["appeal_token"]}, 400)["detail"]
    assert "not valid" in platform.post("appeals", {"token": "forged"}, 400)["detail"]
    platform.post("appeals", {}, 400)
    error = platform.post("appeals", {"decision_id": 0}, 400)
    assert error["detail"] == "There is no such decision."
    assert "errors" not in error, "the error is about no field"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "text"),
        ({"text": " "}, "text"),
        ({"text": "a", "colour": "red"}, "colour"),
        ({"text": "a", "context": {"mood": "bad"}}, "context.mood"),
        ({"text": "a", "callback_url": "not a url"}, "callback_url"),
        ({"text": "a", "callback_url": "javascript:alert(1)"}, "callback_url"),
        ({"text": "a", "callback_url": "http://localhost:8000/hook"}, "callback_url"),
        ({"text": "a", "callback_url": "https://10.0.0.7/hook"}, "callback_url"),
        ({"text": "a", "callback_url": "https://[::1]/hook"}, "callback_url"),
        ({"text": "a", "callback_url": "ftp://platform.example/hook"}, "callback_url"),
        ({"text": "a", "external_id": "x" * 201}, "external_id"),
    ],
)
def test_moderate_rejects_invalid_field(platform: Caller, body: dict[str, Any], field: str) -> None:
    assert platform.post("moderate", body, 400)["errors"][0]["field"] == field


def test_moderate_callback_url_needs_api_key(client: Client, platform: Caller) -> None:
    anonymous = Caller(client, "")
    anonymous.post("moderate", {"text": "fine"})
    anonymous.post("moderate", {"text": "fine", "callback_url": "https://platform.example/"}, 400)


def test_moderate_without_policy_names_command(client: Client, model: ModelVersion) -> None:
    Policy.objects.all().delete()
    platform = Caller(client, create_api_key(actor=SYSTEM, name="platform")[1])
    assert "install_default_policy" in platform.post("moderate", {"text": "fine"}, 400)["detail"]


def test_queue_actions_are_those_of_the_moderator(as_ann: Caller, as_ben: Caller, ann: User) -> None:
    item = create_queue_item("insult=0.7 you fool", community="news")
    claimed = as_ann.post(f"moderation/queue/{item.pk}/claim")
    assert (claimed["lease"]["by"], claimed["text"]) == ("ann", "insult=0.7 you fool")
    assert "ann is reviewing this" in as_ben.post(f"moderation/queue/{item.pk}/claim", status=409)["detail"]
    assert as_ben.post("moderation/queue/claim", status=204) is None
    decided = as_ann.post(
        f"moderation/queue/{item.pk}/decide",
        {"action": "reject", "version": claimed["version"], "labels": {"insult": True}, "note": "clear"},
    )
    assert (decided["by"], decided["item_status"], decided["reason"]) == (
        "ann",
        "rejected",
        item.default_rule().reason,
    )  # type: ignore[union-attr]
    decision = Decision.objects.get(pk=decided["id"])
    assert (decision.by, decision.api_key.name) == (ann, "ann's")  # type: ignore[union-attr]
    lost = as_ben.post(f"moderation/queue/{item.pk}/decide", {"action": "approve", "version": 2}, 409)
    assert "Already handled by ann: rejected 0 s ago" in lost["detail"]
    again = {"action": "approve", "version": claimed["version"]}
    response = as_ann.post(f"moderation/queue/{item.pk}/decide", again, 409)
    assert "You rejected this 0 s ago" in response["detail"]
    undo = f"moderation/decisions/{decided['id']}/undo"
    assert "Only ann or a lead" in as_ben.post(undo, status=403)["detail"]
    undone = as_ann.post(undo)
    assert (undone["action"], undone["item_status"]) == ("reverse", "open")
    assert undone["reverses"] == decided["id"]
    assert "You undid this decision 0 s ago." in as_ann.post(undo, status=409)["detail"]
    assert "undo itself" in as_ann.post(f"moderation/decisions/{undone['id']}/undo", status=400)["detail"]
    as_ann.post(f"moderation/queue/{item.pk}/release")
    assert as_ben.post("moderation/queue/claim")["id"] == item.pk


def test_decide_similar_and_undo_similar(as_ann: Caller, ann: User) -> None:
    items = [create_queue_item("insult=0.7 the same words again") for _ in range(4)]
    claimed = as_ann.post(f"moderation/queue/{items[0].pk}/claim")
    assert claimed["similar"] == 3
    decided = as_ann.post(
        f"moderation/queue/{items[0].pk}/decide",
        {"action": "approve", "version": claimed["version"], "similar": True},
    )
    assert decided["decided"] == 4
    applied = Decision.objects.filter(applied_from=decided["id"])
    assert applied.count() == 3
    actions.undo(decision_id=applied[0].pk, user=ann)
    undone = as_ann.post(f"moderation/decisions/{decided['id']}/undo", {"similar": True})
    assert (undone["decided"], undone["not_undone"]) == (3, [])
    assert QueueItem.objects.open().count() == 4
    as_ann.post(f"moderation/decisions/{decided['id']}/undo", {"all": True}, 400)


def test_escalate_leaves_out_similar_items(as_ann: Caller) -> None:
    items = [create_queue_item("insult=0.7 the same words again") for _ in range(2)]
    body = {"action": "escalate", "version": 1, "similar": True}
    assert as_ann.post(f"moderation/queue/{items[0].pk}/decide", body)["decided"] == 1
    assert QueueItem.objects.get(queue="escalated") == items[0]


def test_undo_without_similar_keeps_other_decisions(as_ann: Caller) -> None:
    items = [create_queue_item("insult=0.7 the same words again") for _ in range(2)]
    body = {"action": "approve", "version": 1, "similar": True}
    decided = as_ann.post(f"moderation/queue/{items[0].pk}/decide", body)
    as_ann.post(f"moderation/decisions/{decided['id']}/undo")
    assert list(QueueItem.objects.open()) == [items[0]]


def test_undo_of_cluster_leaves_other_decisions_with_zero_seconds(as_ann: Caller) -> None:
    """An API client that sends `seconds: 0` makes no decision part of a cluster."""
    decide = {"action": "approve", "version": 1}
    clusters = []
    for _ in range(2):
        items = [create_queue_item("insult=0.7 the same words again") for _ in range(3)]
        url = f"moderation/queue/{items[0].pk}/decide"
        clusters.append((items, as_ann.post(url, decide | {"seconds": 0, "similar": True})))
    single = create_queue_item("insult=0.7 the same words again")
    as_ann.post(f"moderation/queue/{single.pk}/decide", decide | {"seconds": 0})
    for items, first in clusters:
        undone = as_ann.post(f"moderation/decisions/{first['id']}/undo", {"similar": True})
        assert (undone["decided"], undone["not_undone"]) == (3, [])
        assert {item.pk for item in items} <= set(QueueItem.objects.open().values_list("pk", flat=True))
    single.refresh_from_db()
    assert single.status == "approved"
    assert Decision.objects.filter(action="reverse").count() == 6


def test_decide_rejects_rule_of_other_policy(as_ann: Caller) -> None:
    item = create_queue_item("insult=0.7")
    claimed = as_ann.post(f"moderation/queue/{item.pk}/claim")
    body = {"action": "reject", "version": claimed["version"], "reason": 0}
    assert "Insults" in as_ann.post(f"moderation/queue/{item.pk}/decide", body, 400)["detail"]


def test_queue_filters_and_pages(as_ann: Caller) -> None:
    create_queue_item("threat=0.9 grave", community="news")
    for number in range(120):
        create_queue_item(f"insult=0.7 number {number}", community="games")
    seen: list[int] = []
    page = as_ann.get("moderation/queue")
    assert page["results"][0]["label"] == "threat"
    while True:
        seen += [row["id"] for row in page["results"]]
        if page["next"] is None:
            break
        page = as_ann.get(page["next"])
    assert len(seen) == len(set(seen)) == 121
    assert len(as_ann.get("moderation/queue?label=threat")["results"]) == 1
    assert len(as_ann.get("moderation/queue?community=news&queue=urgent")["results"]) == 1
    assert as_ann.get("moderation/queue?status=rejected")["results"] == []
    assert as_ann.get("moderation/queue?mine=true")["results"] == []
    as_ann.get("moderation/queue?queue=unknown", 400)
    as_ann.get("moderation/queue?colour=red", 400)
    as_ann.get("moderation/queue?cursor=forged", 404)


def test_queue_query_count(
    as_ann: Caller, ann: User, django_assert_max_num_queries: DjangoAssertNumQueries
) -> None:
    for number in range(30):
        create_queue_item(f"insult=0.7 number {number}", author_ref=f"author {number}")
    for item in QueueItem.objects.all()[:5]:
        decide_item(item, ann, "escalate")
    as_ann.get("moderation/queue")
    with django_assert_max_num_queries(7):
        as_ann.get("moderation/queue")
    with django_assert_max_num_queries(16):
        as_ann.post("moderation/queue/claim")


def test_queue_item_blind_review_hides_scores(as_ann: Caller, as_ben: Caller) -> None:
    Policy.objects.update(second_review_share=1)
    item = create_queue_item("insult=0.7 you")
    claimed = as_ann.post(f"moderation/queue/{item.pk}/claim")
    as_ann.post(f"moderation/queue/{item.pk}/decide", {"action": "reject", "version": claimed["version"]})
    blind = as_ben.post("moderation/queue/claim")
    assert blind["kind"] == "second"
    assert (blind["score"], blind["label"], blind["probabilities"]) == (None, None, None)
    assert "insult" not in blind["priority_explanation"]


def test_queue_says_you_to_the_moderator_who_escalated(as_ann: Caller, as_ben: Caller) -> None:
    item = create_queue_item("insult=0.7 you")
    claimed = as_ann.post(f"moderation/queue/{item.pk}/claim")
    as_ann.post(f"moderation/queue/{item.pk}/decide", {"action": "escalate", "version": claimed["version"]})
    for platform, escalated_by in ((as_ann, "you"), (as_ben, "a colleague")):
        expected = f"Escalated by {escalated_by} · "
        assert platform.get(f"moderation/queue/{item.pk}")["priority_explanation"].startswith(expected)
        assert platform.get("moderation/queue")["results"][0]["priority_explanation"].startswith(expected)


def test_queue_hides_restricted_communities(as_ann: Caller, ann: User) -> None:
    item = create_queue_item("insult=0.7", community="secret")
    restrict_to_communities(ann, "news")
    assert as_ann.get("moderation/queue")["results"] == []
    as_ann.get(f"moderation/queue/{item.pk}", 404)
    for verb in ("claim", "release"):
        as_ann.post(f"moderation/queue/{item.pk}/{verb}", status=404)


def test_queue_rejects_keys_without_moderator_or_scope(
    client: Client, platform: Caller, person: Callable[..., User]
) -> None:
    item = create_queue_item("insult=0.7")
    assert "has no moderator" in platform.get("moderation/queue", 403)["detail"]
    Caller(client, "").get("moderation/queue", 401)
    for scopes, user, status in (
        ([Scope.PREDICT], person("max"), 403),
        ([Scope.MODERATE], person("val", "viewer"), 200),
    ):
        platform = Caller(
            client, create_api_key(actor=SYSTEM, name="k", scopes=list(scopes), acts_as=user)[1]
        )
        platform.get("moderation/queue", status)
        platform.post(f"moderation/queue/{item.pk}/claim", status=403)
    assert not Decision.objects.exists()


def test_moderation_stats(as_ann: Caller) -> None:
    item = create_queue_item("insult=0.7")
    claimed = as_ann.post(f"moderation/queue/{item.pk}/claim")
    as_ann.post(f"moderation/queue/{item.pk}/decide", {"action": "approve", "version": claimed["version"]})
    create_queue_item("threat=0.9")
    stats = as_ann.get("moderation/stats")
    counts = {view["view"]: view["count"] for view in stats["views"]}
    assert (counts["all"], counts["urgent"], counts["mine"]) == (1, 1, 0)
    assert stats["moderator"]["actions"] == {"approve": 1, "reject": 0, "escalate": 0}
    assert stats["appeals"]["open"] == 0


def test_decision_creates_webhook(platform: Caller, as_ann: Caller) -> None:
    sent = platform.post(
        "moderate",
        {"text": "insult=0.7", "external_id": "9", "callback_url": "https://platform.example/hook"},
    )
    claimed = as_ann.post(f"moderation/queue/{sent['queue_id']}/claim")
    as_ann.post(
        f"moderation/queue/{sent['queue_id']}/decide", {"action": "reject", "version": claimed["version"]}
    )
    delivery = Delivery.objects.get()
    assert delivery.payload["external_id"] == "9"
    assert delivery.api_key == APIKey.objects.get(name="platform")
    appeal = platform.post("appeals", {"decision_id": delivery.decision_id}, 201)
    assert appeal["decision_id"] == delivery.decision_id
    assert actions.due_endpoints() == []


@pytest.mark.parametrize("seconds", [1e300, 86_401, -1, "nan"])
def test_decide_refuses_impossible_durations(as_ann: Caller, seconds: Any) -> None:
    item = create_queue_item("insult=0.7")
    claimed = as_ann.post(f"moderation/queue/{item.pk}/claim")
    body = {"action": "approve", "version": claimed["version"], "seconds": seconds}
    problem = as_ann.post(f"moderation/queue/{item.pk}/decide", body, 400)
    assert [error["field"] for error in problem["errors"]] == ["seconds"]
    assert not Decision.objects.exists()


def test_request_that_is_no_object_is_named(platform: Caller) -> None:
    assert "The request must be a JSON object." in str(platform.post("moderate", ["x"], 400))
    problem = platform.post("moderate", {"text": "x", "context": ["x"]}, 400)
    assert "This must be a JSON object." in str(problem)
    feedback = {"prediction_id": str(uuid4()), "is_right": False, "labels": ["toxic"]}
    problem = platform.post("feedback", feedback, 400)
    assert "This must be a JSON object with true or false for each label." in str(problem)


def test_comment_in_language_that_is_not_scored_has_no_label(platform: Caller, as_ann: Caller) -> None:
    Policy.objects.update(review_other_languages=True)
    held = platform.post("moderate", {"text": "ขอบคุณมากครับ สำหรับความช่วยเหลือทั้งหมด threat=0.04"})
    assert (held["outcome"], held["confidence"]) == ("human_review", 0.0)
    assert held["reasons"] == [
        {
            "label": "",
            "title": "Language",
            "reason": "The model does not score comments in this language.",
            "probability": 0.0,
            "threshold": 0.0,
        }
    ]
    (item,) = as_ann.get("moderation/queue")["results"]
    assert (item["label"], item["score"]) == (None, None)
    assert item["priority_explanation"] == "Language not scored"
