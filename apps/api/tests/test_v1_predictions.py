"""`/api/v1/` as its clients see it."""

import json
import time
from datetime import timedelta
from typing import Any
from unittest.mock import patch

import numpy as np
import openapi_spec_validator
import pytest
from django.db import DataError, OperationalError, ProgrammingError, connection
from django.db.migrations.recorder import MigrationRecorder
from django.test import Client
from django.utils import timezone
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pytest_django import DjangoAssertNumQueries, Settings

from apps.accounts.actions import LOOKUP_SECONDS, create_api_key, revoke_api_key
from apps.accounts.models import APIKey
from apps.classifier.labels import LABELS
from apps.core import database
from apps.core.permissions import SYSTEM
from apps.monitoring.actions import roll_up
from apps.predictions import bulk_insert
from apps.predictions.models import Feedback, Prediction
from apps.registry import serving
from apps.registry.models import ModelVersion
from toxicmod.testing.factories import register_copy
from toxicmod.testing.perspective import analyze_request, post_json

pytestmark = [pytest.mark.django_db, pytest.mark.database]

RUDE = "You are a stupid idiot and everybody hates you."
ANALYZE = {"comment": {"text": "x"}, "requestedAttributes": {"TOXICITY": {}}}
KIND = "Thank you for the careful explanation, it helped me a lot."


def post(client: Client, path: str, body: Any, **kwargs: Any) -> Any:
    data = body if isinstance(body, bytes) else json.dumps(body)
    return client.post(f"/api/v1/{path}", data, content_type="application/json", **kwargs)


def assert_problem(response: Any, status: int, field: str | None = None) -> dict[str, Any]:
    assert response.status_code == status, response.content
    assert response["Content-Type"] == "application/problem+json"
    body = json.loads(response.content)
    assert body["status"] == status
    assert body["title"]
    assert body["detail"]
    if field == "":
        assert all(error["field"] for error in body.get("errors", ())), body
    elif field is not None:
        assert field in {error["field"] for error in body["errors"]}, body
    return body


def test_predict_returns_labels(client: Client) -> None:
    response = post(client, "predict", {"text": RUDE})
    body = response.json()
    assert response.status_code == 200
    assert set(body) == {"id", "labels", "is_toxic", "model_version"}
    assert list(body["labels"]) == list(LABELS)
    assert body["labels"]["toxic"] is True
    assert body["labels"]["threat"] is False
    assert body["is_toxic"] is True
    assert post(client, "predict", {"text": KIND}).json()["is_toxic"] is False


def test_predict_proba_returns_probabilities_of_served_model(client: Client) -> None:
    body = post(client, "predict_proba", {"text": RUDE}).json()
    expected = serving.current().scorer.score(RUDE)
    assert list(body["probabilities"].values()) == pytest.approx(expected.tolist(), abs=1e-12)
    assert body["max_probability"] == max(body["probabilities"].values())
    assert body["model_version"] == serving.current().number


def test_predict_texts_keeps_order_and_inserts_once(
    client: Client, django_assert_max_num_queries: DjangoAssertNumQueries
) -> None:
    texts = [RUDE, KIND, *[f"Comment number {n}" for n in range(98)]]
    serving.current()
    with django_assert_max_num_queries(4):  # a savepoint, its release and one insert
        results = post(client, "predict_proba", {"texts": texts}).json()["results"]
    stored = Prediction.objects.in_bulk()
    assert [stored_by.text for stored_by in (Prediction.objects.get(pk=r["id"]) for r in results)] == texts
    assert len(stored) == 100
    single = post(client, "predict_proba", {"text": RUDE}).json()
    assert results[0]["probabilities"] == pytest.approx(single["probabilities"], abs=1e-9)


