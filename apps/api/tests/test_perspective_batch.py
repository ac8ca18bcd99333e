"""Google's batch format: what is echoed, what is rejected, and how long hostile bodies take."""

import gc
import time
from collections import Counter
from typing import Any
from unittest.mock import patch

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from pytest_django import Settings

from apps.accounts.actions import create_api_key
from apps.accounts.models import APIKey
from apps.api.perspective import batch as batches
from apps.api.perspective.authorization import MAX_BATCH_KEYS
from apps.core.permissions import SYSTEM
from apps.predictions.models import Prediction
from toxicmod.testing.perspective import ANALYZE_LINE, analyze_json, batch_part, batch_responses, send_batch

pytestmark = [pytest.mark.django_db, pytest.mark.database]


def assert_rejected(response: Any, code: int) -> str:
    assert response.status_code == code, response.content[:500]
    error = response.json()["error"]
    assert error["code"] == code
    return error["message"]


def test_batch_returns_response_for_each_part(client: Client, api_key: tuple[APIKey, str]) -> None:
    line = f"POST /v1alpha1/comments:analyze?key={api_key[1]} HTTP/1.1"
    parts = [
        batch_part("<id + 1>", analyze_json("ünïcode 😀 idiot"), line),
        batch_part(
            "<id + 2>", analyze_json("a", "SPICINESS"), "POST /v1alpha1/comments%3Aanalyze?prettyPrint=false"
        ),
        batch_part(
            "<id + 3>", "", "GET https://scores.example.org/$discovery/rest?version=v1alpha1 HTTP/1.1"
        ),
        batch_part("<id + 4>", "", "GET /admin/ HTTP/1.1"),
        batch_part("<id + 5>", "", "nonsense"),
    ]
    results = batch_responses(send_batch(client, "".join(parts) + "--b--\r\n"))
    assert [name for name, _, _ in results] == [f"<response-id + {n}>" for n in range(1, 6)]
    assert [status for _, status, _ in results] == [200, 400, 200, 404, 404]
    assert Prediction.objects.get().text == "ünïcode 😀 idiot"
    assert Prediction.objects.get().api_key == api_key[0]


@pytest.mark.parametrize(
    "content_type", ["application/json", "multipart/mixed", "", "multipart/mixed; boundary=zzz"]
)
def test_batch_rejects_malformed_content_type(client: Client, content_type: str) -> None:
    response = client.post("/batch", b"{}", content_type=content_type)
    assert response.status_code == 400, response.content


def test_batch_rejects_too_many_parts(client: Client, settings: Settings) -> None:
    settings.MAX_BATCH = 2
    body = b"--b\r\n\r\nGET / HTTP/1.1\r\n" * 3 + b"--b--"
    response = client.post("/batch", body, content_type="multipart/mixed; boundary=b")
    assert response.json()["error"]["message"] == "The batch has more than the 2 requests allowed."


BASE = "5f4ab1f1-2a7c-4b1e-9c8f-d02c1a0b7f55"


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize(
    ("sent", "echoed"),
    [
        (f"<{BASE} +{{end}} a-long-request-id>", f"<response-{BASE} + a-long-request-id>"),
        (f"{{end}} <{BASE} + a-long-request-id>", f"<response-{BASE} + a-long-request-id>"),
        ("<a{end}\tb{end} c>", "<response-a b c>"),
        ("no-brackets{end} here", "response-no-brackets here"),
        ("<short>", "<response-short>"),
    ],
)
def test_batch_unfolds_content_id(client: Client, end: str, sent: str, echoed: str) -> None:
    body = batch_part(sent.format(end="\r\n"), analyze_json("Good day"), line=ANALYZE_LINE) + "--b--\r\n"
    response = send_batch(client, body.replace("\r\n", end))
    assert [part[:2] for part in batch_responses(response)] == [(echoed, 200)]


@pytest.mark.parametrize(
    "content_id", ["<item-ü>", "<😀>", "<a\x00b>", "<a\rb>", "<a\x7f>", "<a\tb>", "<\x1b[2J>"]
)
def test_batch_isolates_invalid_content_id(client: Client, content_id: str) -> None:
    body = (
        batch_part("<a>", analyze_json("first"))
        + batch_part(content_id, analyze_json("second"))
        + batch_part("<c>", analyze_json("third"))
    )
    results = batch_responses(send_batch(client, body + "--b--"))
    assert [status for _, status, _ in results] == [200, 400, 200]
    assert results[1][0].isascii()
    assert results[1][0].startswith("<response-")
    assert "Content-ID" in results[1][2]["error"]["message"]
    assert sorted(Prediction.objects.values_list("text", flat=True)) == ["first", "third"]


