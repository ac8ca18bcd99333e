"""The batcher and Django give equal responses to equal requests."""

import asyncio
import gzip
import itertools
import json
import random
import re
import socket
import sqlite3
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from threading import Event
from typing import Any
from unittest.mock import patch
from urllib.parse import urlsplit

import pytest
import requests
from django.http import HttpResponse

from apps.api import batching
from apps.api.error_responses import error_response
from apps.api.perspective.exceptions import unavailable
from apps.api.perspective.rendering import CONTENT_TYPE
from apps.monitoring import request_metrics
from toxicmod import asgi
from toxicmod.asgi import Application, DjangoThreads
from toxicmod.batcher import Admission
from toxicmod.testing.site import ROOT, manage, site

ANALYZE, PREDICT, PROBA = "/v1alpha1/comments:analyze", "/api/v1/predict", "/api/v1/predict_proba"
SECONDS = 120.0  # of the mixed load
CONNECTIONS = 64
_MAKE_KEYS = """
from apps.accounts.actions import create_api_key, revoke_api_key
from apps.core.permissions import SYSTEM
print("key", create_api_key(actor=SYSTEM, name="good", rate_per_minute=10**6)[1])
print("key", create_api_key(actor=SYSTEM, name="few", rate_per_minute=1)[1])
print("key", create_api_key(actor=SYSTEM, name="unscoped", rate_per_minute=10**6, scopes=["read"])[1])
key, secret = create_api_key(actor=SYSTEM, name="revoked", rate_per_minute=10**6)
revoke_api_key(actor=SYSTEM, key=key)
print("key", secret)
"""
# Parts of a response that differ between calls, and headers that only a page of another origin gets.
_CALL_IDS = re.compile(rb'"(id)":\s*"[^"]*"')
_CORS = {"access-control-allow-origin", "access-control-expose-headers", "vary", "date", "content-length"}

ServedSite = tuple[str, dict[str, str], list[str]]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedSite]:
    folder = tmp_path_factory.mktemp("asgi")
    with site(folder, WEB_CONCURRENCY="1", WEB_THREADS="4", ALLOWED_HOSTS="127.0.0.1") as (url, env):
        manage("install_default_policy", env=env)
        output = manage("shell", "-v0", "-c", _MAKE_KEYS, env=env).splitlines()
        yield url, env, [line.split()[1] for line in output if line.startswith("key ")]


def calls(keys: list[str]) -> Iterator[tuple[str, dict[str, str], bytes]]:
    """Yield path, headers and body of a hundred calls, good and bad."""
    good, few, unscoped, revoked = keys
    texts: list[Any] = ["You idiot", "Thank you 😀", "x" * 20_481, " ", "", None, 7, "\ud83d", "a\0b", ["a"]]
    json_type = {"Content-Type": "application/json"}
    for path in (ANALYZE, PREDICT, PROBA):

        def body(text: Any, path: str = path, **fields: Any) -> bytes:
            analyze = {
                "comment": {"text": text},
                "languages": ["en"],
                "requestedAttributes": {"TOXICITY": {}},
            }
            return json.dumps((analyze if path == ANALYZE else {"text": text}) | fields).encode()

        for text in texts:
            yield path, json_type, body(text)
        for key in (good, unscoped, revoked, "unknown", "", "a b"):
            yield path, json_type | {"Authorization": f"Api-Key {key}"}, body("Good day")
            yield f"{path}?key={key}", json_type, body("Good day")
        for kind in ("text/plain", "application/json; charset=hex", "application/json; a*=nosuch''x", ""):
            yield path, {"Content-Type": kind}, body("Good day")
        for data in (b"", b"{", b"[]", b"null", b"\xff", b"[" * 1_000, body("Good day") + b"x"):
            yield path, json_type, data
        yield path, json_type | {"Host": "elsewhere.example"}, body("Good day")
        yield path, json_type | {"Accept": "text/html"}, body("Good day")
        yield path, json_type | {"Content-Encoding": "gzip"}, gzip.compress(body("Good day"))
        yield path, json_type | {"Content-Encoding": "gzip"}, b"not gzip"
        yield path, json_type | {"Content-Encoding": "br"}, body("Good day")
        yield path, json_type, body("Good day", unknown=1)
        yield f"{path}?{'a=1&' * 1_100}", json_type, body("Good day")
        yield f"{path}?callback=f&prettyPrint=false&fields=languages", json_type, body("Good day")
    for count in (0, 2, 1_001):
        yield PREDICT, json_type, json.dumps({"texts": ["Good day"] * count}).encode()
    for _ in range(3):
        yield PREDICT, json_type | {"Authorization": f"Api-Key {few}"}, b'{"text": "Good day"}'


