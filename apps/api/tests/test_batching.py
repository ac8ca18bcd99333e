"""Calls that are answered in batches get the response that Django's handler would give."""

import json
import re
import time
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import pytest
from django.core.signals import request_finished, request_started
from django.db import OperationalError, close_old_connections
from django.http import HttpResponse
from django.test import Client
from pytest_django import Settings

from apps.accounts import actions as accounts
from apps.accounts.actions import find_api_key, update_last_used
from apps.accounts.models import APIKey
from apps.api import batching
from apps.api.perspective import authorization
from apps.api.v1.views import predictions as v1_views
from apps.classifier.scorer import Scorer
from apps.predictions import bulk_insert
from apps.predictions.models import Prediction
from toxicmod.testing.perspective import ANALYZE, analyze_request

pytestmark = [pytest.mark.django_db, pytest.mark.database]

_ID = re.compile(rb'"id":"[0-9a-f-]{36}"')


@pytest.fixture(autouse=True)
def _one_connection(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Keep the test's connection, which Django would close before a request."""
    monkeypatch.setattr(batching, "close_old_connections", lambda: None)
    for signal in (request_started, request_finished):
        signal.disconnect(close_old_connections)
    yield
    for signal in (request_started, request_finished):
        signal.connect(close_old_connections)


def scope_of(path: str = ANALYZE, query: str = "", method: str = "POST", **headers: str) -> dict[str, Any]:
    names = {"content_type": "application/json", "host": "testserver", "content_length": "9999"} | headers
    return {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": query.encode(),
        "scheme": "http",
        "client": ("127.0.0.1", 1_024),
        "server": ("testserver", 80),
        "headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in names.items()],
    }


def batch(*calls: tuple[dict[str, Any], bytes]) -> list[HttpResponse | None]:
    requests = [batching.prepare(scope, body) for scope, body in calls]
    return batching.handle_batch([request for request in requests if request is not None])


def by_django(scope: dict[str, Any], body: bytes) -> HttpResponse:
    headers = {name.decode(): value.decode() for name, value in scope["headers"]}
    kind = headers.pop("content-type")
    del headers["host"], headers["content-length"]
    path = f"{scope['path']}?{scope['query_string'].decode()}"
    return Client(raise_request_exception=False).generic("POST", path, body, kind, headers=headers)


@pytest.mark.parametrize(
    ("status", "path", "body", "headers"),
    [
        (200, ANALYZE, analyze_request(), {}),
        (200, ANALYZE, analyze_request(), {"query": "prettyPrint=false"}),
        (400, ANALYZE, {}, {}),
        (400, ANALYZE, None, {}),
        *(
            (status, path, body, headers)
            for path in ("/api/v1/predict", "/api/v1/predict_proba")
            for status, body, headers in [
                (200, {"text": "You idiot"}, {}),
                (200, {"texts": ["You idiot", "Thank you 😀"], "external_ids": ["1", "2"]}, {}),
                (400, {"texts": ["Thank you", " ", 1, "\ud83d", "a\0b"]}, {}),
                (400, {"texts": "Thank you"}, {}),
                (400, [], {}),
                (406, {"text": "Thank you"}, {"accept": "text/html"}),
                (415, {"text": "Thank you"}, {"content_type": "text/plain"}),
                (500, {"text": "Thank you"}, {}),
            ]
        ),
    ],
)
def test_handle_batch_returns_response_of_django(
    status: int, path: str, body: Any, headers: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if status == 500:
        monkeypatch.setattr(v1_views.PredictView, "build_response", lambda *args: 1 / 0)
    data = b"{" if body is None else json.dumps(body).encode()
    scope = scope_of(path, **headers)
    (response,) = batch((scope, data))
    expected = by_django(scope, data)
    assert response is not None
    assert (response.status_code, expected.status_code) == (status, status)
    assert _ID.sub(b"", response.content) == _ID.sub(b"", expected.content)
    assert response.items() - {("Content-Length", expected.get("Content-Length"))} <= expected.items()
    assert {"Content-Type", "X-Content-Type-Options"} <= set(response.headers)


def test_handle_batch_isolates_failed_request(monkeypatch: pytest.MonkeyPatch) -> None:
    bodies: list[Any] = [
        {"text": "You idiot"},
        {},
        {"texts": ["Thank you", "Good night"]},
        {"text": "Good day"},
    ]
    paths = ["/api/v1/predict", ANALYZE, "/api/v1/predict_proba", "/api/v1/predict"]

    def answers() -> list[tuple[int, Any]]:
        calls = [
            (scope_of(path), json.dumps(body).encode()) for path, body in zip(paths, bodies, strict=True)
        ]
        return [
            (response.status_code, json.loads(response.content))
            for response in batch(*calls)
            if response is not None
        ]

    (one, first), (two, second), (three, third), (four, fourth) = answers()
    assert [one, two, three, four] == [200, 400, 200, 200]
    assert (first["is_toxic"], fourth["is_toxic"]) == (True, False)
    assert second["error"]["status"] == "INVALID_ARGUMENT"
    stored = Prediction.objects.order_by("pk")
    assert [row.text for row in stored] == ["You idiot", "Thank you", "Good night", "Good day"]
    assert [str(row.pk) for row in stored] == [
        first["id"],
        *(result["id"] for result in third["results"]),
        fourth["id"],
    ]
    with patch.object(bulk_insert, "insert_batches", side_effect=OperationalError("secret words")):
        assert [status for status, _ in answers()] == [503, 400, 503, 503]
    rate = Scorer.rate

    def fails(scorer: Scorer, texts: Any) -> Any:
        if "You idiot" in texts:
            raise ValueError
        return rate(scorer, texts)

    monkeypatch.setattr(Scorer, "rate", fails)
    assert [status for status, _ in answers()] == [500, 400, 200, 200]


@pytest.mark.parametrize(
    "odd",
    [
        {"path": "/api/v1/feedback"},
        {"method": "GET"},
        {"origin": "https://forum.example"},
        {"content_type": "application/json; a*=nosuch''x"},
    ],
)
def test_prepare_leaves_other_requests_to_django(odd: dict[str, str]) -> None:
    assert batching.prepare(scope_of(**odd), b"{}") is None


@pytest.mark.parametrize("odd", [{"query": "a=1&" * 1_100}, {"host": "!"}, {"host": "elsewhere.example"}])
def test_handle_batch_leaves_unusual_request_to_django(settings: Settings, odd: dict[str, str]) -> None:
    settings.ALLOWED_HOSTS = ["testserver"]
    left, answered = batch((scope_of(**odd), b"{}"), (scope_of(), b"{}"))
    assert left is None
    assert answered is not None


def test_handle_batch_leaves_insecure_request_to_django(settings: Settings) -> None:
    settings.SECURE_SSL_REDIRECT = True
    with patch.object(batching, "security", batching.SecurityMiddleware(lambda request: HttpResponse())):
        assert batch((scope_of(), b"{}")) == [None]


def test_can_batch_retries_failed_lookup_once_a_second(
    api_key: tuple[APIKey, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(authorization, "_no_lookup_before", 0.0)
    secret = api_key[1]
    find_api_key(secret=secret)
    update_last_used(key=accounts._cache[secret][0])
    call = (scope_of(query=f"key={secret}"), b"{}")
    assert batch(call) != [None]
    now = time.monotonic() + accounts.LOOKUP_SECONDS
    with (
        patch.object(time, "monotonic", return_value=now),
        patch.object(APIKey.objects, "for_secret", side_effect=OperationalError) as lookup,
    ):
        assert batch(*[call] * 5) == [None] * 5
    assert lookup.call_count == 1
    with patch.object(time, "monotonic", return_value=now + accounts.LOOKUP_SECONDS):
        assert batch(call) != [None]
