"""Batched requests: each gets its own response, and none waits for a slow client."""

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

from toxicmod.testing.load import post
from toxicmod.testing.site import PID, manage, site

pytestmark = pytest.mark.slow

PATH = "/v1alpha1/comments:analyze"
KEEP_ALIVE = 3
SENTENCES = "What a day. " * 1_500
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
    """One process with two threads beside the batches: what blocks a thread is soon noticed."""
    few = {"WEB_CONCURRENCY": "1", "WEB_THREADS": "2", "GUNICORN_CMD_ARGS": f"--keep-alive {KEEP_ALIVE}"}
    with site(tmp_path_factory.mktemp("batches"), **few) as (url, env):
        manage("install_default_policy", env=env)
        yield url, env


class Client:
    """A connection that is kept."""

    def __init__(self, url: str, key: str = "") -> None:
        self.url = f"{url}{PATH}?key={key}" if key else f"{url}{PATH}"
        split = urlsplit(url)
        self.socket = socket.create_connection((split.hostname, split.port), timeout=20)
        self._file = self.socket.makefile("rb")

    def request(self, text: str, **more: Any) -> bytes:
        asked = {"comment": {"text": text}, "languages": ["en"], "requestedAttributes": {"TOXICITY": {}}}
        return post(self.url, json.dumps(asked | more).encode())

    def read(self) -> tuple[int, dict[str, Any]]:
        """Read an answer: its status and its body."""
        status = int(self._file.readline().split()[1])
        length = 0
        while (line := self._file.readline().strip()) != b"":
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        return status, json.loads(self._file.read(length))

    def ask(self, text: str, **more: Any) -> dict[str, Any]:
        self.socket.sendall(self.request(text, **more))
        status, body = self.read()
        assert status == 200, body
        return body

    def is_closed(self) -> bool:
        """Wait until the server has closed the connection."""
        return self._file.read(1) == b""


@contextmanager
def client(url: str, key: str = "") -> Iterator[Client]:
    """Connect, and be answered twice."""
    made = Client(url, key)
    with closing(made.socket):
        for _ in range(2):
            made.ask("Good morning")
        yield made


def test_batched_requests_get_their_own_responses(served: Site) -> None:
    url, env = served

    def talk(number: int) -> None:
        with client(url) as caller:
            for turn in range(40):
                text = "You idiot" if (number + turn) % 2 else "Thank you"
                answer = caller.ask(f"{text}, said {number} in {turn}", clientToken=f"{number}:{turn}")
                assert answer["clientToken"] == f"{number}:{turn}"
                assert (answer["attributeScores"]["TOXICITY"]["summaryScore"]["value"] > 0.5) == (
                    text == "You idiot"
                )

    with ThreadPoolExecutor(20) as pool:
        list(pool.map(talk, range(20)))
    with closing(sqlite3.connect(Path(env["DATA_DIR"], "toxicmod.sqlite3"))) as database:
        stored = dict(database.execute("SELECT external_id, text FROM predictions_prediction").fetchall())
    for number in range(20):
        for turn in range(40):
            assert stored[f"{number}:{turn}"].endswith(f"said {number} in {turn}")


def test_lists_and_single_comments_in_one_batch(served: Site) -> None:
    url, env = served

    def talk(number: int) -> dict[str, str]:
        sent = {}
        with client(url) as caller:
            for turn in range(12):
                texts = [f"{number} in {turn}, {part}. {'Good day. ' * 40}" for part in range(50)]
                for body in ({"texts": texts}, {"text": texts[0]}, {"texts": texts[:2]}):
                    caller.socket.sendall(post(f"{url}/api/v1/predict", json.dumps(body).encode()))
                    status, answer = caller.read()
                    assert status == 200
                    results = answer.get("results", [answer])
                    asked = body.get("texts", [body.get("text")])
                    sent |= {
                        UUID(result["id"]).hex: text for result, text in zip(results, asked, strict=True)
                    }
                caller.ask(f"{number} in {turn}")
        return sent

    with ThreadPoolExecutor(12) as pool:
        sent = [pair for each in pool.map(talk, range(12)) for pair in each.items()]
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
        assert bad.ask("Good night")


def test_unparsable_request_does_not_affect_its_batch(served: Site) -> None:
    url, _ = served
    with client(url) as good:
        for kind in (b"application/json; charset=hex", b"application/json; a*=nosuch''x"):
            with client(url) as bad:
                bad.url += "?a=1"
                bad.socket.sendall(bad.request("Hello").replace(b"application/json", kind, 1))
                assert good.ask("Good evening")
                assert bad._file.readline().split()[0] == b"HTTP/1.1"


def test_incomplete_request_does_not_delay_others(served: Site) -> None:
    with client(served[0]) as slow, client(served[0]) as other:
        request = slow.request("I think very slowly")
        for begin in range(0, len(request), 50):
            slow.socket.sendall(request[begin : begin + 50])
            began = time.monotonic()
            assert other.ask("Good evening")
            assert time.monotonic() - began < 1
        assert slow.read()[0] == 200
        assert slow.ask("And again")


