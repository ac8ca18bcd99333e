"""A Perspective call that is sent again is answered from the record, with and without review."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Barrier
from typing import Any
from unittest.mock import patch

import pytest
from django.db import connection
from django.db.models import QuerySet
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from apps.accounts.actions import create_api_key
from apps.accounts.models import User
from apps.core.permissions import SYSTEM
from apps.moderation.actions import install_default_policy
from apps.moderation.models import Policy, QueueItem, Submission
from apps.predictions.models import Feedback, Prediction
from apps.registry import serving
from apps.registry.actions import end_canary, promote, start_canary
from apps.registry.models import CanaryEnd, ModelVersion
from apps.training import labels
from toxicmod.testing.factories import promote_version, register_copy
from toxicmod.testing.perspective import (
    ANALYZE,
    IDIOT,
    analyze_json,
    analyze_request,
    batch_part,
    batch_responses,
    post_json,
    send_batch,
)

pytestmark = [pytest.mark.django_db, pytest.mark.database]


@pytest.fixture
def path(champion: Any) -> str:
    """The path with a key whose calls are all reviewed."""
    install_default_policy()
    rules = Policy.objects.active_for("").rules
    rules.update(reject_from=None, review_from=None)
    rules.filter(label="toxic").update(review_from=0.1)
    return f"{ANALYZE}?key={create_api_key(actor=SYSTEM, name='reviewed', review_perspective=True)[1]}"


@pytest.fixture
def plain_path(champion: Any) -> str:
    """The path with a key whose calls are only scored."""
    return f"{ANALYZE}?key={create_api_key(actor=SYSTEM, name='plain')[1]}"


@pytest.fixture
def suggest_path(plain_path: str) -> str:
    """The path for suggestions with a key whose calls are only scored."""
    return plain_path.replace(":analyze", ":suggestscore")


def suggestion(text: str = IDIOT, toxicity: float = 0.9, **more: Any) -> dict[str, Any]:
    """Return the body of a suggestscore request."""
    scores = {
        "TOXICITY": {"summaryScore": {"value": toxicity}},
        "INSULT": {"spanScores": [{"begin": 0, "end": 4, "score": {"value": 1}}]},
    }
    return {"comment": {"text": text}, "attributeScores": scores, "clientToken": "c-77", **more}


def test_retry_with_ordinary_key_is_stored_once(
    client: Client, plain_path: str, champion: ModelVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = analyze_request(clientToken="c-77", communityId="cats")
    first = post_json(client, body, plain_path)
    assert first.status_code == 200
    other = register_copy(champion)
    with patch.object(serving.current().scorer, "score", side_effect=AssertionError):
        retry = post_json(client, body, plain_path)
    assert retry.json() == first.json()
    promote(version=other, actor=SYSTEM, reason="a newer one", force=True)
    monkeypatch.setattr(serving._server, "_checked_at", float("-inf"))  # so that it notices the promotion
    after_promotion = post_json(client, body, plain_path)
    assert after_promotion.json() == first.json()
    assert after_promotion["X-Model-Version"] == first["X-Model-Version"] == str(champion.number)
    assert Prediction.objects.get().external_id == "c-77"
    post_json(client, analyze_request(clientToken="c-78"), plain_path)
    assert Prediction.objects.get(external_id="c-78").model_version == other


def test_retry_after_canary_ended_is_stored_once(
    client: Client, plain_path: str, champion: ModelVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("apps.registry.serving.CHECK_SECONDS", 0.0)
    canary = register_copy(champion)
    start_canary(version=canary, share=0.5, reason="a trial", actor=SYSTEM)
    texts = [f"What kind of idiot name is foo {number}?" for number in range(20)]
    for text in texts:
        post_json(client, analyze_request(text, clientToken=text), plain_path)
    assert Prediction.objects.filter(model_version=canary).exists()
    end_canary(actor=SYSTEM, outcome=CanaryEnd.Outcome.WITHDRAWN, reason="enough")
    for text in texts:
        post_json(client, analyze_request(text, clientToken=text), plain_path)
    assert Prediction.objects.count() == len(texts)


def test_retry_of_comment_that_replaced_champion_scored_is_stored_once(
    client: Client, plain_path: str, champion: ModelVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("apps.registry.serving.CHECK_SECONDS", 600.0)
    body = analyze_request(clientToken="c-77")
    promote_version(register_copy(champion))
    post_json(client, body, plain_path)
    monkeypatch.setattr(serving._server, "_checked_at", float("-inf"))  # so that it notices the promotion
    assert post_json(client, body, plain_path)["X-Model-Version"] == str(champion.number)
    assert Prediction.objects.get().model_version == champion


def test_spans_of_retry_come_from_version_of_header(
    client: Client, plain_path: str, champion: ModelVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("apps.registry.serving.CHECK_SECONDS", 0.0)
    text = "You are an idiot. Thank you for the soup."
    body = analyze_request(text, clientToken="c-77", spanAnnotations=True)
    first = post_json(client, body, plain_path)
    promote_version(register_copy(champion))
    serving.current().scorer.model.intercept[:] += 1.0
    retry = post_json(client, body, plain_path)
    assert retry["X-Model-Version"] == first["X-Model-Version"]
    assert retry.json() == first.json()


@pytest.mark.parametrize(
    ("text", "more"),
    [
        ("Another idiot", {"clientToken": "c-77"}),
        (IDIOT, {"clientToken": "c-78"}),
        (IDIOT, {"clientToken": "c-77", "communityId": "dogs"}),
        (IDIOT, {"clientToken": "c-77", "doNotStore": True}),
        (IDIOT, {}),
    ],
)
def test_other_comment_with_ordinary_key_is_stored(
    client: Client, plain_path: str, text: str, more: dict[str, Any]
) -> None:
    assert post_json(client, analyze_request(clientToken="c-77"), plain_path).status_code == 200
    for _ in range(2):
        assert post_json(client, analyze_request(text, **more), plain_path).status_code == 200
    assert Prediction.objects.count() == (2 if "clientToken" in more else 3)
    assert Prediction.objects.filter(text=None).count() == ("doNotStore" in more)


def test_pinned_version_is_no_retry_of_the_champion(
    client: Client, plain_path: str, champion: ModelVersion
) -> None:
    other = register_copy(champion)
    serving.pinned(other.number).scorer.model.intercept[:] += 1.0
    pinned = f"TOXICITY@{other.number}"
    for _ in range(2):
        for name in (pinned, "TOXICITY"):
            response = post_json(client, analyze_request(IDIOT, name, clientToken="c-77"), plain_path)
            number = other.number if name == pinned else champion.number
            assert response["X-Model-Version"] == str(number)
    assert set(Prediction.objects.values_list("model_version", flat=True)) == {champion.pk, other.pk}
    assert Prediction.objects.count() == 2


@pytest.mark.parametrize(("hours", "count"), [(1, 1), (23.9, 1), (24.1, 2)])
def test_token_of_ordinary_key_can_be_reused_after_a_day(
    client: Client, plain_path: str, hours: float, count: int
) -> None:
    now = timezone.now()
    for moment in (now, now + timedelta(hours=hours)):
        with patch("django.utils.timezone.now", return_value=moment):
            assert post_json(client, analyze_request(clientToken="c-77"), plain_path).status_code == 200
    assert Prediction.objects.count() == count


def test_batch_with_ordinary_key_stores_each_comment_once(client: Client, plain_path: str) -> None:
    line = f"POST {plain_path} HTTP/1.1"
    bodies = [analyze_json(f"{IDIOT} {n % 120}", clientToken="c-77") for n in range(240)]
    bodies.append(analyze_json(IDIOT))
    body = "".join(batch_part(f"<{n}>", json_body, line) for n, json_body in enumerate(bodies)) + "--b--"
    for _ in range(2):
        results = batch_responses(send_batch(client, body))
        assert [status for _, status, _ in results] == [200] * 241
        assert results[3][2] == results[123][2] != results[4][2]
    assert Prediction.objects.count() == 122


def test_retry_returns_stored_result_and_is_queued_once(client: Client, path: str) -> None:
    first, second = (
        post_json(client, analyze_request(clientToken="c-77", communityId="cats"), path) for _ in range(2)
    )
    assert first.status_code == 200
    assert first.json() == second.json()
    item = QueueItem.objects.get()
    assert item.submission.external_id == item.submission.prediction.external_id == "c-77"
    assert Prediction.objects.count() == 1


def test_session_and_conversation_are_kept(client: Client, path: str) -> None:
    parent = {"article": {"text": "An article"}, "parentComment": {"text": "What do you think?"}}
    body = analyze_request(sessionId="s-4", context={"articleAndParentComment": parent})
    assert post_json(client, body, path).status_code == 200
    submission = QueueItem.objects.get().submission
    assert submission.session_id == "s-4"
    assert submission.context == {"title": "An article", "parent": "What do you think?"}
    entries = {"entries": [{"text": "first"}, {"text": "second"}, {"text": ""}]}
    assert post_json(client, analyze_request("Another idiot", context=entries), path).status_code == 200
    assert QueueItem.objects.first().submission.context == {"parent": "second"}


def test_retry_with_other_attributes(client: Client, path: str) -> None:
    post_json(client, analyze_request(clientToken="c-77"), path)
    response = post_json(
        client, analyze_request(IDIOT, "TOXICITY", "INSULT", clientToken="c-77", spanAnnotations=True), path
    )
    assert set(response.json()["attributeScores"]) == {"TOXICITY", "INSULT"}
    assert Prediction.objects.count() == 1


@pytest.mark.parametrize(
    ("other", "more"),
    [
        ("Another idiot", {"clientToken": "c-77"}),
        (IDIOT, {"clientToken": "c-78"}),
        (IDIOT, {"clientToken": "c-77", "communityId": "dogs"}),
        (IDIOT, {}),
    ],
)
def test_other_comment_is_no_retry(client: Client, path: str, other: str, more: dict[str, str]) -> None:
    assert post_json(client, analyze_request(clientToken="c-77"), path).status_code == 200
    assert post_json(client, analyze_request(other, **more), path).status_code == 200
    assert QueueItem.objects.count() == 2


def test_comments_without_token_are_all_queued(client: Client, path: str) -> None:
    for _ in range(2):
        assert post_json(client, analyze_request(), path).status_code == 200
    assert QueueItem.objects.count() == 2


def test_token_is_scoped_to_key_and_interface(client: Client, path: str) -> None:
    post_json(client, analyze_request(clientToken="c-77"), path)
    other, secret = create_api_key(actor=SYSTEM, name="other", review_perspective=True)
    assert (
        post_json(client, analyze_request(clientToken="c-77"), f"{ANALYZE}?key={secret}").status_code == 200
    )
    moderate = {"text": "Another comment, idiot", "external_id": "c-77"}
    headers = {"Authorization": f"Api-Key {secret}"}
    for _ in range(2):
        response = post_json(client, moderate, "/api/v1/moderate", headers=headers)
        assert response.status_code == 200, response.content
    assert QueueItem.objects.count() == 3
    assert (
        post_json(client, analyze_request(clientToken="c-77"), f"{ANALYZE}?key={secret}").status_code == 200
    )
    assert QueueItem.objects.filter(submission__api_key=other).count() == 2


@pytest.mark.parametrize(
    ("hours", "count"), [(0, 1), (1, 1), (12, 1), (23.9, 1), (24.1, 2), (47, 2), (72, 2)]
)
@pytest.mark.parametrize("begin", [0, 6, 12, 23])  # o'clock
def test_token_can_be_reused_after_a_day(
    client: Client, path: str, begin: int, hours: float, count: int
) -> None:
    first = timezone.now().replace(hour=begin, minute=30) - timedelta(days=5)
    for moment in (first, first + timedelta(hours=hours)):
        with patch("django.utils.timezone.now", return_value=moment):
            assert post_json(client, analyze_request(clientToken="c-77"), path).status_code == 200
        QuerySet(Submission).filter(created_at__gt=first + timedelta(days=4)).update(created_at=moment)
    assert Submission.objects.count() == count


def test_same_request_twice_in_batch_is_queued_once(client: Client, path: str) -> None:
    line = f"POST {path} HTTP/1.1"
    body = (
        "".join(batch_part(f"<{n}>", analyze_json(IDIOT, clientToken="c-77"), line) for n in range(3))
        + "--b--"
    )
    results = batch_responses(send_batch(client, body))
    assert [status for _, status, _ in results] == [200] * 3
    assert results[0][2] == results[2][2]
    assert QueueItem.objects.count() == Prediction.objects.count() == 1


def test_console_search_finds_comments_of_token(
    client: Client, path: str, person: Callable[..., User]
) -> None:
    for text in ("You idiot", "He is an idiot"):
        post_json(client, analyze_request(text, clientToken="site-7"), path)
    user = person("ann")
    user.is_staff = True
    user.save()
    client.force_login(user)
    page = client.get(reverse("admin:moderation_search"), {"q": "site-7"})
    assert page.status_code == 200, page.headers
    assert set(page.context["items"]) == set(QueueItem.objects.all())
    assert len(page.context["items"]) == 2


def post_concurrently(body: dict[str, Any], path: str) -> list[Any]:
    """Send a body eight times at once; return the responses, which all have the status 200."""
    count = 8
    barrier = Barrier(count)

    def call(_: int) -> Any:
        try:
            barrier.wait()
            return post_json(Client(), body, path)
        finally:
            connection.close()

    with ThreadPoolExecutor(count) as pool:
        responses = list(pool.map(call, range(count)))
    assert [response.status_code for response in responses] == [200] * count
    return responses


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("is_reviewed", [True, False])
def test_concurrent_retries_are_stored_and_queued_once(path: str, plain_path: str, is_reviewed: bool) -> None:
    path = path if is_reviewed else plain_path
    responses = post_concurrently(analyze_request(clientToken="c-77"), path)
    assert all(response.json() == responses[0].json() for response in responses)
    assert Prediction.objects.count() == 1
    assert QueueItem.objects.count() == is_reviewed


def test_repeated_suggestion_is_stored_once(client: Client, suggest_path: str) -> None:
    first, retry = (post_json(client, suggestion(communityId="cats"), suggest_path) for _ in range(2))
    assert first.status_code == retry.status_code == 200
    assert first.json() == retry.json() == {"clientToken": "c-77", "detectedLanguages": ["en"]}
    feedback = Feedback.objects.get()
    assert feedback.true_labels == {"toxic": True, "insult": True}
    assert feedback.remark == "Suggested: INSULT 0, TOXICITY 0.9"
    assert Prediction.objects.get() == feedback.prediction
    body = suggestion(communityId="cats")
    body["attributeScores"] = dict(reversed(body["attributeScores"].items()))
    assert post_json(client, body, suggest_path).json() == first.json()
    assert Feedback.objects.count() == 1


@pytest.mark.parametrize(
    ("body", "count"),
    [
        (suggestion("Another idiot"), 2),
        (suggestion(toxicity=0.8), 2),
        (suggestion(toxicity=0.1), 2),
        (suggestion(clientToken="c-78"), 2),
        (suggestion(communityId="dogs"), 2),
        (suggestion(attributeScores={"TOXICITY": {"summaryScore": {"value": 0.9}}}), 2),
        (suggestion(clientToken=""), 3),  # without a token a repetition can't be recognized
    ],
)
def test_other_suggestion_is_stored(
    client: Client, suggest_path: str, body: dict[str, Any], count: int
) -> None:
    assert post_json(client, suggestion(), suggest_path).status_code == 200
    for _ in range(2):
        assert post_json(client, body, suggest_path).status_code == 200
    assert Feedback.objects.count() == count


def test_suggestion_of_another_key_is_stored(client: Client, suggest_path: str) -> None:
    other = create_api_key(actor=SYSTEM, name="other")[1]
    for path in (suggest_path, f"{suggest_path.partition('?')[0]}?key={other}", suggest_path):
        assert post_json(client, suggestion(), path).status_code == 200
    assert list(Feedback.objects.order_by("pk").values_list("api_key__name", flat=True)) == ["plain", "other"]


@pytest.mark.parametrize(("hours", "count"), [(23.9, 1), (24.1, 2)])
def test_suggestion_can_be_repeated_after_a_day(
    client: Client, suggest_path: str, hours: float, count: int
) -> None:
    now = timezone.now()
    for moment in (now, now + timedelta(hours=hours)):
        with patch("django.utils.timezone.now", return_value=moment):
            assert post_json(client, suggestion(), suggest_path).status_code == 200
    assert Feedback.objects.count() == Prediction.objects.count() == count


@pytest.mark.django_db(transaction=True)
def test_concurrent_suggestions_are_stored_once(suggest_path: str) -> None:
    responses = post_concurrently(suggestion(), suggest_path)
    assert [response.json() for response in responses] == [
        {"clientToken": "c-77", "detectedLanguages": ["en"]}
    ] * len(responses)
    assert Feedback.objects.count() == Prediction.objects.count() == 1


@pytest.mark.parametrize(("values", "count"), [((0, 1, 0), 3), ((1, 1), 1), ((0, 1, 1), 2)])
def test_suggestion_that_returns_to_an_earlier_value_counts(
    client: Client, suggest_path: str, values: tuple[int, ...], count: int
) -> None:
    for value in values:
        body = suggestion(attributeScores={"TOXICITY": {"summaryScore": {"value": value}}})
        assert post_json(client, body, suggest_path).status_code == 200
    assert Feedback.objects.count() == count
    (event,) = labels.latest_per_text(None)
    assert bool(labels.resolve_labels(event)) == values[-1]


def test_suggestion_about_another_label_does_not_end_a_retry(client: Client, suggest_path: str) -> None:
    for attribute in ("TOXICITY", "INSULT", "TOXICITY"):
        body = suggestion(attributeScores={attribute: {"summaryScore": {"value": 1}}})
        assert post_json(client, body, suggest_path).status_code == 200
    assert Feedback.objects.count() == 2
