"""A real gunicorn for tests and benchmarks."""

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
    """Return a port on which no process listens."""
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
def site(
    data_dir: Path, *, file_descriptors: int | None = None, **environment: str
) -> Iterator[tuple[str, dict[str, str]]]:
    """Migrate, install the base model and run gunicorn; yield the site's URL and its environment."""
    env = os.environ | {
        "DATA_DIR": str(data_dir),
        "ANONYMOUS_RATE_PER_MINUTE": "1000000",
        "LOG_LEVEL": "WARNING",
    }
    env |= environment
    manage("migrate", env=env)
    manage("install_base_model", env=env)
    env["PORT"] = str(free_port())  # as late as possible, because other tests look for a port too
    with gunicorn(env, file_descriptors) as (url, _):
        yield url, env


@contextmanager
def gunicorn(
    env: Mapping[str, str], file_descriptors: int | None = None
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Run gunicorn in the environment of a site; yield its URL and its main process.

    Args:
        env: the environment, with PORT and DATA_DIR.
        file_descriptors: soft and hard limit of each process; None to inherit the limits.
    """
    pid = Path(env["DATA_DIR"]) / PID
    command = [sys.executable, "-m", "gunicorn", "--config", "python:toxicmod.gunicorn", "--pid", str(pid)]
    if file_descriptors is not None:
        command = ["bash", "-c", f'ulimit -n {file_descriptors}; exec "$@"', "bash", *command]
    process = subprocess.Popen(command, cwd=ROOT, env=env)
    scheme = "https" if "--certfile" in env.get("GUNICORN_CMD_ARGS", "") else "http"
    url = f"{scheme}://127.0.0.1:{env['PORT']}"
    try:
        wait_until_answered(process, f"{url}/ready")
        yield url, process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(40)  # gunicorn waits 30 s for a worker that has missed the signal
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_until_answered(process: subprocess.Popen[bytes], url: str) -> None:
    """Wait until the server responds with 200.

    Raises:
        RuntimeError: the server ended, or did not respond with 200 within a minute.
    """
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if process.poll() is not None:
            raise RuntimeError(f"The server ended with {process.returncode}")
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.05)
    raise RuntimeError(f"{url} did not respond with 200 within 60 s")