def test_predict_stores_response(client: Client, api_key: tuple[APIKey, str], auth: dict[str, Any]) -> None:
    request = {"text": RUDE, "external_id": "c-17", "community": "cats"}
    body = post(client, "predict_proba", request, **auth).json()
    stored = Prediction.objects.get(pk=body["id"])
    assert stored.pk.version == 7
    assert (stored.text, stored.external_id, stored.community) == (RUDE, "c-17", "cats")
    assert stored.api_key == api_key[0]
    assert stored.source == "api"
    assert stored.probabilities == body["probabilities"]
    assert stored.labels == body["labels"]
    assert stored.latency_us > 0
    record = client.get(f"/api/v1/predictions/{body['id']}", **auth).json()
    assert record["text"] == RUDE
    assert record["probabilities"] == body["probabilities"]
    assert record["model_version"] == body["model_version"]


def test_predict_do_not_store_omits_text(client: Client) -> None:
    body = post(client, "predict_proba", {"text": "a secret sentence", "do_not_store": True}).json()
    stored = Prediction.objects.get(pk=body["id"])
    assert stored.text is None
    assert stored.probabilities == body["probabilities"]
    assert len(stored.text_hash) == 64


def test_explain_sums_to_logit(client: Client) -> None:
    body = post(client, "predict_proba", {"text": RUDE, "explain": True}).json()
    explanation = body["explanation"]
    for label in LABELS:
        spans = sum(span["contributions"][label] for span in explanation["spans"])
        logit = explanation["intercept"][label] + spans + explanation["adjustment"][label]
        assert logit == pytest.approx(explanation["logit"][label], abs=1e-6)
        assert 1 / (1 + np.exp(-explanation["logit"][label])) == pytest.approx(
            body["probabilities"][label], abs=1e-6
        )
    top_span = max(explanation["spans"], key=lambda span: span["contributions"]["toxic"])
    assert RUDE[top_span["begin"] : top_span["end"]].strip().lower() in RUDE.lower()


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "text"),
        ({"text": ""}, "text"),
        ({"text": "  \n"}, "text"),
        ({"text": None}, "text"),
        ({"text": 7}, "text"),
        ({"text": True}, "text"),
        ({"text": ["a"]}, "text"),
        ({"text": "a\0b"}, "text"),
        (b'{"text": "half \\ud83d"}', "text"),
        ({"text": "x" * 20_481}, "text"),
        ({"text": "é" * 10_241}, "text"),
        ({"text": "a", "texts": ["b"]}, "text"),
        ({"texts": []}, "texts"),
        ({"texts": ["a"] * 1_001}, "texts"),
        ({"texts": "abc"}, "texts"),
        ({"texts": ["fine", ""]}, "texts.1"),
        ({"texts": ["fine"], "external_ids": ["1", "2"]}, "external_ids"),
        ({"texts": ["fine"], "external_id": "1"}, "external_id"),
        ({"text": "fine", "external_id": "x" * 201}, "external_id"),
        ({"text": "fine", "community": 3}, "community"),
        ({"text": "fine", "do_not_store": "yes"}, "do_not_store"),
        ({"text": "fine", "do_not_store": 1}, "do_not_store"),
        ({"text": "fine", "tekst": "x"}, "tekst"),
        ([1, 2], ""),
        ("text", ""),
        (None, ""),
    ],
)
def test_predict_invalid_field_is_named_and_nothing_stored(client: Client, body: Any, field: str) -> None:
    assert_problem(post(client, "predict", body), 400, field)
    assert not Prediction.objects.exists()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"text": "\xff\xfe"}',
        b'{"text": NaN}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
    ],
)
def test_predict_invalid_json_returns_problem(client: Client, body: bytes) -> None:
    assert_problem(post(client, "predict", body), 400)


def test_predict_rejects_size_and_content_type(client: Client) -> None:
    assert post(client, "predict", {"text": "x" * 20_480}).status_code == 200
    assert_problem(post(client, "predict", b'{"text": "' + b"x" * 10_000_000 + b'"}'), 413)
    assert_problem(client.post("/api/v1/predict", {"text": "form"}), 415)
    assert_problem(client.get("/api/v1/predict"), 405)
    assert_problem(client.get("/api/v1/nothing"), 404)