def test_fast_path_and_django_give_equal_response_messages(served: ServedSite) -> None:
    url, _, keys = served
    session = requests.Session()

    def send(path: str, headers: dict[str, str], body: bytes, **extra_headers: str) -> tuple[int, Any, bytes]:
        response = session.post(url + path, body, headers=headers | extra_headers, timeout=20)
        headers_to_compare = {
            name.lower(): value for name, value in response.headers.items() if name.lower() not in _CORS
        }
        if "retry-after" in headers_to_compare:
            headers_to_compare["retry-after"] = "some"
        return (
            response.status_code,
            headers_to_compare,
            _CALL_IDS.sub(b"", re.sub(rb"\d+ seconds?", b"", response.content)),
        )

    statuses: Counter[int] = Counter()
    for path, headers, body in calls(keys):
        batched = send(path, headers, body)
        single = send(path, headers, body, Origin="https://forum.example")
        statuses[batched[0]] += 1
        if batched[0] == 200 and single[0] == 429:
            continue  # the second call of a key with a limit of one per minute
        assert batched[0] == single[0], (path, headers, body[:100], batched, single)
        assert batched[2] == single[2], (path, headers, body[:100])
        pages = {"x-frame-options", "content-security-policy"}  # a response in JSON needs neither
        assert batched[1] == {name: value for name, value in single[1].items() if name not in pages} or (
            batched[1] == single[1]
        ), (path, headers, body[:100])
    assert sum(statuses.values()) >= 100
    assert {200, 400, 401, 403, 406, 415, 429} <= set(statuses)
    assert 500 not in statuses


class MixedLoad:
    """Clients that send short, long, invalid, pipelined, chunked, compressed and aborted requests."""

    def __init__(self, url: str, key: str) -> None:
        split = urlsplit(url)
        self.address, self.key = (split.hostname, split.port), key
        self.statuses: Counter[int] = Counter()
        self.stored: dict[str, str] = {}
        self.end = time.monotonic() + SECONDS

    def request(self, body: bytes, *headers: str, path: str = PREDICT) -> bytes:
        lines = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1", f"Authorization: Api-Key {self.key}"]
        return "\r\n".join([*lines, "Content-Type: application/json", *headers, "", ""]).encode() + body

    def encoded(self, body: bytes, how: str) -> bytes:
        if how == "chunked":
            parts = (body[:5], body[5:], b"")
            data = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)
            return self.request(data, "Transfer-Encoding: chunked")
        if how in ("gzip", "deflate"):
            body = gzip.compress(body) if how == "gzip" else zlib.compress(body)
            return self.request(body, f"Content-Encoding: {how}", f"Content-Length: {len(body)}")
        return self.request(body, f"Content-Length: {len(body)}")

    def run_client(self, number: int) -> None:
        generator = random.Random(number)
        turns = itertools.count()
        while time.monotonic() < self.end:
            with closing(socket.create_connection(self.address, timeout=30)) as connection:
                with connection.makefile("rb") as file:
                    for _ in range(20):
                        if self.exchange(connection, file, f"{number}-{next(turns)}", generator):
                            break
                if generator.random() < 0.5:  # close the connection in the middle of a body
                    incomplete = self.encoded(b'{"text": "aborted"}', "plain")
                    with suppress(OSError):
                        connection.sendall(incomplete[: -generator.randint(1, 19)])

    def exchange(self, connection: socket.socket, file: Any, name: str, generator: random.Random) -> bool:
        """Return whether the server closes the connection."""
        count = 1 if generator.random() < 0.7 else 3  # pipelined
        sent: list[list[str] | None] = []
        data = b""
        for part in range(count):
            kind = generator.choice(("short", "short", "long", "invalid"))
            how = generator.choice(("plain", "plain", "chunked", "gzip", "deflate"))
            ids = [f"{name}-{part}-{index}" for index in range(30 if kind == "long" else 1)]
            body: dict[str, Any] = {
                "texts": [f"Comment {external_id}. {'Good day. ' * 20}" for external_id in ids],
                "external_ids": ids,
            }
            if kind == "short":
                body = {"texts": [f"Comment {ids[0]}"], "external_ids": ids}
            if kind == "invalid":
                body = {"text": 7}
            sent.append(None if kind == "invalid" else ids)
            data += self.encoded(json.dumps(body).encode(), how)
        connection.sendall(data)
        is_closing = False
        for ids_sent in sent:
            if is_closing:  # the server was too busy for the next request in the pipeline
                self.statuses[503] += 1
                continue
            status = int(file.readline().split()[1])
            length = 0
            while line := file.readline().strip().lower():
                header, _, value = line.partition(b":")
                if header == b"content-length":
                    length = int(value)
                is_closing |= line == b"connection: close"
            response = json.loads(file.read(length))
            self.statuses[status] += 1
            if status == 503:
                continue
            if ids_sent is None:
                assert (status, response["errors"][0]["field"]) == (400, "text"), response
                continue
            assert status == 200, response
            assert len(response["results"]) == len(ids_sent)
            for external_id, result in zip(ids_sent, response["results"], strict=True):
                self.stored[result["id"].replace("-", "")] = external_id
        return is_closing


