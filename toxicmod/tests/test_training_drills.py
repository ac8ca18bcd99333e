"""Training by real Celery workers on real servers, while workers, the broker and MLflow fail."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from toxicmod.management.commands.serve import valkey_server
from toxicmod.testing.factories import csv_bytes, labeled_rows
from toxicmod.testing.servers import postgres
from toxicmod.testing.site import ROOT, free_port, manage

pytestmark = pytest.mark.slow

QUEUE = """
from apps.core.permissions import SYSTEM
from apps.training import actions
from apps.training.models import Dataset
run = actions.create_run(actor=SYSTEM, dataset=Dataset.objects.get(name="{name}"))
actions.enqueue_run(run)
print(run.pk)
"""
RECOVER = "from apps.training import actions; actions.recover_runs()"

GIVE_FEEDBACK = """
from apps.predictions.actions import give_feedback, score
from apps.predictions.models import Prediction
texts = [f"what a walnut you are, number {number}" for number in range(20)]
for prediction in score(texts=texts, source=Prediction.Source.API)[0]:
    give_feedback(prediction=prediction, is_right=False, true_labels=["toxic", "insult"])
"""
RETRAIN = "from apps.training import actions; actions.retrain_if_due()"


class TrainingSite:
    """A site without web processes."""

    def __init__(self, folder: Path, database: str, broker: "Broker") -> None:
        self.folder = folder
        self.broker = broker
        self.database = database
        self.env = os.environ | {
            "DATA_DIR": str(folder / "data"),
            "DATABASE_URL": database,
            "REDIS_URL": broker.url,
            "MLFLOW_TRACKING_URI": "http://127.0.0.1:9",  # MLflow is down in every drill
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
            "LOG_LEVEL": "WARNING",
        }
        manage("migrate", env=self.env)
        manage("install_base_model", env=self.env)
        for name, count in (("small", 200), ("large", 6_000)):
            path = folder / f"{name}.csv"
            path.write_bytes(csv_bytes(labeled_rows(count, share=0.05)))
            manage("import_dataset", str(path), "--name", name, env=self.env)

    def rows(self, query: str) -> list[tuple]:
        with psycopg.connect(self.database) as connection:
            return connection.execute(query).fetchall()

    def change(self, query: str) -> None:
        with psycopg.connect(self.database) as connection:
            connection.execute(query)

    def queue(self, name: str) -> int:
        return int(manage("shell", "-v0", "-c", QUEUE.format(name=name), env=self.env).split()[-1])

    def status(self, run: int) -> str:
        return self.rows(f"SELECT status FROM training_trainingrun WHERE id = {run}")[0][0]

    def worker(self, *options: str) -> "contextmanager":
        """Run a Celery worker."""
        return self.process("-m", "celery", "-q", "-A", "toxicmod", "worker", "-l", "WARNING", *options)

    @contextmanager
    def process(self, *arguments: str) -> Iterator[subprocess.Popen]:
        """Run Python in a process group of its own."""
        command = [sys.executable, *arguments]
        with (self.folder / "worker.log").open("a") as log:
            process = subprocess.Popen(
                command, cwd=ROOT, env=self.env, stdout=log, stderr=log, start_new_session=True
            )
            try:
                yield process
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def trainer(self, name: str = "t1") -> "contextmanager":
        return self.worker("-Q", "training", "-c", "1", "-n", f"{name}@%h")


class Broker:
    """A Redis-protocol server that can be restarted on its port, with its data."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            [valkey_server(), "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder),
             "--appendonly", "yes", "--loglevel", "warning"],
            stdout=subprocess.DEVNULL,
        )  # fmt: skip

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


def wait_for(condition: Callable[[], object], seconds: float, training_site: TrainingSite) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return
        time.sleep(0.2)
    raise AssertionError(
        f"not within {seconds} s:"
        f" {training_site.rows('SELECT id, status, step, error FROM training_trainingrun')}\n"
        + (training_site.folder / "worker.log").read_text()[-3000:]
    )


@pytest.fixture(scope="module")
def training_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrainingSite]:
    folder = tmp_path_factory.mktemp("drills")
    broker = Broker(folder)
    try:
        with postgres() as database:
            yield TrainingSite(folder, database, broker)
    finally:
        broker.stop()


def test_killed_worker_fails_its_run_and_the_retry_starts_clean(training_site: TrainingSite) -> None:
    with training_site.trainer() as worker:
        lost_run = training_site.queue("large")
        wait_for(lambda: training_site.status(lost_run) == "running", 60, training_site)
        os.killpg(worker.pid, signal.SIGKILL)
        worker.wait()
    assert training_site.status(lost_run) == "running"
    before = training_site.rows("SELECT count(*) FROM registry_modelversion")
    # As if the worker had been silent for 45 s. The retry uses the small data set, to save time.
    training_site.change(
        "UPDATE training_trainingrun SET heartbeat_at = now() - interval '1 minute', dataset_id ="
        f" (SELECT id FROM training_dataset WHERE name = 'small') WHERE id = {lost_run}"
    )
    with ThreadPoolExecutor(2) as pool:  # two schedulers at once
        list(pool.map(lambda _: manage("shell", "-v0", "-c", RECOVER, env=training_site.env), range(2)))
    assert training_site.status(lost_run) == "failed"
    (retry,) = training_site.rows(
        f"SELECT id, status, progress FROM training_trainingrun WHERE retry_of_id = {lost_run}"
    )
    assert retry[1:] == ("queued", 0)
    with training_site.trainer():
        wait_for(lambda: training_site.status(retry[0]) == "succeeded", 90, training_site)
    after = training_site.rows("SELECT count(*) FROM registry_modelversion")
    assert after[0][0] == before[0][0] + 1
    assert training_site.rows("SELECT count(*) FROM registry_modelversion WHERE alias = 'champion'") == [(1,)]


