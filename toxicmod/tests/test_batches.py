"""Each batched request gets its own response, and none waits for a slow client."""

import json
import os
import signal
import socket
import sqlite3
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import pytest
import requests

from toxicmod.testing.load import post
from toxicmod.testing.site import PID, manage, site

pytestmark = pytest.mark.slow

PATH = "/v1alpha1/comments:analyze"
KEEP_ALIVE = 3
SENTENCES = "What a day. " * 300
NOT_READ = "The meeting is on Thursday and everyone is welcome there. "  # by the encoder, which takes longer
_SIX = ("TOXICITY", "SEVERE_TOXICITY", "IDENTITY_ATTACK", "INSULT", "PROFANITY", "THREAT")
ALL: dict[str, Any] = {"requestedAttributes": {name: {} for name in _SIX}}
_MAKE_KEYS = """
from apps.accounts.actions import create_api_key
from apps.core.permissions import SYSTEM

for review in (False, True):
    options = {"rate_per_minute": 10**6, "review_perspective": review}
    print("key", create_api_key(actor=SYSTEM, name="batches", **options)[1])
"""

Site = tuple[str, dict[str, str]]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A site with one process and two threads besides the batches, so that a blocked thread is noticed."""
    options = {"WEB_CONCURRENCY": "1", "WEB_THREADS": "2", "GUNICORN_CMD_ARGS": f"--keep-alive {KEEP_ALIVE}"}
    with site(tmp_path_factory.mktemp("batches"), **options) as (url, env):
        manage("install_default_policy", env=env)
        yield url, env


class Client:
    """A client with one persistent connection."""

    def __init__(self, url: str, key: str = "") -> None:
        self.url = f"{url}{PATH}?key={key}" if key else f"{url}{PATH}"
        split = urlsplit(url)
        self.socket = socket.create_connection((split.hostname, split.port), timeout=20)
        self._file = self.socket.makefile("rb")

    def request(self, text: str, **fields: Any) -> bytes:
        body = {"comment": {"text": text}, "languages": ["en"], "requestedAttributes": {"TOXICITY": {}}}
        return post(self.url, json.dumps(body | fields).encode())

    def read(self) -> tuple[int, dict[str, Any]]:
        """Read a response; return its status and its body."""
        status = int(self._file.readline().split()[1])
        length = 0
        while (line := self._file.readline().strip()) != b"":
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        return status, json.loads(self._file.read(length))

    def analyze(self, text: str, **fields: Any) -> dict[str, Any]:
        self.socket.sendall(self.request(text, **fields))
        status, body = self.read()
        assert status == 200, body
        return body

    def is_closed(self) -> bool:
        """Wait until the server has closed the connection."""
        return self._file.read(1) == b""


@contextmanager
def client(url: str, key: str = "") -> Iterator[Client]:
    """Connect, and get two responses."""
    connected = Client(url, key)
    with closing(connected.socket):
        for _ in range(2):
            connected.analyze("Good morning")
        yield connected


def test_batched_requests_get_their_own_responses(served: Site) -> None:
    url, env = served

    def run_client(number: int) -> None:
        with client(url) as connection:
            for turn in range(40):
                text = "You fucking idiot" if (number + turn) % 2 else "Thank you"
                response = connection.analyze(
                    f"{text}, sent by {number} in {turn}", clientToken=f"{number}:{turn}"
                )
                assert response["clientToken"] == f"{number}:{turn}"
                assert (response["attributeScores"]["TOXICITY"]["summaryScore"]["value"] > 0.5) == (
                    text == "You fucking idiot"
                )

    with ThreadPoolExecutor(20) as pool:
        list(pool.map(run_client, range(20)))
    with closing(sqlite3.connect(Path(env["DATA_DIR"], "toxicmod.sqlite3"))) as database:
        stored = dict(database.execute("SELECT external_id, text FROM predictions_prediction").fetchall())
    for number in range(20):
        for turn in range(40):
            assert stored[f"{number}:{turn}"].endswith(f"sent by {number} in {turn}")


def test_lists_and_single_comments_in_one_batch(served: Site) -> None:
    url, env = served

    def run_client(number: int) -> dict[str, str]:
        sent = {}
        with client(url) as connection:
            for turn in range(12):
                texts = [f"{number} in {turn}, {part}. {NOT_READ * 7}" for part in range(50)]
                for body in ({"texts": texts}, {"text": texts[0]}, {"texts": texts[:2]}):
                    connection.socket.sendall(post(f"{url}/api/v1/predict", json.dumps(body).encode()))
                    status, response = connection.read()
                    assert status == 200
                    results = response.get("results", [response])
                    texts_sent = body.get("texts", [body.get("text")])
                    sent |= {
                        UUID(result["id"]).hex: text for result, text in zip(results, texts_sent, strict=True)
                    }
                connection.analyze(f"{number} in {turn}")
        return sent

    with ThreadPoolExecutor(12) as pool:
        sent = [pair for texts in pool.map(run_client, range(12)) for pair in texts.items()]
    assert len(sent) == 12 * 12 * 53
    with closing(sqlite3.connect(Path(env["DATA_DIR"], "toxicmod.sqlite3"))) as database:
        stored = dict(database.execute("SELECT id, text FROM predictions_prediction").fetchall())
    assert all(stored[key] == text for key, text in sent)


def test_rejected_request_does_not_affect_its_batch(served: Site) -> None:
    with client(served[0]) as bad, client(served[0]) as good:
        for _ in range(5):
            bad.socket.sendall(post(bad.url, b"{"))
            good.socket.sendall(good.request("Good evening"))
            status, body = bad.read()
            assert (status, body["error"]["status"]) == (400, "INVALID_ARGUMENT")
            assert good.read()[0] == 200
        assert bad.analyze("Good night")


def test_unparsable_request_does_not_affect_its_batch(served: Site) -> None:
    url, _ = served
    with client(url) as good:
        for kind in (b"application/json; charset=hex", b"application/json; a*=nosuch''x"):
            with client(url) as bad:
                bad.url += "?a=1"
                bad.socket.sendall(bad.request("Hello").replace(b"application/json", kind, 1))
                assert good.analyze("Good evening")
                assert bad._file.readline().split()[0] == b"HTTP/1.1"


def test_incomplete_request_does_not_delay_others(served: Site) -> None:
    with client(served[0]) as slow, client(served[0]) as other:
        request = slow.request("I think very slowly")
        for begin in range(0, len(request), 50):
            slow.socket.sendall(request[begin : begin + 50])
            start = time.monotonic()
            assert other.analyze("Good evening")
            assert time.monotonic() - start < 1
        assert slow.read()[0] == 200
        assert slow.analyze("And again")


def test_slow_reader_does_not_delay_others_and_gets_all_responses(served: Site) -> None:
    with client(served[0]) as slow_reader, client(served[0]) as other:
        slow_reader.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        count = 60  # responses of 120 kilobytes each, more than the buffers of the connection take
        for number in range(count):
            slow_reader.socket.sendall(
                slow_reader.request(f"{number}. {SENTENCES}", spanAnnotations=True, **ALL)
            )
            start = time.monotonic()
            assert other.analyze("Good evening")
            assert time.monotonic() - start < 1
            time.sleep(0.05)
        for _ in range(count):
            scores = slow_reader.read()[1]["attributeScores"]
            assert [len(score["spanScores"]) for score in scores.values()] == [301] * 6


def test_unusual_requests_get_responses(served: Site) -> None:
    with client(served[0]) as connection:
        body = connection.request("Good evening").partition(b"\r\n\r\n")[2]
        head = f"POST {PATH} HTTP/1.1\r\nHost: here\r\nContent-Type: application/json\r\n".encode()
        length = b"Content-Length: %d\r\n" % len(body)
        connection.socket.sendall(head + length + b"Origin: https://forum.example\r\n\r\n" + body)
        assert connection.read()[0] == 200
        connection.socket.sendall(b"GET /ready HTTP/1.1\r\nHost: here\r\n\r\n")
        assert connection.read()[0] == 200
        connection.socket.sendall(head + length + b"Connection: close\r\n\r\n" + body)
        assert connection.read()[0] == 200
        assert connection.is_closed()


def test_conflicting_content_lengths_are_rejected(served: Site) -> None:
    with client(served[0]) as connection:
        request = connection.request("Good evening")
        connection.socket.sendall(
            request.replace(b"Content-Length", b"Content-Length: 1\r\nContent-Length", 1)
        )
        assert connection._file.readline().startswith(b"HTTP/1.1 400")


def test_batched_requests_use_their_own_api_keys(served: Site) -> None:
    url, env = served
    plain, reviewed = (
        line.split()[1] for line in manage("shell", "-v0", "-c", _MAKE_KEYS, env=env).splitlines()
    )
    with client(url, plain) as plain_client, client(url, reviewed) as other, client(url) as anonymous:
        for _ in range(3):
            for connection in (plain_client, other, anonymous):
                connection.socket.sendall(connection.request("What a lovely garden"))
            assert [connection.read()[0] for connection in (plain_client, other, anonymous)] == [
                200,
                200,
                200,
            ]
        with closing(sqlite3.connect(Path(env["DATA_DIR"], "toxicmod.sqlite3"))) as database:
            of_keys = database.execute(
                "SELECT review_perspective, count(*), count(s.prediction_id) FROM predictions_prediction p"
                " JOIN accounts_apikey k ON k.id = p.api_key_id"
                " LEFT JOIN moderation_submission s ON s.prediction_id = p.id GROUP BY 1 ORDER BY 1"
            ).fetchall()
            assert of_keys == [(0, 5, 0), (1, 5, 5)]
            with database:
                database.execute("UPDATE accounts_apikey SET revoked_at = '2026-01-01 00:00:00'")
        time.sleep(1.2)
        plain_client.socket.sendall(plain_client.request("What a lovely garden"))
        assert plain_client.read()[0] == 400


def test_idle_connection_is_closed_after_timeout(served: Site) -> None:
    with client(served[0]) as connection:
        start = time.monotonic()
        assert connection.is_closed()
        assert KEEP_ALIVE - 1 < time.monotonic() - start < KEEP_ALIVE + 4


def _end_worker(folder: Path) -> None:
    master = (folder / PID).read_text().strip()
    (worker,) = Path(f"/proc/{master}/task/{master}/children").read_text().split()
    os.kill(int(worker), signal.SIGTERM)
    time.sleep(0.5)


def test_stopping_worker_responds_to_queued_requests(tmp_path: Path) -> None:
    with site(tmp_path, WEB_CONCURRENCY="1") as (url, _), client(url) as connection:
        _end_worker(tmp_path)
        assert connection.analyze("Are you still there?")
        assert connection.is_closed()


def test_stopping_worker_finishes_requests_in_progress(tmp_path: Path) -> None:
    with site(tmp_path, WEB_CONCURRENCY="1") as (url, _), client(url) as connection, client(url) as alone:
        with closing(sqlite3.connect(tmp_path / "toxicmod.sqlite3", isolation_level=None)) as database:
            database.execute("BEGIN IMMEDIATE")  # both wait for it
            origin = b"\r\nOrigin: https://forum.example\r\n\r\n"
            alone.socket.sendall(alone.request("Good evening").replace(b"\r\n\r\n", origin, 1))
            connection.socket.sendall(connection.request("Good evening"))
            time.sleep(0.5)
            _end_worker(tmp_path)
            database.execute("ROLLBACK")
        for client_connection in (alone, connection):
            assert client_connection.read()[0] == 200
            assert client_connection.is_closed()


def test_counts_of_the_last_seconds_are_written_at_the_end(tmp_path: Path) -> None:
    with site(tmp_path, WEB_CONCURRENCY="1") as (url, _):
        for number in range(5):
            requests.post(f"{url}{PATH}", json={"comment": {"text": f"comment {number}"}}, timeout=20)
    with closing(sqlite3.connect(tmp_path / "toxicmod.sqlite3")) as database:
        (counted,) = database.execute("SELECT sum(requests) FROM monitoring_requestminute").fetchone()
    assert counted == 5
