"""The OpenAI-compatible API as its clients see it."""

import json
from typing import Any
from unittest.mock import patch

import pytest
from django.db import OperationalError
from django.test import Client
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pytest_django import Settings

from apps.accounts.actions import create_api_key
from apps.api.error_responses import error_response
from apps.api.openai.categories import CATEGORIES, SCORED, build_result
from apps.classifier.labels import LABELS
from apps.core.permissions import SYSTEM
from apps.predictions.models import Prediction, pack_labels
from apps.registry.exceptions import NoModelError

pytestmark = [pytest.mark.django_db, pytest.mark.database]

PATH = "/v1/moderations"
RUDE = "You are a stupid idiot and everybody hates you."
KIND = "Thank you for the careful explanation, it helped me a lot."
MASK = [label in ("toxic", "threat") for label in LABELS]
IMAGE = {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}


def post(client: Client, body: Any, **kwargs: Any) -> Any:
    data = body if isinstance(body, bytes) else json.dumps(body)
    return client.post(PATH, data, content_type="application/json", **kwargs)


def assert_error(
    response: Any,
    status: int,
    kind: str = "invalid_request_error",
    param: str | None = None,
    code: str | None = None,
) -> str:
    assert response.status_code == status, response.content
    assert response["Content-Type"].startswith("application/json")
    (error,) = response.json().values()
    assert error == {"message": error["message"], "type": kind, "param": param, "code": code}
    return error["message"]


def test_moderations_scores_string(client: Client) -> None:
    body = post(client, {"model": "omni-moderation-latest", "input": RUDE}).json()
    prediction = Prediction.objects.get()
    assert body["id"] == f"modr-{prediction.pk}"
    assert body["model"] == f"toxicmod-{prediction.model_version.number}"
    (result,) = body["results"]
    assert result["flagged"] is True
    for name in ("categories", "category_scores", "category_applied_input_types"):
        assert tuple(result[name]) == CATEGORIES
    assert result["categories"]["harassment"] is True
    assert result["category_scores"]["harassment"] == pytest.approx(prediction.insult)
    assert result["categories"]["hate"] is False
    assert (prediction.source, prediction.text, prediction.api_key) == ("openai", RUDE, None)


def test_moderations_scores_list_of_strings(client: Client) -> None:
    results = post(client, {"input": [KIND, RUDE]}).json()["results"]
    assert [result["flagged"] for result in results] == [False, True]
    assert Prediction.objects.count() == 2


def test_moderations_joins_text_parts(client: Client) -> None:
    parts = [{"type": "text", "text": KIND}, {"type": "text", "text": RUDE}]
    (result,) = post(client, {"input": parts}).json()["results"]
    assert result["flagged"] is True
    assert Prediction.objects.get().text == f"{KIND}\n{RUDE}"


def test_moderations_stores_no_text_with_do_not_store(client: Client) -> None:
    assert post(client, {"input": RUDE, "do_not_store": True}).status_code == 200
    assert Prediction.objects.get().text is None


def test_moderations_rejects_image_parts(client: Client) -> None:
    response = post(client, {"input": [{"type": "text", "text": KIND}, IMAGE]})
    assert "images" in assert_error(response, 400, param="input", code="unsupported_input")
    assert not Prediction.objects.exists()


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "input"),
        ({"input": None}, "input"),
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": 5}, "input"),
        ({"input": {"type": "text", "text": KIND}}, "input"),
        ({"input": [KIND, " "]}, "input[1]"),
        ({"input": [KIND, {"type": "text", "text": KIND}]}, "input[1]"),
        ({"input": [{"type": "text", "text": KIND}, KIND]}, "input[1]"),
        ({"input": [{"type": "text"}]}, "input[0]"),
        ({"input": [{"type": 1}]}, "input[0]"),
        ({"input": "a\0b"}, "input"),
        ({"input": "é" * 10_241}, "input"),
        ({"input": [KIND] * 1_001}, "input"),
        ({"input": KIND, "model": 1}, "model"),
        ({"input": KIND, "modle": "a"}, "modle"),
        ([], None),
        (b"{", None),
        (b"", "input"),
    ],
)
def test_moderations_names_invalid_member(client: Client, body: Any, param: str | None) -> None:
    assert_error(post(client, body), 400, param=param)
    assert not Prediction.objects.exists()


