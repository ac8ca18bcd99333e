"""`manage.py serve`, which `make run` calls, in an empty folder."""

import contextlib
import fcntl
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from celery import Celery
from django.conf import settings

from toxicmod.testing.factories import csv_bytes, labeled_rows
from toxicmod.testing.site import ROOT, free_port, manage

START_SECONDS = 90
TRAINING_SECONDS = 300
CREATE_RUN = """
from apps.core.permissions import SYSTEM
from apps.training import actions
from apps.training.models import Dataset
actions.create_run(actor=SYSTEM, dataset=Dataset.objects.get(name="labeled"))
"""
RUNS = "SELECT status, step, error FROM training_trainingrun"


class ServeProcess:
    """A running `manage.py serve` and its output."""

    def __init__(self, data_dir: Path, port: int, **environment: str) -> None:
        data_dir.mkdir(exist_ok=True)
        self.log = data_dir / "serve.log"
        self.url = f"http://127.0.0.1:{port}"
        kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        env = kept | {"DATA_DIR": str(data_dir / "data"), "PORT": str(port)} | environment
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "manage.py", "serve"], cwd=ROOT, env=env, stdout=log, stderr=log
            )

    def output(self) -> str:
        return self.log.read_text()

    def wait_until_ready(self) -> None:
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end and self.process.poll() is None:
            if "toxicmod is ready" in self.output():
                return
            time.sleep(0.1)
        raise AssertionError(self.output())

    def post(self, path: str, body: dict[str, object], **headers: str) -> dict[str, object]:
        request = urllib.request.Request(
            self.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"} | headers
        )
        with urllib.request.urlopen(request, timeout=60) as response:
            return json.load(response)

    def predict(self, **headers: str) -> dict[str, object]:
        return self.post("/api/v1/predict", {"text": "You stupid idiot"}, **headers)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(60)