@pytest.mark.parametrize("path", ["predict", "predict_proba", "feedback"])
@hypothesis_settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    body=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["text", "texts", "labels", "prediction_id", "is_right", "explain", "x"]),
                inner,
                max_size=4,
            )
        ),
        max_leaves=8,
    )
)
def test_predict_any_json_returns_result_or_problem(client: Client, path: str, body: Any) -> None:
    response = post(client, path, body)
    if response.status_code != 200:
        assert_problem(response, response.status_code)
        assert 400 <= response.status_code < 500


def test_feedback_is_stored(client: Client) -> None:
    prediction_id = post(client, "predict", {"text": RUDE}).json()["id"]
    data = {
        "prediction_id": prediction_id,
        "is_right": False,
        "labels": {"insult": True, "toxic": True, "threat": False},
        "remark": "mild",
    }
    response = post(client, "feedback", data)
    assert response.status_code == 201
    assert response.json()["labels"] == {label: label in ("toxic", "insult") for label in LABELS}
    stored = Feedback.objects.get()
    assert str(stored.prediction_id) == prediction_id
    assert (stored.is_right, stored.remark) == (False, "mild")
    del data["labels"]
    assert post(client, "feedback", data).json()["labels"] is None


def test_repeated_feedback_gets_the_first_response(client: Client, auth: dict[str, Any]) -> None:
    for options in ({}, auth):
        prediction_id = post(client, "predict", {"text": RUDE}, **options).json()["id"]
        data = {"prediction_id": prediction_id, "is_right": False, "labels": {"insult": True}}
        first, *repeated = (post(client, "feedback", data, **options) for _ in range(3))
        assert [first.status_code, *(response.status_code for response in repeated)] == [201] * 3
        assert [response.json() for response in repeated] == [first.json()] * 2
        assert Feedback.objects.filter(prediction=prediction_id).count() == 1


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"labels": {"nasty": True}}, "labels"),
        ({"labels": {"toxic": 1}}, "labels.toxic"),
        ({"labels": ["toxic"]}, "labels"),
        ({"is_right": "no"}, "is_right"),
        ({"prediction_id": "17"}, "prediction_id"),
        ({"remark": "x" * 2_001}, "remark"),
    ],
)
def test_feedback_invalid_field_is_rejected(client: Client, change: dict[str, Any], field: str) -> None:
    prediction_id = post(client, "predict", {"text": RUDE}).json()["id"]
    body = {"prediction_id": prediction_id, "is_right": True} | change
    assert_problem(post(client, "feedback", body), 400, field)
    assert not Feedback.objects.exists()


def test_prediction_of_other_key_is_not_found(client: Client, auth: dict[str, Any]) -> None:
    prediction_id = post(client, "predict", {"text": KIND}, **auth).json()["id"]
    _, secret = create_api_key(actor=SYSTEM, name="another")
    other = {"headers": {"Authorization": f"Api-Key {secret}"}}
    assert client.get(f"/api/v1/predictions/{prediction_id}", **auth).status_code == 200
    assert_problem(client.get(f"/api/v1/predictions/{prediction_id}", **other), 404)
    assert_problem(client.get(f"/api/v1/predictions/{prediction_id}"), 404)
    response = post(client, "feedback", {"prediction_id": prediction_id, "is_right": True}, **other)
    assert assert_problem(response, 404)["detail"] == "There is no such prediction."


