"""A real gunicorn for tests and benches."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PID = "gunicorn.pid"


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def manage(*args: str, env: Mapping[str, str]) -> str:
    """Run a manage.py command and return what it printed.

    Raises:
        CalledProcessError: it failed; its output is in the error.
    """
    command = [sys.executable, "manage.py", *args]
    return subprocess.run(command, cwd=ROOT, env=env, check=True, capture_output=True, text=True).stdout


@contextmanager
def site(data_dir: Path, **environment: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Migrate, install the base model and run gunicorn; yield the site's URL and its environment."""
    port = free_port()
    env = os.environ | {
        "DATA_DIR": str(data_dir),
        "PORT": str(port),
        "ANONYMOUS_RATE_PER_MINUTE": "1000000",
        "LOG_LEVEL": "WARNING",
    }
    env |= environment
    manage("migrate", env=env)
    manage("install_base_model", env=env)
    process = subprocess.Popen(
        [sys.executable, "-m", "gunicorn", "--config", "python:toxicmod.gunicorn", "--pid", data_dir / PID],
        cwd=ROOT,
        env=env,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        _wait_until_ready(process, url)
        yield url, env
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_ready(process: subprocess.Popen[bytes], url: str) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if process.poll() is not None:
            raise RuntimeError(f"gunicorn ended with {process.returncode}")
        try:
            with urllib.request.urlopen(f"{url}/ready", timeout=5):
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.05)
    raise RuntimeError("gunicorn was not ready within 60 s")