def _remaining_processes(data_dir: Path) -> list[str]:
    """Return the command lines of processes that still belong to a served site."""
    lines = subprocess.run(
        ["ps", "-eo", "args"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    return [line for line in lines if str(data_dir / "data") in line]


@pytest.mark.slow
def test_serve_sets_up_stops_and_starts_again(tmp_path: Path) -> None:
    port = free_port()
    first = ServeProcess(tmp_path, port)
    try:
        first.wait_until_ready()
        password = re.search(r"password (\S+) \(shown once\)", first.output())
        secret = re.search(r"API key: (\S+) \(shown once\)", first.output())
        assert password
        assert secret
        assert first.url in first.output()
        assert first.predict(Authorization=f"Api-Key {secret[1]}")["is_toxic"] is True
    finally:
        first.stop()
    assert not _remaining_processes(tmp_path)

    second = ServeProcess(tmp_path, port, API_KEY="chosen-key", ADMIN_PASSWORD="chosen-password")
    try:
        second.wait_until_ready()
        assert "shown once" not in second.output()
        assert second.predict(Authorization="Api-Key chosen-key")["model_version"] == 1
        assert second.predict(Authorization=f"Api-Key {secret[1]}")["model_version"] == 1
    finally:
        second.stop()
    assert not _remaining_processes(tmp_path)


def test_serve_reports_port_in_use_in_one_line(tmp_path: Path) -> None:

    with socket.create_server(("127.0.0.1", 0)) as taken:
        served = ServeProcess(tmp_path, taken.getsockname()[1])
        assert served.process.wait(60) == 1
    assert "Use another port: `PORT=8080 make run`" in served.output()
    assert "Traceback" not in served.output()


def test_serve_rejects_folder_in_use(tmp_path: Path) -> None:
    run = tmp_path / "data" / "run"
    run.mkdir(parents=True)
    with (run / "serve.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        served = ServeProcess(tmp_path, free_port())
        assert served.process.wait(60) == 1
    assert "Another `make run` uses the folder" in served.output()
    assert "Traceback" not in served.output()
    assert not (tmp_path / "data" / "toxicmod.sqlite3").exists()


def _readable_by_others(folder: Path) -> list[str]:
    return [str(path) for path in [folder, *folder.rglob("*")] if path.lstat().st_mode & 0o077]


@pytest.mark.slow
def test_serve_starts_again_after_kill_and_keeps_data_private(tmp_path: Path) -> None:
    data = tmp_path / "data"
    (data / "datasets").mkdir(parents=True)
    (data / "datasets" / "old.csv").write_text("a comment")
    for path in (data, data / "datasets", data / "datasets" / "old.csv"):
        path.chmod(0o777)
    port = free_port()
    first = ServeProcess(tmp_path, port, API_KEY="chosen-key")
    try:
        first.wait_until_ready()
        assert first.predict(Authorization="Api-Key chosen-key")["is_toxic"] is True
        assert not _readable_by_others(data)
        second = ServeProcess(tmp_path / "second", free_port(), DATA_DIR=str(data))
        assert second.process.wait(60) == 1
        assert "Another `make run` uses the folder" in second.output()
    finally:
        first.process.kill()
        first.process.wait()
    again = ServeProcess(tmp_path, port)
    try:
        again.wait_until_ready()
        assert again.predict(Authorization="Api-Key chosen-key")["is_toxic"] is True
    finally:
        again.stop()
    assert not _readable_by_others(data)
    assert not _remaining_processes(tmp_path)


def _memory_mb(pid: int) -> float:
    """Return the proportional set size of a process and all its descendants."""
    process = psutil.Process(pid)
    total = 0
    for member in [process, *process.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            total += member.memory_full_info().pss
    return total / 1e6


def _run_training(data_dir: Path, pid: int) -> float:
    """Have the site's worker train a model on 3,000 comments; return the memory at its peak."""
    highest = 0.0
    csv = data_dir / "labeled.csv"
    csv.write_bytes(csv_bytes(labeled_rows(3_000)))
    env = os.environ | {"DATA_DIR": str(data_dir / "data")}
    manage("import_dataset", str(csv), "--name", "labeled", env=env)
    manage("shell", "-v0", "-c", CREATE_RUN, env=env)
    database = f"file:{data_dir / 'data' / 'toxicmod.sqlite3'}?mode=ro"
    end = time.monotonic() + TRAINING_SECONDS
    with contextlib.closing(sqlite3.connect(database, uri=True, timeout=30)) as connection:
        while not connection.execute("SELECT 1 FROM training_gatereport").fetchone():
            assert time.monotonic() < end, connection.execute(RUNS).fetchall()
            highest = max(highest, _memory_mb(pid))
            time.sleep(0.5)
    return highest


def _send_schedules(data_dir: Path) -> None:
    """Have the workers run each scheduled task now."""
    config = (data_dir / "data" / "run" / "valkey.conf").read_text()
    port, password = (re.search(rf"{name} (\S+)", config)[1] for name in ("port", "requirepass"))
    with Celery(broker=f"redis://:{password}@127.0.0.1:{port}/0") as broker:
        for schedule in settings.CELERY_BEAT_SCHEDULE.values():
            queue = settings.CELERY_TASK_ROUTES.get(schedule["task"], {"queue": "default"})["queue"]
            broker.send_task(schedule["task"], queue=queue)


@pytest.mark.slow
def test_serve_needs_at_most_1_gb(tmp_path: Path) -> None:
    """The bound holds after batches and while schedules run, before a training, during it and after it."""
    served = ServeProcess(tmp_path, free_port(), API_KEY="chosen-key")

    def use() -> float:
        texts = [f"You are comment number {number}, thank you" for number in range(1_000)]
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda _: served.post("/api/v1/predict", {"texts": texts}), range(32)))
        _send_schedules(tmp_path)
        highest = 0.0
        end = time.monotonic() + 45
        while time.monotonic() < end:
            highest = max(highest, _memory_mb(served.process.pid))
            time.sleep(0.5)
        return highest

    try:
        served.wait_until_ready()
        before = use()
        during = _run_training(tmp_path, served.process.pid)
        after = use()
    finally:
        served.stop()
    assert "Traceback" not in served.output()
    assert 300 < before <= 1_000
    assert 300 < during <= 1_000
    assert 300 < after <= 1_000


@pytest.mark.slow
def test_web_server_that_ended_starts_again_and_counts_all_requests(tmp_path: Path) -> None:
    port = free_port()
    served = ServeProcess(tmp_path, port, API_KEY="chosen-key", METRICS_TOKEN="chosen-token")

    def main_web_process() -> psutil.Process:
        """Return the process that listens and has children: the main process of gunicorn."""
        (process,) = (
            process
            for process in psutil.Process(served.process.pid).children(recursive=True)
            if process.children() and any(socket.laddr.port == port for socket in process.net_connections())
        )
        return process

    def count_requests() -> float:
        request = urllib.request.Request(
            f"{served.url}/metrics", headers={"Authorization": "Bearer chosen-token"}
        )
        with urllib.request.urlopen(request, timeout=60) as response:
            lines = response.read().decode().splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith("toxicmod_requests_total{"))

    try:
        served.wait_until_ready()
        served.predict(Authorization="Api-Key chosen-key")
        assert count_requests() == 1
        first = main_web_process()
        first.terminate()
        first.wait(60)
        end = time.monotonic() + START_SECONDS
        while served.output().count("toxicmod is ready") < 2:
            assert time.monotonic() < end, served.output()
            time.sleep(0.1)
        served.predict(Authorization="Api-Key chosen-key")
        assert count_requests() == 1
        assert main_web_process().pid != first.pid
    finally:
        served.stop()
    assert "Traceback" not in served.output()
    assert not _remaining_processes(tmp_path)


def test_gunicorn_raises_soft_limit_of_file_descriptors() -> None:
    code = "import resource, toxicmod.gunicorn; print(*resource.getrlimit(resource.RLIMIT_NOFILE))"
    output = subprocess.run(
        ["bash", "-c", f'ulimit -S -n 256; exec {sys.executable} -c "{code}"'],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    soft, hard = map(int, output.split())
    assert soft == min(hard, 65_536)