def test_authentication_of_api_keys(
    client: Client, api_key: tuple[APIKey, str], auth: dict[str, Any], settings: Settings
) -> None:
    assert post(client, "predict", {"text": KIND}, **auth).status_code == 200
    api_key[0].refresh_from_db()
    assert timezone.now() - api_key[0].last_used_at < timedelta(minutes=1)
    wrong = {"headers": {"Authorization": "Api-Key nonsense"}}
    response = post(client, "predict", {"text": KIND}, **wrong)
    assert_problem(response, 401)
    assert response["WWW-Authenticate"] == "Api-Key"
    assert_problem(post(client, "predict", {"text": KIND}, headers={"Authorization": "Bearer x"}), 401)
    revoke_api_key(actor=SYSTEM, key=api_key[0])
    with patch.object(time, "monotonic", return_value=time.monotonic() + LOOKUP_SECONDS):
        assert_problem(post(client, "predict", {"text": KIND}, **auth), 401)
    settings.ANONYMOUS_API = False
    assert_problem(post(client, "predict", {"text": KIND}), 401)
    _, secret = create_api_key(actor=SYSTEM, name="reader", scopes=["read"])
    reader = {"headers": {"Authorization": f"Api-Key {secret}"}}
    assert client.get("/api/v1/models", **reader).status_code == 200
    assert_problem(client.get("/api/v1/models"), 401)
    assert_problem(client.get("/api/v1/models", headers={"Authorization": "Api-Key wrong"}), 401)
    _, scorer = create_api_key(actor=SYSTEM, name="scorer", scopes=["predict"])
    assert_problem(client.get("/api/v1/models", headers={"Authorization": f"Api-Key {scorer}"}), 403)
    assert_problem(post(client, "predict", {"text": KIND}, **reader), 403)


def test_api_key_secret_is_not_stored(api_key: tuple[APIKey, str]) -> None:
    kept = " ".join(str(value) for value in APIKey.objects.values_list().get(pk=api_key[0].pk))
    assert api_key[1] not in kept