@pytest.mark.alone
def test_mixed_requests_get_responses_and_are_stored_once(served: ServedSite) -> None:
    url, env, (key, *_) = served
    mixed_load = MixedLoad(url, key)
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        list(pool.map(mixed_load.run_client, range(CONNECTIONS)))
    print(f"{dict(mixed_load.statuses)}, {len(mixed_load.stored)} comments in {SECONDS:g} s")
    assert set(mixed_load.statuses) <= {200, 400, 503}
    assert mixed_load.statuses[200] > 1_000
    with closing(sqlite3.connect(Path(env["DATA_DIR"], "toxicmod.sqlite3"))) as database:
        rows = database.execute(
            "SELECT id, external_id FROM predictions_prediction WHERE external_id <> ''"
        ).fetchall()
    stored = {row_id: external_id for row_id, external_id in rows if "-" in external_id}
    assert {row: stored.get(row) for row in mixed_load.stored} == mixed_load.stored
    assert max(Counter(stored.values()).values()) == 1, "a comment was stored twice"
    assert len(stored) == len(mixed_load.stored), "a comment was stored whose client got no 200"


def _response_messages(scope: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the messages that a new application sends for a request."""
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"{}"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    asyncio.run(Application()(scope, receive, send))
    return sent


def test_failed_batch_gets_500_in_format_of_its_api_and_is_counted() -> None:
    scope = {
        "type": "http",
        "method": "POST",
        "path": PREDICT,
        "query_string": b"",
        "scheme": "http",
        "client": ("127.0.0.1", 1_024),
        "server": ("localhost", 80),
        "headers": [(b"host", b"localhost"), (b"content-type", b"application/json")],
    }
    with (
        patch.object(batching, "handle_batch", side_effect=RuntimeError("a bug")),
        patch.object(request_metrics, "count") as count,
    ):
        start, body = _response_messages(scope)
    assert start["status"] == 500
    assert (b"Content-Type", b"application/problem+json") in start["headers"]
    assert json.loads(body["body"])["status"] == 500
    assert count.call_args.args[:2] == ("api", 500)


@pytest.mark.parametrize("path", [PREDICT, "/"])
def test_pipelined_request_is_rejected_while_its_queue_is_full(path: str) -> None:
    scope = {
        "type": "http",
        "path": path,
        "raw_path": path.encode(),
        "headers": [],
        "toxicmod.is_pipelined": True,
    }
    with (
        patch.object(Admission, "accepts", return_value=False),
        patch.object(request_metrics, "count") as count,
    ):
        start, _ = _response_messages(scope)
    assert start["status"] == 503
    assert (b"Retry-After", b"1") in start["headers"]
    assert [call.args[1] for call in count.call_args_list] == [503]


def test_django_threads_forget_request_that_was_cancelled_in_the_queue() -> None:
    released = Event()

    def block(environ: dict[str, Any], start_response: Any) -> Any:
        released.wait(5)
        start_response("200 OK", [])
        return HttpResponse("Good day")

    async def send(message: dict[str, Any]) -> None:
        pass

    async def main() -> None:
        threads = DjangoThreads(1)
        scopes = [
            {"type": "http", "method": "GET", "path": "/", "query_string": b"", "http_version": "1.1"}
            for _ in range(2)
        ]
        first, second = (asyncio.create_task(threads.handle(scope, [], send)) for scope in scopes)
        await asyncio.sleep(0.05)
        assert len(threads._queue) == 1
        second.cancel()
        await asyncio.sleep(0.01)
        assert not threads._queue
        released.set()
        await first

    with patch.object(asgi, "django", block):
        asyncio.run(main())


def test_server_uses_no_private_names_of_uvicorn() -> None:
    names = ("asgi", "batcher", "server", "gunicorn")
    source = "\n".join((ROOT / "toxicmod" / f"{name}.py").read_text() for name in names)
    defined = re.findall(r"(?:def|class) (_\w+)|self\.(_\w+)(?:,|:? [^=\n]*=)", source)
    used = set(re.findall(r"[\w)\]]\.(_[a-z]\w*)", source))
    assert used
    assert used <= {name for pair in defined for name in pair}
    assert not re.search(r"import .*\b_", source)


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/v1alpha1/comments:analyze", CONTENT_TYPE),
        ("/batch", CONTENT_TYPE),
        ("/api/v1/predict", "application/problem+json"),
        ("/try", "text/plain; charset=utf-8"),
    ],
)
def test_rejection_has_format_of_its_api_and_security_headers(path: str, kind: str) -> None:
    response = error_response(
        request_metrics.source_of(path), 503, "The service is currently unavailable.", 1
    )
    assert (response.status_code, response["Content-Type"], response["Retry-After"]) == (503, kind, "1")
    assert response["X-Content-Type-Options"] == "nosniff"
    if kind == CONTENT_TYPE:
        assert json.loads(response.content) == unavailable().body
