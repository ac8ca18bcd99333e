"""A PostgreSQL that accepts connections and never responds."""

import json
import os
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
from django.db import OperationalError

from toxicmod.postgresql import limits
from toxicmod.testing import servers
from toxicmod.testing.site import site

pytestmark = pytest.mark.slow
JSON = {"Content-Type": "application/json"}
TEXT = json.dumps({"text": "You stupid idiot"}).encode()
COMMENT = json.dumps({"comment": {"text": "You idiot"}, "requestedAttributes": {"TOXICITY": {}}}).encode()
FORM = b"username=ann&password=guess"
CALLS: dict[str, tuple[str, bytes | None, dict[str, str]]] = {
    "predict": ("/api/v1/predict", TEXT, JSON),
    "moderate": ("/api/v1/moderate", TEXT, JSON),
    "unknown key": ("/api/v1/predict", TEXT, JSON | {"Authorization": "Api-Key unknown-key"}),
    "models": ("/api/v1/models", None, {}),
    "analyze": ("/v1alpha1/comments:analyze", COMMENT, JSON),
    "analyze with key": ("/v1alpha1/comments:analyze?key=unknown-key", COMMENT, JSON),
    "page": ("/", None, {}),
    "model page": ("/model", None, {}),
    "sign-in page": ("/admin/login/", None, {"Cookie": "sessionid=somebody"}),
    "admin": ("/admin/", None, {"Cookie": "sessionid=somebody"}),
    "queue": ("/admin/moderation/queueitem/", None, {"Cookie": "sessionid=somebody"}),
    "dashboard": ("/monitoring/", None, {"Cookie": "sessionid=somebody"}),
    "ready": ("/ready", None, {}),
}
MUST_FAIL = {"predict", "moderate", "unknown key", "analyze", "analyze with key", "admin", "queue", "ready"}


def call(url: str, name: str) -> tuple[int, float, str | None]:
    """Return the status, the seconds that it took, and Retry-After."""
    path, body, headers = CALLS[name]
    started = time.monotonic()
    try:
        with urllib.request.urlopen(
            urllib.request.Request(url + path, body, headers), timeout=60
        ) as response:
            return response.status, time.monotonic() - started, None
    except urllib.error.HTTPError as error:
        return error.code, time.monotonic() - started, error.headers["Retry-After"]


@contextmanager
def stopped(database: str) -> Iterator[None]:
    """Stop all of PostgreSQL's processes, and continue them at the end."""
    with psycopg.connect(database) as connection:
        backend = psutil.Process(connection.info.backend_pid)
        postmaster = backend.parent()
    assert postmaster
    processes = [postmaster, *postmaster.children(recursive=True)]
    for process in processes:
        os.kill(process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for process in processes:
            with suppress(ProcessLookupError):  # PostgreSQL has ended a worker
                os.kill(process.pid, signal.SIGCONT)


def test_hung_database_means_503_within_seconds(tmp_path: Path) -> None:
    with (
        servers.postgres() as database,
        site(tmp_path, DATABASE_URL=database, LOG_LEVEL="CRITICAL") as (url, _),
        ThreadPoolExecutor(4 * len(CALLS)) as pool,
    ):
        for name in CALLS:
            assert call(url, name)[0] < 500, name
        with stopped(database):
            names = list(CALLS) * 4
            started = [pool.submit(call, url, name) for name in names]
            time.sleep(0.5)
            for _ in range(5):
                start = time.monotonic()
                with urllib.request.urlopen(f"{url}/health", timeout=30) as response:
                    assert response.status == 200
                assert time.monotonic() - start < 12
            for name, future in zip(names, started, strict=True):
                status, seconds, retry_after = future.result()
                assert seconds < 15, name
                assert status == 503 if name in MUST_FAIL else status in (200, 302, 503), (name, status)
                assert status != 503 or retry_after, name
            # The outage is known now: calls fail at once, except one that tries to connect.
            durations = sorted(call(url, "predict")[1] for _ in range(4))
            assert durations[1] < 2, durations
        end = time.monotonic() + 20
        # Each process notices itself that the database responds again.
        while any(call(url, "predict")[0] != 200 for _ in range(10)):
            assert time.monotonic() < end
            time.sleep(0.2)
        for name in CALLS:
            assert call(url, name)[0] < 500, name


@pytest.mark.database
@pytest.mark.django_db
def test_background_work_has_no_statement_timeout() -> None:
    from django.db import connection

    if connection.vendor != "postgresql":
        pytest.skip("needs PostgreSQL")
    with connection.cursor() as cursor:
        cursor.execute("SHOW statement_timeout")
        assert cursor.fetchone() == ("0",)


@pytest.mark.database
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(("setting", "limit"), [(None, "4500ms"), (0, "0"), (700, "700ms")])
def test_web_processes_have_a_statement_timeout_that_the_setting_replaces(
    monkeypatch: pytest.MonkeyPatch, settings: Any, setting: int | None, limit: str
) -> None:
    from django.db import connection

    if connection.vendor != "postgresql":
        pytest.skip("needs PostgreSQL")
    monkeypatch.setattr(limits, "_defaults", limits.BACKGROUND)  # restored at the end
    limits.set_defaults(limits.WEB)
    settings.STATEMENT_TIMEOUT_MS = setting
    connection.close()
    with connection.cursor() as cursor:
        cursor.execute("SHOW statement_timeout")
        assert cursor.fetchone() == (limit,)
    assert limits.response_seconds() == 5
    connection.close()


@pytest.mark.database
@pytest.mark.django_db(transaction=True)
def test_wait_ends_and_connection_recovers(settings: pytest.FixtureRequest) -> None:
    from django.db import connection

    if connection.vendor != "postgresql":
        pytest.skip("needs PostgreSQL")
    settings.DATABASE_TIMEOUT = 0.3
    with connection.cursor() as cursor, pytest.raises(OperationalError, match="did not respond within"):
        cursor.execute("SELECT pg_sleep(5)")
    connection.close()
    with pytest.raises(OperationalError, match="a moment ago"):
        connection.ensure_connection()
    time.sleep(1.1)
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        assert cursor.fetchone() == (1,)