def test_moderations_rejects_unknown_and_missing_keys(client: Client, settings: Settings) -> None:
    wrong = {"Authorization": "Bearer sk-wrong"}
    response = post(client, {"input": KIND}, headers=wrong)
    assert_error(response, 401, code="invalid_api_key")
    assert response["WWW-Authenticate"] == "Bearer"
    assert_error(
        post(client, {"input": KIND}, headers={"Authorization": "Basic x"}), 401, code="invalid_api_key"
    )
    settings.ANONYMOUS_API = False
    message = assert_error(post(client, {"input": KIND}), 401, code="invalid_api_key")
    assert "Authorization: Bearer" in message


def test_moderations_records_api_key(client: Client, settings: Settings) -> None:
    settings.ANONYMOUS_API = False
    key, secret = create_api_key(actor=SYSTEM, name="platform", scopes=["predict"])
    response = post(client, {"input": KIND}, headers={"Authorization": f"Bearer {secret}"})
    assert response.status_code == 200
    assert Prediction.objects.get().api_key == key


def test_moderations_rejects_key_without_scope(client: Client) -> None:
    _, secret = create_api_key(actor=SYSTEM, name="reader", scopes=["read"])
    response = post(client, {"input": KIND}, headers={"Authorization": f"Bearer {secret}"})
    assert "predict" in assert_error(response, 403, code="insufficient_permissions")


def test_moderations_limits_rate(client: Client) -> None:
    _, secret = create_api_key(actor=SYSTEM, name="slow", rate_per_minute=1)
    headers = {"Authorization": f"Bearer {secret}"}
    assert post(client, {"input": KIND}, headers=headers).status_code == 200
    response = post(client, {"input": KIND}, headers=headers)
    assert_error(response, 429, "requests", code="rate_limit_exceeded")
    assert int(response["Retry-After"]) > 0


def test_errors_of_the_server_have_the_format(client: Client) -> None:
    assert_error(client.get(PATH), 405)
    assert_error(client.post("/v1/chat/completions", "{}", content_type="application/json"), 404)
    assert_error(client.post(PATH, "input=a", content_type="application/x-www-form-urlencoded"), 415)
    with patch("apps.predictions.actions.score_batches", side_effect=NoModelError("None is served.")):
        assert_error(post(client, {"input": KIND}), 503, "server_error")
    with patch("apps.predictions.actions.score_batches", side_effect=OperationalError):
        assert_error(post(client, {"input": KIND}), 503, "server_error")
    client.raise_request_exception = False
    with patch("apps.predictions.actions.score_batches", side_effect=ZeroDivisionError):
        assert_error(post(client, {"input": KIND}), 500, "server_error")
    rejected = error_response(Prediction.Source.OPENAI, 503, "The server is overloaded.", 1)
    assert json.loads(rejected.content)["error"]["message"] == "The server is overloaded."
    assert rejected["Retry-After"] == "1"


def test_build_result_maps_labels_to_categories() -> None:
    probabilities = {"toxic": 0.9, "severe_toxic": 0.1, "obscene": 0.1, "insult": 0.2}
    prediction = Prediction(**probabilities, threat=0.8, identity_hate=0.6, label_mask=pack_labels(MASK))
    result = build_result(prediction)
    flagged = {"harassment", "harassment/threatening", "violence"}
    assert {name for name, applies in result["categories"].items() if applies} == flagged
    scored = {"harassment": 0.8, "harassment/threatening": 0.8, "hate": 0.6, "violence": 0.8}
    scored["hate/threatening"] = 0.6
    assert scored.keys() == SCORED
    assert result["category_scores"] == dict.fromkeys(CATEGORIES, 0.0) | scored
    assert {name for name, kinds in result["category_applied_input_types"].items() if kinds} == SCORED


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)
PARTS = st.lists(
    st.fixed_dictionaries({"type": st.sampled_from(["text", "image_url", 1])}, optional={"text": JSON})
)


@hypothesis_settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(body=JSON | st.fixed_dictionaries({"input": JSON | PARTS}, optional={"model": JSON}))
def test_moderations_answers_generated_bodies(client: Client, body: Any) -> None:
    response = post(client, body)
    assert response.status_code in (200, 400), response.content
    if response.status_code == 400:
        assert response.json()["error"]["type"] == "invalid_request_error"