def test_sigterm_requeues_the_run_for_the_next_start(training_site: TrainingSite) -> None:
    with training_site.trainer() as worker:
        run = training_site.queue("large")
        wait_for(lambda: training_site.status(run) == "running", 60, training_site)
        os.killpg(worker.pid, signal.SIGTERM)  # as supervisord does on Ctrl-C
        worker.wait(60)
    query = f"SELECT status, step, interruptions, error FROM training_trainingrun WHERE id = {run}"
    assert training_site.rows(query) == [("queued", "interrupted", 1, "")]
    # The small data set, to save time.
    training_site.change(
        "UPDATE training_trainingrun SET dataset_id ="
        f" (SELECT id FROM training_dataset WHERE name = 'small') WHERE id = {run}"
    )
    with training_site.trainer():
        manage("shell", "-v0", "-c", RECOVER, env=training_site.env)  # the schedule does so every 15 s
        wait_for(lambda: training_site.status(run) == "succeeded", 120, training_site)
    assert training_site.rows(f"SELECT id FROM training_trainingrun WHERE retry_of_id = {run}") == []


def test_stop_of_all_workers_interrupts_training(training_site: TrainingSite) -> None:
    schedule = str(training_site.folder / "beat")
    with training_site.process("manage.py", "run_workers", "--schedule", schedule) as workers:
        run = training_site.queue("large")
        wait_for(lambda: training_site.status(run) == "running", 120, training_site)
        workers.terminate()  # as supervisord does on Ctrl-C; it kills the process after 20 s
        assert workers.wait(20) == 0
    query = f"SELECT status, step, interruptions, error FROM training_trainingrun WHERE id = {run}"
    assert training_site.rows(query) == [("queued", "interrupted", 1, "")]
    training_site.change(f"UPDATE training_trainingrun SET status = 'cancelled' WHERE id = {run}")


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_stopped_command_requeues_its_run(training_site: TrainingSite, stop: signal.Signals) -> None:
    command = [sys.executable, "manage.py", "train_model", "--dataset", "large"]
    running = "SELECT id FROM training_trainingrun WHERE status = 'running'"
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=training_site.env,
        stderr=subprocess.PIPE,
        text=True,
        # Tests that run in the background of a shell ignore SIGINT, and so would this process.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    wait_for(lambda: training_site.rows(running), 60, training_site)
    ((run,),) = training_site.rows(running)
    process.send_signal(stop)
    assert f"Interrupted. Run {run} is queued again" in process.communicate(timeout=60)[1]
    assert process.returncode == 1
    assert training_site.status(run) == "queued"
    training_site.change(f"UPDATE training_trainingrun SET status = 'cancelled' WHERE id = {run}")


def test_broker_restart_loses_no_run(training_site: TrainingSite) -> None:
    runs = [training_site.queue("small") for _ in range(2)]
    training_site.broker.stop()
    # A run can be requested while the broker is down.
    runs.append(training_site.queue("small"))
    training_site.broker.start()
    schedule = training_site.folder / "beat"
    beat = ["-Q", "default", "-c", "1", "--beat"]
    with (
        training_site.trainer("t1"),
        training_site.trainer("t2"),
        training_site.worker(*beat, "-n", "b1@%h", "--schedule", f"{schedule}1"),
        training_site.worker(*beat, "-n", "b2@%h", "--schedule", f"{schedule}2"),
    ):
        running: set[int] = set()

        def done() -> bool:
            counts = dict(
                training_site.rows("SELECT status, count(*) FROM training_trainingrun GROUP BY status")
            )
            running.add(counts.get("running", 0))
            return all(training_site.status(run) == "succeeded" for run in runs)

        wait_for(done, 240, training_site)
    assert running <= {0, 1}
    versions = training_site.rows(f"SELECT version_id FROM training_trainingrun WHERE id IN {tuple(runs)}")
    assert len(set(versions)) == len(runs)
    assert training_site.rows("SELECT count(*) FROM training_trainingrun WHERE status = 'running'") == [(0,)]
    assert training_site.rows("SELECT count(*) FROM registry_modelversion WHERE alias = 'champion'") == [(1,)]


def test_two_schedulers_request_one_run(training_site: TrainingSite) -> None:
    env = training_site.env | {"TRAIN_AFTER_LABELS": "20"}
    training_site.broker.stop()
    manage("shell", "-v0", "-c", GIVE_FEEDBACK, env=env)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: manage("shell", "-v0", "-c", RETRAIN, env=env), range(2)))
    training_site.broker.start()
    runs = training_site.rows(
        "SELECT r.status, d.source FROM training_trainingrun r JOIN training_dataset d ON d.id = r.dataset_id"
        " WHERE r.trigger IS NOT NULL"
    )
    assert runs == [("queued", "api: 20, large v1: 6000")]