def test_batch_stores_nothing_for_failed_part(client: Client) -> None:
    broken = [
        batch_part("<1>", analyze_json("text", "SPICINESS")),
        batch_part("<2>", "{"),
        batch_part("<3>", analyze_json("text"), line="POST /v1alpha1/comments:analyze?key=wrong HTTP/1.1"),
        batch_part("<4>", analyze_json("text"), head="Content-Transfer-Encoding: base64\r\n"),
        batch_part("<5>", analyze_json("text"), headers="no colon\r\n"),
        batch_part("<6>", analyze_json("text"), headers="X: y\r\n" * 100),
        batch_part("<7>", analyze_json("text"), headers=f"X: {'y' * 20_000}\r\n"),
        batch_part("<8>", analyze_json("text"), line=f"POST {ANALYZE_LINE} /{'a' * 20_000}"),
        batch_part("<9>", analyze_json("text"), line="POST //[/v1alpha1/comments:analyze HTTP/1.1"),
        batch_part(
            "<10>", analyze_json("text"), line="POST /v1alpha1/comments:analyze?" + "&".join("a" * 3_000)
        ),
        batch_part(
            "<11>",
            analyze_json("text"),
            line="POST /v1alpha1/comments:analyze?a=\xff&\xfe HTTP/9.9 what more",
        ),
    ]
    results = batch_responses(
        send_batch(client, "".join(broken) + batch_part("<good>", analyze_json("good")) + "--b--")
    )
    assert [status for _, status, _ in results] == [*[400] * 9, 400, 200, 200]
    assert sorted(Prediction.objects.values_list("text", flat=True)) == ["good", "text"]


def test_batch_isolates_invalid_content_type(client: Client) -> None:
    invalid = batch_part("<a>", analyze_json("a"))
    invalid = invalid.replace("application/json", "application/json; a*=nosuch''x")
    results = batch_responses(send_batch(client, invalid + batch_part("<b>", analyze_json("good")) + "--b--"))
    assert [status for _, status, _ in results] == [400, 200]
    assert Prediction.objects.get().text == "good"


@pytest.mark.parametrize(
    ("header", "message", "status"),
    [
        ("X-Goog-Api-Key: wrong", "API key not valid", 400),
        ("Authorization: Bearer wrong", "invalid authentication credentials", 401),
        ("Authorization: Api-Key wrong", "API key not valid", 400),
    ],
)
def test_batch_checks_key_before_parsing(client: Client, header: str, message: str, status: int) -> None:
    name, _, value = header.partition(": ")
    with patch.object(batches, "_split", side_effect=AssertionError):
        response = send_batch(client, batch_part("<a>", analyze_json("a")), **{name: value})
        assert message in assert_rejected(response, status)
    with patch.object(batches, "_split", side_effect=AssertionError):
        assert "API key not valid" in assert_rejected(send_batch(client, b"", "/batch?key=wrong"), 400)


def test_batch_checks_quota_before_parsing(client: Client) -> None:
    _, secret = create_api_key(actor=SYSTEM, name="slow", rate_per_minute=2)
    body = "".join(batch_part(f"<{n}>", analyze_json("a")) for n in range(3)) + "--b--"
    first = batch_responses(send_batch(client, body, **{"X-Goog-Api-Key": secret}))
    assert Counter(status for _, status, _ in first) == {200: 2, 429: 1}
    with patch.object(batches, "_split", side_effect=AssertionError):
        response = send_batch(client, body, **{"X-Goog-Api-Key": secret})
    assert "Quota exceeded" in assert_rejected(response, 429)
    assert int(response["Retry-After"]) > 0


def test_batch_rejects_anonymous_request(client: Client, settings: Settings) -> None:
    settings.ANONYMOUS_API = False
    body = batch_part("<a>", analyze_json("a")) + batch_part("<b>", analyze_json("b")) + "--b--"
    with patch.object(batches.views, "analyze_batch", side_effect=AssertionError):
        assert "unregistered callers" in assert_rejected(send_batch(client, body), 403)


def test_batch_rejects_anonymous_request_beyond_quota(client: Client, settings: Settings) -> None:
    settings.ANONYMOUS_RATE_PER_MINUTE = 2
    body = "".join(batch_part(f"<{n}>", analyze_json("a")) for n in range(3)) + "--b--"
    assert Counter(status for _, status, _ in batch_responses(send_batch(client, body))) == {200: 2, 429: 1}
    with patch.object(batches.views, "analyze_batch", side_effect=AssertionError):
        assert "Quota exceeded" in assert_rejected(send_batch(client, body), 429)
    _, secret = create_api_key(actor=SYSTEM, name="paying")
    line = f"POST /v1alpha1/comments:analyze?key={secret} HTTP/1.1"
    assert [
        part[1]
        for part in batch_responses(send_batch(client, batch_part("<a>", analyze_json("a"), line) + "--b--"))
    ] == [200]