@pytest.mark.usefixtures("frozen_time")
def test_api_key_rate_limit(client: Client) -> None:
    _, secret = create_api_key(actor=SYSTEM, name="slow", rate_per_minute=3)
    headers = {"headers": {"Authorization": f"Api-Key {secret}"}}
    answers = [post(client, "predict", {"text": KIND}, **headers) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert_problem(answers[-1], 429)
    assert 0 < int(answers[-1]["Retry-After"]) <= 60


def test_example_can_be_scored(client: Client) -> None:
    example = client.get("/api/v1/example").json()
    assert example["source"] == "built-in"
    assert post(client, "predict", {"text": example["text"]}).status_code == 200


def test_models_and_stats(client: Client) -> None:
    champion = ModelVersion.objects.get(alias="champion")
    current = client.get("/api/v1/models/current").json()
    assert current["version"] == champion.number
    assert set(current["thresholds"]) == set(LABELS)
    assert 0.5 < current["metrics"]["mean"]["roc_auc"] <= 1
    assert current["version"] in [model["version"] for model in client.get("/api/v1/models").json()]
    post(client, "predict", {"texts": [RUDE, KIND]})
    for prediction, latency in zip(Prediction.objects.values_list("pk", flat=True), (100, 101), strict=True):
        Prediction._base_manager.filter(pk=prediction).update(latency_us=latency)
    roll_up()
    stats = client.get("/api/v1/stats").json()
    assert stats["mean_latency_us"] == 100
    assert (stats["predictions"], stats["toxic"]) == (2, 1)
    assert stats["model_version"] == champion.number


def test_every_listed_model_can_be_pinned(client: Client, champion: ModelVersion) -> None:
    register_copy(champion)
    versions = [model["version"] for model in client.get("/api/v1/models").json()]
    assert len(versions) == 2
    for version in versions:
        response = post_json(client, analyze_request(RUDE, f"TOXICITY@{version}"))
        assert response["X-Model-Version"] == str(version)
    operation = client.get("/api/v1/schema?format=json").json()["paths"]["/api/v1/models"]["get"]
    assert "TOXICITY@7" in operation["description"]
    assert {"200", "401", "403"} <= operation["responses"].keys()


def test_health_uses_no_service_and_ready_names_missing_one(
    client: Client, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    with django_assert_num_queries(0):
        assert client.get("/health").json() == {"status": "alive"}
    assert client.get("/ready").json()["status"] == "ready"
    with patch("apps.api.views.connection.cursor", side_effect=OperationalError):
        response = client.get("/ready")
    assert_problem(response, 503)
    assert response["Retry-After"]


def test_ready_names_unapplied_migration_and_missing_column(
    client: Client, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "CACHE_SECONDS", 1e9)
    database._find_problem.cache_clear()
    assert client.get("/ready").status_code == 200
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE training_gatereport RENAME COLUMN gates TO other")
    assert client.get("/ready").status_code == 200, "the schema is not checked for each request"
    try:
        database._find_problem.cache_clear()
        response = client.get("/ready")
        assert_problem(response, 503)
        assert "the column training_gatereport.gates" in response.json()["detail"]
        MigrationRecorder(connection).record_unapplied("training", "0001_initial")
        database._find_problem.cache_clear()
        response = client.get("/ready")
        assert_problem(response, 503)
        assert "training.0001_initial" in response.json()["detail"]
        assert response["Retry-After"]
        assert "manage.py migrate" in caplog.text
    finally:
        database._find_problem.cache_clear()


def test_database_error_is_logged_without_values(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    serving.current()
    message = "column \"shade\" does not exist\nLINE 1: INSERT ... VALUES ('a secret comment')"
    with patch.object(bulk_insert, "_write", side_effect=ProgrammingError(message)):
        assert_problem(post(client, "predict", {"text": KIND}), 503)
        assert client.post("/", {"text": KIND}).status_code == 503
        assert (
            client.post("/v1alpha1/comments:analyze", ANALYZE, content_type="application/json").status_code
            == 503
        )
    with patch.object(bulk_insert, "_write", side_effect=DataError("invalid: a secret comment")):
        assert_problem(post(client, "predict", {"text": KIND}), 503)
    assert caplog.text.count('ProgrammingError: column "shade" does not exist') == 3
    assert "DataError" in caplog.text
    assert "secret" not in caplog.text


def test_predict_database_failure_returns_503_with_retry_after(client: Client) -> None:
    serving.current()
    with patch.object(bulk_insert, "_write", side_effect=OperationalError("disk full")):
        response = post(client, "predict", {"text": KIND})
    assert_problem(response, 503)
    assert response["Retry-After"] == "5"


def test_schema_distinguishes_labels_from_outcome(client: Client) -> None:
    schema = client.get("/api/v1/schema", headers={"Accept": "application/json"}).json()
    parts = schema["components"]["schemas"]
    for name in ("LabelsResult", "LabelsAnswer", "ProbabilitiesResult", "PredictionRecord"):
        fields = parts[name]["properties"]
        assert "threshold of the model version" in fields["labels"]["description"]
        assert "/api/v1/moderate" in fields["labels"]["description"]
        assert "at the model's thresholds" in fields["is_toxic"]["description"]
    assert "by the community's policy" in parts["ModerateResult"]["properties"]["outcome"]["description"]
    assert "policy's threshold" in parts["ReasonResult"]["properties"]["threshold"]["description"]
    assert "two senses" in schema["info"]["description"]


def test_schema_is_valid_and_docs_use_no_other_origin(client: Client) -> None:
    response = client.get("/api/v1/schema", headers={"Accept": "application/json"})
    schema = json.loads(response.content)
    openapi_spec_validator.validate(schema)
    assert schema["openapi"].startswith("3.")
    assert "/api/v1/predict_proba" in schema["paths"]
    page = client.get("/api/v1/docs").content.decode()
    assert "swagger-ui" in page
    assert "https://" not in page.replace("https://www.w3.org", "")


def test_predict_returns_lone_surrogate_of_unknown_field(client: Client) -> None:
    body = '{"text": "x", "\\ud800": 1}'
    answer = client.post("/api/v1/predict", body, content_type="application/json")
    assert answer.status_code == 400
    assert "\\ud800" in answer.content.decode()