def test_slow_reader_does_not_delay_others_and_gets_all_responses(served: Site) -> None:
    with client(served[0]) as deaf, client(served[0]) as other:
        deaf.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        asked = 60  # answers of 120 kilobytes each, more than the kernel takes for who does not read
        for number in range(asked):
            deaf.socket.sendall(deaf.request(f"{number}. {SENTENCES}", spanAnnotations=True, **ALL))
            began = time.monotonic()
            assert other.ask("Good evening")
            assert time.monotonic() - began < 1
            time.sleep(0.05)
        for _ in range(asked):
            scores = deaf.read()[1]["attributeScores"]
            assert [len(score["spanScores"]) for score in scores.values()] == [101] * 6


def test_unusual_requests_are_answered(served: Site) -> None:
    with client(served[0]) as caller:
        body = caller.request("Good evening").partition(b"\r\n\r\n")[2]
        head = f"POST {PATH} HTTP/1.1\r\nHost: here\r\nContent-Type: application/json\r\n".encode()
        length = b"Content-Length: %d\r\n" % len(body)
        caller.socket.sendall(head + length + b"Origin: https://forum.example\r\n\r\n" + body)
        assert caller.read()[0] == 200
        caller.socket.sendall(b"GET /ready HTTP/1.1\r\nHost: here\r\n\r\n")
        assert caller.read()[0] == 200
        caller.socket.sendall(head + length + b"Connection: close\r\n\r\n" + body)
        assert caller.read()[0] == 200
        assert caller.is_closed()


def test_conflicting_content_lengths_are_rejected(served: Site) -> None:
    with client(served[0]) as caller:
        request = caller.request("Good evening")
        caller.socket.sendall(request.replace(b"Content-Length", b"Content-Length: 1\r\nContent-Length", 1))
        assert caller._file.readline().startswith(b"HTTP/1.1 400")


def test_batched_requests_use_their_own_api_keys(served: Site) -> None:
    url, env = served
    plain, reviewed = (
        line.split()[1] for line in manage("shell", "-v0", "-c", _MAKE_KEYS, env=env).splitlines()
    )
    with client(url, plain) as one, client(url, reviewed) as other, client(url) as nobody:
        for _ in range(3):
            for caller in (one, other, nobody):
                caller.socket.sendall(caller.request("What a lovely garden"))
            assert [caller.read()[0] for caller in (one, other, nobody)] == [200, 200, 200]
        with closing(sqlite3.connect(Path(env["DATA_DIR"], "toxicmod.sqlite3"))) as database:
            of_keys = database.execute(
                "SELECT review_perspective, count(*), count(s.prediction_id) FROM predictions_prediction p"
                " JOIN accounts_apikey k ON k.id = p.client_id"
                " LEFT JOIN moderation_submission s ON s.prediction_id = p.id GROUP BY 1 ORDER BY 1"
            ).fetchall()
            assert of_keys == [(0, 5, 0), (1, 5, 5)]
            with database:
                database.execute("UPDATE accounts_apikey SET revoked_at = '2026-01-01 00:00:00'")
        time.sleep(1.2)
        one.socket.sendall(one.request("What a lovely garden"))
        assert one.read()[0] == 400


def test_idle_connection_is_closed_after_timeout(served: Site) -> None:
    with client(served[0]) as caller:
        began = time.monotonic()
        assert caller.is_closed()
        assert KEEP_ALIVE - 1 < time.monotonic() - began < KEEP_ALIVE + 4


def _end_worker(folder: Path) -> None:
    master = (folder / PID).read_text().strip()
    (worker,) = Path(f"/proc/{master}/task/{master}/children").read_text().split()
    os.kill(int(worker), signal.SIGTERM)
    time.sleep(0.5)


def test_stopping_worker_writes_its_request_metrics(tmp_path: Path) -> None:
    with site(tmp_path, WEB_CONCURRENCY="1") as (url, _), client(url):
        pass
    with closing(sqlite3.connect(tmp_path / "toxicmod.sqlite3")) as database:
        (counted,) = database.execute(
            "SELECT sum(requests) FROM monitoring_requestminute WHERE source = 'perspective'"
        ).fetchone()
    assert counted == 2


def test_stopping_worker_answers_queued_requests(tmp_path: Path) -> None:
    with site(tmp_path, WEB_CONCURRENCY="1") as (url, _), client(url) as caller:
        _end_worker(tmp_path)
        assert caller.ask("Are you still there?")
        assert caller.is_closed()


def test_stopping_worker_finishes_requests_in_progress(tmp_path: Path) -> None:
    with site(tmp_path, WEB_CONCURRENCY="1") as (url, _), client(url) as caller, client(url) as alone:
        with closing(sqlite3.connect(tmp_path / "toxicmod.sqlite3", isolation_level=None)) as database:
            database.execute("BEGIN IMMEDIATE")  # both wait for it
            origin = b"\r\nOrigin: https://forum.example\r\n\r\n"
            alone.socket.sendall(alone.request("Good evening").replace(b"\r\n\r\n", origin, 1))
            caller.socket.sendall(caller.request("Good evening"))
            time.sleep(0.5)
            _end_worker(tmp_path)
            database.execute("ROLLBACK")
        for each in (alone, caller):
            assert each.read()[0] == 200
            assert each.is_closed()