def test_batch_counts_each_part(client: Client) -> None:
    _, secret = create_api_key(actor=SYSTEM, name="slow", rate_per_minute=5)
    body = "".join(batch_part(f"<{n}>", analyze_json("a")) for n in range(4)) + "--b--"
    first = batch_responses(send_batch(client, body, **{"X-Goog-Api-Key": secret}))
    second = batch_responses(send_batch(client, body, **{"X-Goog-Api-Key": secret}))
    assert [status for _, status, _ in first + second] == [*[200] * 5, *[429] * 3]


def test_batch_part_inherits_key(client: Client, api_key: tuple[APIKey, str]) -> None:
    other, secret = create_api_key(actor=SYSTEM, name="other")
    body = batch_part("<a>", analyze_json("outer")) + batch_part(
        "<b>", analyze_json("inner"), headers=f"X-Goog-Api-Key: {secret}\r\n"
    )
    body += batch_part("<c>", analyze_json("inner"), headers=f"Authorization: Bearer {secret}\r\n")
    for path, headers in (
        ("/batch", {"X-Goog-Api-Key": api_key[1]}),
        ("/batch", {"Authorization": f"Bearer {api_key[1]}"}),
        (f"/batch?key={api_key[1]}", {}),
    ):
        assert [part[1] for part in batch_responses(send_batch(client, f"{body}--b--", path, **headers))] == [
            200
        ] * 3
    assert Counter(Prediction.objects.values_list("text", "api_key")) == {
        ("outer", api_key[0].pk): 3,
        ("inner", other.pk): 6,
    }


@pytest.mark.parametrize(
    ("number", "name"),
    list(
        enumerate(
            ["X-Forwarded-For", "x-forwarded-for", "X_Forwarded_For", "Forwarded", "X-Real-IP", "Client-IP"]
        )
    ),
)
def test_batch_part_inherits_address(client: Client, settings: Settings, number: int, name: str) -> None:
    settings.TRUSTED_PROXIES = 1
    settings.ANONYMOUS_RATE_PER_MINUTE = 2
    parts = [batch_part(f"<{n}>", analyze_json("a"), headers=f"{name}: 10.0.0.{n}\r\n") for n in range(6)]
    response = send_batch(client, "".join(parts) + "--b--", **{"X-Forwarded-For": f"203.0.113.{90 + number}"})
    assert Counter(status for _, status, _ in batch_responses(response)) == {200: 2, 429: 4}


@pytest.mark.parametrize(
    "header",
    [
        "Host: evil.example.org",
        "X-Forwarded-Host: evil.example.org",
        "X-Forwarded-Proto: https",
        "X-Forwarded-Port: 1",
        "Origin: https://evil.example.org",
        "Cookie: sessionid=1",
        "X-HTTP-Method-Override: DELETE",
    ],
)
def test_batch_ignores_host_headers_of_part(client: Client, settings: Settings, header: str) -> None:
    settings.SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
    body = batch_part("<a>", line="GET /$discovery/rest HTTP/1.1", headers=f"{header}\r\n") + "--b--"
    ((_, status, document),) = batch_responses(send_batch(client, body))
    assert (status, document["rootUrl"]) == (200, "http://testserver/")


