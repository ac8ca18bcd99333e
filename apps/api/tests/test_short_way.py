"""The short way to what is called for every comment answers as the long one does."""

import io
import json
import re
import time
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch
from wsgiref.util import setup_testing_defaults

import pytest
from django.core.signals import request_finished, request_started
from django.core.wsgi import get_wsgi_application
from django.db import OperationalError, close_old_connections
from pytest_django import Settings

from apps.accounts import actions as accounts
from apps.accounts.actions import find_api_key, touch_api_key
from apps.accounts.models import APIKey
from apps.api import short_way
from apps.api.perspective import access
from apps.api.short_way import ShortWay
from apps.api.tests.test_perspective import ANALYZE, asking
from apps.api.v1 import views as v1_views
from apps.predictions import actions, store
from apps.predictions.models import Prediction

pytestmark = [pytest.mark.django_db, pytest.mark.database]

_ID = re.compile(rb'"id":"[0-9a-f-]{36}"')


@pytest.fixture(autouse=True)
def _one_connection(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Keep the test's connection, which Django would close before a request, as its test client does."""
    monkeypatch.setattr(short_way, "close_old_connections", lambda: None)
    for signal in (request_started, request_finished):
        signal.disconnect(close_old_connections)
    yield
    for signal in (request_started, request_finished):
        signal.connect(close_old_connections)


def environ_of(body: bytes, **headers: str) -> dict[str, Any]:
    environ: dict[str, Any] = {"REQUEST_METHOD": "POST", "PATH_INFO": ANALYZE, "wsgi.input": io.BytesIO(body)}
    environ |= {"CONTENT_LENGTH": str(len(body)), "CONTENT_TYPE": "application/json"} | headers
    setup_testing_defaults(environ)
    return environ


def through(application: Any, body: bytes, **headers: str) -> tuple[str, dict[str, str], bytes]:
    said: list[Any] = []
    content = b"".join(application(environ_of(body, **headers), lambda *line: said.extend(line)))
    return said[0], dict(said[1]), content


@pytest.mark.parametrize("body", [json.dumps(asking()).encode(), b"{", b"{}"])
def test_both_ways_give_the_same_answer(body: bytes) -> None:
    long_way = get_wsgi_application()
    counted: list[Any] = []
    short = ShortWay(long_way, lambda *call: counted.append(call))
    (status, headers, content), (long_status, long_headers, long_content) = (
        through(way, body, QUERY_STRING="prettyPrint=false") for way in (short, long_way)
    )
    assert (status, content) == (long_status, long_content)
    assert status == ("200 OK" if b"comment" in body else "400 Bad Request")
    assert [call[:2] for call in counted] == [("perspective", int(status[:3]))]
    assert headers.items() <= long_headers.items()
    assert {"Content-Type", "Content-Length", "X-Content-Type-Options"} <= headers.keys()
    _, headers, _ = through(short, body, HTTP_ORIGIN="https://forum.example")
    assert headers["access-control-allow-origin"] == "*"


@pytest.mark.parametrize("path", ["/api/v1/predict", "/api/v1/predict_proba"])
@pytest.mark.parametrize(
    ("status", "body", "headers"),
    [
        ("200 OK", {"text": "You idiot"}, {}),
        ("200 OK", {"texts": ["You idiot", "Thank you 😀"], "external_ids": ["1", "2"]}, {}),
        ("400 Bad Request", {"texts": ["Thank you", " ", 1, "\ud83d", "a\0b"]}, {}),
        ("400 Bad Request", {"texts": "Thank you"}, {}),
        ("400 Bad Request", [], {}),
        ("401 Unauthorized", {"text": "Thank you"}, {"HTTP_AUTHORIZATION": "Api-Key nobody"}),
        ("406 Not Acceptable", {"text": "Thank you"}, {"HTTP_ACCEPT": "text/html"}),
        ("415 Unsupported Media Type", {"text": "Thank you"}, {"CONTENT_TYPE": "text/plain"}),
        ("405 Method Not Allowed", {"text": "Thank you"}, {"REQUEST_METHOD": "PUT"}),
        ("500 Internal Server Error", {"text": "Thank you"}, {}),
    ],
)
def test_both_ways_predict_the_same(
    path: str, status: str, body: Any, headers: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if "500" in status:
        monkeypatch.setattr(v1_views.PredictView, "reply", lambda *args: 1 / 0)
    long_way = get_wsgi_application()
    short = ShortWay(long_way, lambda *call: None)
    data = json.dumps(body).encode()
    found = [through(way, data, PATH_INFO=path, **headers) for way in (short, long_way)]
    assert {line for line, _, _ in found} == {status}
    assert found[0][1].items() - {("Content-Length", found[0][1]["Content-Length"])} <= found[1][1].items()
    own, expected = (_ID.sub(b"", content) for _, _, content in found)
    assert own == expected


def test_what_is_wrong_with_an_answer_is_no_others_affair() -> None:
    short = ShortWay(get_wsgi_application(), lambda *call: None)
    body = b'{"text": "Good day"}'
    joined = [short.joined(environ_of(body, PATH_INFO="/api/v1/predict")) for _ in range(2)]
    said: list[str] = []
    starts = [lambda *line: 1 / 0, lambda status, headers: said.append(status)]
    bad, good = short.answer_together(joined, starts)  # type: ignore[arg-type]
    with pytest.raises(ZeroDivisionError):
        b"".join(bad)
    assert b"is_toxic" in b"".join(good)
    assert said == ["200 OK"]


def test_what_came_together_is_answered_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    short = ShortWay(get_wsgi_application(), lambda *call: None)
    bodies: list[Any] = [
        {"text": "You idiot"},
        {},
        {"texts": ["Thank you", "Good night"]},
        {"text": "Good day"},
    ]
    paths = ["/api/v1/predict", ANALYZE, "/api/v1/predict_proba", "/api/v1/predict"]

    def answers() -> list[tuple[str, Any]]:
        said: list[Any] = []
        asked = [
            environ_of(json.dumps(body).encode(), PATH_INFO=path)
            for body, path in zip(bodies, paths, strict=True)
        ]
        joined = [short.joined(environ) for environ in asked]
        starts = [lambda status, headers: said.append(status)] * len(joined)
        contents = [json.loads(b"".join(body)) for body in short.answer_together(joined, starts)]  # type: ignore[arg-type]
        return list(zip(said, contents, strict=True))

    (one, first), (two, second), (three, third), (four, fourth) = answers()
    assert [one, two, three, four] == ["200 OK", "400 Bad Request", "200 OK", "200 OK"]
    assert (first["is_toxic"], fourth["is_toxic"]) == (True, False)
    assert second["error"]["status"] == "INVALID_ARGUMENT"
    assert list(Prediction.objects.order_by("pk").values_list("text", flat=True)) == [
        "You idiot",
        "Thank you",
        "Good night",
        "Good day",
    ]
    assert [str(row.pk) for row in Prediction.objects.order_by("pk")] == [
        first["id"],
        *(result["id"] for result in third["results"]),
        fourth["id"],
    ]
    with patch.object(store, "insert_each", side_effect=OperationalError("secret words")):
        assert [status[:3] for status, _ in answers()] == ["503", "400", "503", "503"]
    scores = actions._scores

    def fails(served: Any, texts: Any) -> Any:
        if "You idiot" in texts:
            raise ValueError
        return scores(served, texts)

    monkeypatch.setattr(actions, "_scores", fails)
    assert [status[:3] for status, _ in answers()] == ["500", "400", "200", "200"]


def test_the_short_way_leads_to_https_where_the_long_one_does(settings: Settings) -> None:
    settings.SECURE_SSL_REDIRECT = True
    settings.ALLOWED_HOSTS = ["127.0.0.1"]
    status, headers, _ = through(ShortWay(get_wsgi_application(), lambda *call: None), b"{}")
    assert (status, headers["Location"]) == ("301 Moved Permanently", f"https://127.0.0.1{ANALYZE}")


@pytest.mark.parametrize("odd", [{"QUERY_STRING": "a=1&" * 1_100}, {"HTTP_HOST": "!"}])
def test_odd_requests_are_refused_and_join_no_others(settings: Settings, odd: dict[str, str]) -> None:
    settings.SECURE_SSL_REDIRECT = "HTTP_HOST" in odd
    short = ShortWay(get_wsgi_application(), lambda *call: None)
    status, _, _ = through(short, json.dumps(asking()).encode(), **odd)
    assert status == "400 Bad Request"
    environ: dict[str, Any] = {"REQUEST_METHOD": "POST", "PATH_INFO": ANALYZE, **odd}
    setup_testing_defaults(environ)
    assert short.joined(environ) is None


def test_a_database_that_is_out_is_asked_for_a_key_once_a_second(
    api_key: tuple[APIKey, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access, "_out_until", 0.0)
    secret = api_key[1]
    find_api_key(secret=secret)
    touch_api_key(key=accounts._found[secret][0])
    short = ShortWay(get_wsgi_application(), lambda *call: None)
    environ = environ_of(b"{}", QUERY_STRING=f"key={secret}")
    assert short.joined(environ)
    now = time.monotonic() + accounts.LOOKUP_SECONDS
    with (
        patch.object(time, "monotonic", return_value=now),
        patch.object(APIKey.objects, "for_secret", side_effect=OperationalError) as asked,
    ):
        assert [short.joined(environ) for _ in range(5)] == [None] * 5
    assert asked.call_count == 1
    with patch.object(time, "monotonic", return_value=now + accounts.LOOKUP_SECONDS):
        assert short.joined(environ)


@pytest.mark.parametrize("parameter", ["a*=nosuch''x", "charset=hex", "charset=utf-8"])
def test_what_cannot_even_be_parsed_joins_no_others(parameter: str) -> None:
    short = ShortWay(get_wsgi_application(), lambda *call: None)
    environ = {"REQUEST_METHOD": "POST", "PATH_INFO": ANALYZE, "QUERY_STRING": "a=1&" * 1_100}
    environ["CONTENT_TYPE"] = f"application/json; {parameter}"
    setup_testing_defaults(environ)
    assert short.joined(environ) is None
