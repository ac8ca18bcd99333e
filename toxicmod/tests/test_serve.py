"""`manage.py serve`, which `make run` calls, as a newcomer starts it."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from toxicmod.tests.site import ROOT, free_port

START_SECONDS = 90


class Served:
    """A running `manage.py serve` with what it has printed."""

    def __init__(self, data_dir: Path, port: int, **environment: str) -> None:
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

    def predict(self, **headers: str) -> dict[str, object]:
        request = urllib.request.Request(
            f"{self.url}/api/v1/predict",
            json.dumps({"text": "You stupid idiot"}).encode(),
            {"Content-Type": "application/json"} | headers,
        )
        with urllib.request.urlopen(request, timeout=10) as response:
            return json.load(response)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(60)


def _left_over(data_dir: Path) -> list[str]:
    """Return the command lines of processes that still belong to a served site."""
    lines = subprocess.run(
        ["ps", "-eo", "args"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    return [line for line in lines if str(data_dir / "data") in line]


@pytest.mark.slow
def test_it_sets_up_serves_stops_and_starts_again(tmp_path: Path) -> None:
    port = free_port()
    first = Served(tmp_path, port)
    try:
        first.wait_until_ready()
        password = re.search(r"password (\S+) \(shown this once\)", first.output())
        secret = re.search(r"API key: (\S+) \(shown this once\)", first.output())
        assert password
        assert secret
        assert first.url in first.output()
        assert first.predict(Authorization=f"Api-Key {secret[1]}")["is_toxic"] is True
    finally:
        first.stop()
    assert not _left_over(tmp_path)

    second = Served(tmp_path, port, API_KEY="chosen-key", ADMIN_PASSWORD="chosen-password")
    try:
        second.wait_until_ready()
        assert "shown this once" not in second.output()
        assert second.predict(Authorization="Api-Key chosen-key")["model_version"] == 1
        assert second.predict(Authorization=f"Api-Key {secret[1]}")["model_version"] == 1
    finally:
        second.stop()
    assert not _left_over(tmp_path)


def test_a_port_in_use_is_said_in_one_line(tmp_path: Path) -> None:

    with socket.create_server(("127.0.0.1", 0)) as taken:
        served = Served(tmp_path, taken.getsockname()[1])
        assert served.process.wait(60) == 1
    assert "Choose another: `PORT=8080 make run`" in served.output()
    assert "Traceback" not in served.output()