def nested(size: int, depth: int) -> bytes:
    head = b"".join(
        b"--b%d\nContent-Type: multipart/mixed; boundary=b%d\n\n" % (level, level + 1)
        for level in range(depth)
    )
    return head.replace(b"--b0\n", b"--b\n", 1) + b"--b%d\n\n" % depth + b"-\n" * (size // 2)


HOSTILE = {
    "nested, 400 KB": nested(400_000, 150),
    "nested, 2.3 MB": nested(2_300_000, 500),
    "nested within a part": b"--b\n\nPOST / HTTP/1.1\n\n" + nested(2_300_000, 500)[4:],
    "empty lines": b"--b\r\n" + b"\n" * 2_300_000 + b"--b--\r\n",
    "empty lines before a request": b"--b\r\n\r\n" + b"\r\n" * 1_100_000 + b"--b--\r\n",
    "header lines": b"--b\n" + b"a:\n" * 750_000 + b"\n\n--b--\n",
    "folded lines": b"--b\nContent-ID: a" + b"\n " * 1_100_000 + b"\n\n--b--\n",
    "a long header": b"--b\nContent-ID: " + b"a" * 2_300_000 + b"\n\n--b--\n",
    "a long request line": b"--b\n\nPOST /" + b"a" * 2_300_000 + b"\n\n--b--\n",
    "headers of a request": b"--b\n\nPOST / HTTP/1.1\n" + b"a:\n" * 750_000 + b"\n\n--b--\n",
    "delimiters": b"--b\n" * 600_000,
    "almost delimiters": b"--b-\n" * 450_000,
    "delimiters with spaces": b"--b" + b" " * 2_300_000,
    "many keys": b"".join(
        b"--b\n\nPOST /v1alpha1/comments:analyze?key=%d\n\n{}\n" % number for number in range(1_000)
    ),
}


@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("is_anonymous", [True, False])
def test_batch_hostile_body_takes_bounded_time(
    client: Client, settings: Settings, body: bytes, is_anonymous: bool
) -> None:
    settings.ANONYMOUS_API = is_anonymous
    send_batch(client, batch_part("<a>", analyze_json("warm")) + "--b--")
    gc.freeze()  # as gunicorn does: the tests' own objects are not to be collected while time is measured
    began = time.process_time()
    response = send_batch(client, body)
    seconds = time.process_time() - began
    gc.unfreeze()
    assert seconds < 0.5
    assert response.status_code in (200, 400, 403)
    if response.status_code == 200:
        assert all(status in (400, 404) for _, status, _ in batch_responses(response))


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (nested(100, 1), "not another multipart body"),
        (b"--b\nContent-Type: message/rfc822\n\nGET / HTTP/1.1\n--b--", "not another multipart body"),
        (b"--b\n" + b"a: b\n" * 65 + b"\nGET / HTTP/1.1\n--b--", "more than 64 header lines"),
        (b"--b\na: " + b"b" * 20_000 + b"\n\nGET / HTTP/1.1\n--b--", "longer than 16384 bytes"),
        (b"--b\nno colon\n\nGET / HTTP/1.1\n--b--", "no colon"),
        (b"", "not multipart/mixed"),
    ],
)
def test_batch_rejects_broken_format(client: Client, body: bytes, reason: str) -> None:
    good = b"" if not body else batch_part("<a>", analyze_json("good")).encode()
    assert reason in assert_rejected(send_batch(client, good + body), 400)
    assert not Prediction.objects.exists()


def test_batch_looks_up_unknown_key_once(client: Client) -> None:
    def lines(count: int) -> str:
        parts = (
            batch_part(
                f"<{n}>", analyze_json("a"), f"POST /v1alpha1/comments:analyze?key=wrong{n % count} HTTP/1.1"
            )
            for n in range(40)
        )
        return "".join(parts) + "--b--"

    with CaptureQueriesContext(
        connection,
    ) as queries:
        results = batch_responses(send_batch(client, lines(3)))
    assert len(queries) <= 3
    assert {part[2]["error"]["message"] for part in results} == {
        "API key not valid. Please pass a valid API key."
    }
    assert f"more than {MAX_BATCH_KEYS}" in assert_rejected(
        send_batch(client, lines(MAX_BATCH_KEYS + 1)), 400
    )


def test_batch_keeps_line_that_resembles_delimiter(client: Client) -> None:
    text = "first\n--bc\n--b-\n --b\n--B\n--b c"
    body = batch_part("<a>", analyze_json(text)) + "--b--"
    raw = body.replace("Content-Type: application/json", "Content-Type: text/plain\r\nX: \r\n --bc")
    assert [part[1] for part in batch_responses(send_batch(client, raw))] == [200]
    assert Prediction.objects.get().text == text
    lines = b"--b\n\nGET / HTTP/1.1\n\n--bc\n--b-\n--b x\n --b\n--b--"
    assert len(batch_responses(send_batch(client, lines))) == 1


@pytest.mark.parametrize("end", [b"--b--\r\n", b"--b--", b"--b-- \t\r\nepilogue\r\n--b\r\n", b""])
@pytest.mark.parametrize("begin", [b"", b"preamble\r\n", b"\r\n"])
def test_batch_ignores_preamble_and_epilogue(client: Client, begin: bytes, end: bytes) -> None:
    body = (
        begin
        + batch_part("<a>", analyze_json("one")).encode()
        + batch_part("<b>", analyze_json("two")).encode()
        + end
    )
    assert [part[1] for part in batch_responses(send_batch(client, body))] == [200, 200]


def test_batch_limits_span_scores(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "MAX_SPAN_SCORES", 9)
    text = "One. Two. Three."
    body = "".join(batch_part(f"<{n}>", analyze_json(f"{n}. {text}", spanAnnotations=True)) for n in range(3))
    results = batch_responses(
        send_batch(client, body + batch_part("<last>", analyze_json("plain")) + "--b--")
    )
    assert [status for _, status, _ in results] == [200, 200, 400, 200]
    assert "span scores" in results[2][2]["error"]["message"]
    assert Prediction.objects.count() == sum(status == 200 for _, status, _ in results)
