"""Django's PostgreSQL backend with a time limit on each wait for a response of the server.

TCP's time-outs do not detect a hung server, because its kernel still acknowledges packets. After the time
limit, the connection is closed. While the server is down, one thread at a time tries to connect and the
others fail at once, so that a web process has threads for other requests.
"""

import threading
import time
from functools import partial
from typing import Any

import psycopg
from django.db.backends.postgresql import base

from toxicmod.postgresql import limits

RETRY_SECONDS = 1.0


class Outage:
    """Whether the server did not respond, and the time before which this process does not try again."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_down = False
        self._until = 0.0

    def require_attempt(self) -> None:
        """Allow a thread to connect; while the server is down, allow one thread at a time.

        Raises:
            OperationalError: the server is down, and it is not yet time to try again.
        """
        with self._lock:
            now = time.monotonic()
            if now < self._until:
                raise psycopg.OperationalError("The database did not respond a moment ago.")
            if self._is_down:
                self._until = now + limits.response_seconds()

    def begin(self) -> None:
        with self._lock:
            self._is_down, self._until = True, time.monotonic() + RETRY_SECONDS

    def end(self) -> None:
        with self._lock:
            self._is_down, self._until = False, 0.0


outage = Outage()


def _wait(connection: psycopg.Connection[Any], generator: Any, *args: Any, **options: Any) -> Any:
    """Wait for the server as `Connection.wait` does, but for `DATABASE_TIMEOUT` seconds at most.

    Raises:
        OperationalError: the server did not respond in time; the connection is closed.
    """
    started = time.monotonic()
    limit = limits.response_seconds()
    options.setdefault("timeout", limit)
    try:
        return psycopg.Connection.wait(connection, generator, *args, **options)
    except psycopg.OperationalError:
        if time.monotonic() - started < limit:
            raise
    connection.close()
    outage.begin()
    raise psycopg.OperationalError(f"The database did not respond within {limit:g} s.")


class DatabaseWrapper(base.DatabaseWrapper):
    """A connection to PostgreSQL that is not attempted while the server is known to be down."""

    def get_connection_params(self) -> dict[str, Any]:
        parameters = super().get_connection_params()
        if limit := limits.statement_milliseconds():
            parameters.setdefault("options", f"-c statement_timeout={limit}")
        return parameters

    def get_new_connection(self, conn_params: dict[str, Any]) -> psycopg.Connection[Any]:
        outage.require_attempt()
        started = time.monotonic()
        try:
            connection = super().get_new_connection(conn_params)
        except psycopg.OperationalError:
            if time.monotonic() - started > RETRY_SECONDS:
                outage.begin()
            else:  # the server rejects connections at once, so another attempt does not block
                outage.end()
            raise
        outage.end()
        connection.wait = partial(_wait, connection)
        return connection
