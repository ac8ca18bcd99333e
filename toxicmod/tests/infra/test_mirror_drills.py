"""The mirror equals the database after its workers were killed, throttled and disconnected."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from toxicmod.testing import aws, servers
from toxicmod.testing.site import ROOT, manage

pytestmark = pytest.mark.slow

COMMENTS = 400
CREATE_RECORDS = f"""
from apps.moderation import actions
from apps.predictions.actions import give_feedback, score
from apps.predictions.models import Prediction
actions.install_default_policy()
texts = [f"comment {{number}}" for number in range({COMMENTS})]
predictions, _ = score(texts=texts, source=Prediction.Source.API)
for prediction in predictions[:40]:
    give_feedback(prediction=prediction, is_right=True)
for number in range(20):
    actions.moderate(text=f"A fine day, number {{number}}")
"""


class MirrorSite:
    """A site without web processes, and the proxy to its AWS."""

    def __init__(self, folder: Path, database: str, broker: str, proxy: aws.FaultProxy) -> None:
        self.folder, self.database, self.proxy = folder, database, proxy
        self.env = (
            os.environ
            | aws.ENVIRONMENT
            | {
                "DATA_DIR": str(folder / "data"),
                "DATABASE_URL": database,
                "REDIS_URL": broker,
                "AWS_ENDPOINT_URL": proxy.url,
                "DYNAMODB_TABLE": "records",
                "LOG_LEVEL": "WARNING",
            }
        )
        manage("migrate", env=self.env)
        manage("install_base_model", env=self.env)
        manage("mirror", "--create-table", env=self.env)
        manage("mirror", "--backfill", env=self.env)  # turns it on

    def one(self, query: str) -> int:
        with psycopg.connect(self.database) as connection:
            row = connection.execute(query).fetchone()
        assert row is not None
        return row[0]

    def waiting(self) -> int:
        return self.one("SELECT count(*) FROM mirror_changelogentry")

    @contextmanager
    def worker(self) -> Iterator[subprocess.Popen]:
        """Run a Celery worker with the schedule in a process group of its own."""
        command = [sys.executable, "-m", "celery", "-q", "-A", "toxicmod", "worker", "-l", "WARNING"]
        options = ["-Q", "default", "-c", "1", "--beat", "--schedule", str(self.folder / "beat")]
        with (self.folder / "worker.log").open("a") as log:
            process = subprocess.Popen(
                [*command, *options], cwd=ROOT, env=self.env, stdout=log, stderr=log, start_new_session=True
            )
            try:
                yield process
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def wait_for(self, condition: Callable[[], object], seconds: float) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, (self.folder / "worker.log").read_text()[-3000:]
            time.sleep(0.1)


@pytest.fixture
def mirror_site(tmp_path: Path) -> Iterator[MirrorSite]:
    with (
        servers.postgres() as database,
        servers.redis() as broker,
        aws.moto() as moto_url,
        aws.fault_proxy(moto_url) as proxy,
    ):
        yield MirrorSite(tmp_path, database, broker, proxy)


class Faults:
    """The faults of calls, by their number since the faults were set."""

    def __init__(self, plan: Callable[[int], str | None]) -> None:
        self.plan, self.count, self.lock = plan, 0, threading.Lock()

    def __call__(self, operation: str) -> str | None:
        if operation != "PutItem":
            return None
        with self.lock:
            self.count += 1
            return self.plan(self.count)


def test_mirror_is_complete_after_kills_throttling_and_outages(mirror_site: MirrorSite) -> None:
    manage("shell", "-v0", "-c", CREATE_RECORDS, env=mirror_site.env)
    records = sum(
        mirror_site.one(f"SELECT count(*) FROM {table}")
        for table in ("predictions_prediction", "predictions_feedback", "moderation_decision")
    )
    assert mirror_site.waiting() == records == COMMENTS + 40 + 2 * 20

    # Calls are slow, so that the worker is killed in the middle of a batch.
    slow = Faults(lambda number: time.sleep(0.1))  # type: ignore[func-returns-value]
    mirror_site.proxy.fault = slow
    with mirror_site.worker() as worker:
        mirror_site.wait_for(lambda: slow.count > 240, 300)
        os.killpg(worker.pid, signal.SIGKILL)
        worker.wait()
    assert 0 < mirror_site.waiting() < records

    # As if the lease had expired after a minute.
    with psycopg.connect(mirror_site.database) as connection:
        connection.execute("UPDATE mirror_mirrorstate SET lease_expires_at = now(), retry_at = NULL")
    bad = Faults(
        lambda number: (
            "cut"
            if number < 20
            else ("ProvisionedThroughputExceededException", "lost", None, None)[number % 4]
            if number < 200
            else None
        )
    )
    mirror_site.proxy.fault = bad
    with mirror_site.worker():
        mirror_site.wait_for(lambda: bad.count >= 20, 300)
        manage("shell", "-v0", "-c", CREATE_RECORDS, env=mirror_site.env)  # more records meanwhile
        mirror_site.wait_for(lambda: mirror_site.waiting() == 0, 300)
        # The sender stores its result only after the last entry has left the change log.
        mirror_site.wait_for(lambda: mirror_site.one("SELECT failures FROM mirror_mirrorstate") == 0, 10)
    output = manage("mirror", "--verify", env=mirror_site.env)
    assert f"Both sides are equal: {2 * records} records" in output
    assert "0 records are pending" in output
