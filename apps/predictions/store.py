"""Durable inserts, many requests to a flush: those that come while one is being flushed share the next."""

import threading
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import cache

from django.db import DEFAULT_DB_ALIAS, OperationalError, connection, connections
from django.db.backends.base.base import BaseDatabaseWrapper

from apps.predictions.models import Prediction, Row

_FIELD_OF = {field.attname: field for field in Prediction._meta.concrete_fields}
_FIELDS = [_FIELD_OF[name] for name in Row._fields]
_COLUMNS = ", ".join(f'"{field.column}"' for field in _FIELDS)
_COPY = f'COPY "{Prediction._meta.db_table}" ({_COLUMNS}) FROM STDIN (FORMAT BINARY)'
# What PostgreSQL's binary form of a column looks like. psycopg makes bytes of bytes and of integers faster
# than of UUIDs and times, which look the same.
_BINARY = {
    "UUIDField": "bytea",
    "DateTimeField": "int8",
    "ForeignKey": "int8",
    "FloatField": "float8",
    "PositiveSmallIntegerField": "int2",
    "PositiveIntegerField": "int4",
}
_TYPES = [_BINARY.get(field.get_internal_type(), "text") for field in _FIELDS]
_POSTGRES_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_INSERT = f'INSERT INTO "{Prediction._meta.db_table}" ({_COLUMNS}) VALUES ({", ".join("?" * len(_FIELDS))})'


class _Request:
    """What one thread wants stored; `errors` says of each part why it could not be, None where it is."""

    def __init__(self, parts: Sequence[Sequence[Row]]) -> None:
        self.parts = parts
        self.errors: list[Exception | None] = [None] * len(parts)
        self._leads = False
        self._told = threading.Lock()
        self._told.acquire()

    def tell(self, *, to_lead: bool) -> None:
        """Let the thread go on that waits: its rows are dealt with, or it is to store what waits."""
        self._leads = to_lead
        self._told.release()

    def wait(self) -> bool:
        """Wait to be told; return whether to lead."""
        self._told.acquire()
        return self._leads


class GroupCommit:
    """Inserts predictions of concurrent requests in one transaction (group commit, DeWitt et al. 1984).

    A flush to disk takes longer than scoring, SQLite has one writer at a time, and writers that it turns away
    sleep before they try again: one by one, eight threads would wait for eight flushes and for chance. So the
    first thread that comes commits; those that come meanwhile wait, and one of them commits for all. They
    share one database connection, which is warm and never two threads' at a time.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: list[_Request] = []
        self._is_led = False
        self._database: BaseDatabaseWrapper | None = None

    def insert_each(self, parts: Sequence[Sequence[Row]]) -> list[Exception | None]:
        """Return when every part is committed; inside a transaction of the caller's they are only inserted.

        Returns:
            Of each part None, or why none of its rows could be stored; no part spoils another.
        """
        if connection.in_atomic_block:
            _write(connection, [row for part in parts for row in part])
            return [None] * len(parts)
        request = _Request(parts)
        with self._lock:
            self._waiting.append(request)
            leads = not self._is_led
            self._is_led = True
        if leads or request.wait():
            self._lead(request)
        return request.errors

    def close(self) -> None:
        """Close the connection; the next insert opens another."""
        with self._lock:
            if self._database is not None:
                self._database.close()

    def _lead(self, own: _Request) -> None:
        """Store all that waits, and hand the lead on to one that has come meanwhile."""
        with self._lock:
            requests, self._waiting = self._waiting, []
        try:
            self._store(requests)
        except BaseException as error:
            for request in requests:
                request.errors = [OperationalError(f"Interrupted: {error!r}")] * len(request.parts)
            raise
        finally:
            with self._lock:
                self._is_led = bool(self._waiting)
                if self._waiting:
                    self._waiting[0].tell(to_lead=True)
            for request in requests:
                if request is not own:
                    request.tell(to_lead=False)

    def _store(self, requests: Sequence[_Request]) -> None:
        if self._database is None:
            self._database = connections.create_connection(DEFAULT_DB_ALIAS)
            self._database.inc_thread_sharing()
        database = self._database
        try:
            every = [row for request in requests for part in request.parts for row in part]
            _commit(database, every)
        except Exception as error:
            # The connection may have broken, or one row spoil it for all: each part gets its own try.
            last: Exception | None = error
            for request in requests:
                for place, part in enumerate(request.parts):
                    if last is None or not _is_out(database, last):
                        database.close_if_unusable_or_obsolete()
                        try:
                            _commit(database, part)
                            last = None
                        except Exception as its_own:
                            last = its_own
                    request.errors[place] = last


def _is_out(database: BaseDatabaseWrapper, error: Exception) -> bool:
    """Whether no row is to blame, and another try would only wait as long again.

    SQLite is locked by another for as long as we wait, or its disk is full; PostgreSQL cannot be reached.
    """
    return isinstance(error, OperationalError) and (
        database.vendor == "sqlite" or database.connection is None
    )


def _commit(database: BaseDatabaseWrapper, rows: Sequence[Row]) -> None:
    """Insert rows in one transaction, without the ORM, which takes longer over a row than the model."""
    database.ensure_connection()
    if database.vendor == "postgresql":
        _write(database, rows)  # one statement
        return
    with database.wrap_database_errors:
        database.connection.execute("BEGIN IMMEDIATE")
        try:
            _write(database, rows)
            database.connection.execute("COMMIT")
        except BaseException:
            if database.connection.in_transaction:
                database.connection.execute("ROLLBACK")
            raise


def _microseconds(time: datetime) -> int:
    return (time - _POSTGRES_EPOCH) // timedelta(microseconds=1)


def _write(database: BaseDatabaseWrapper, rows: Sequence[Row]) -> None:
    with database.wrap_database_errors:
        if database.vendor != "postgresql":
            at = cache(database.ops.adapt_datetimefield_value)
            database.connection.executemany(
                _INSERT, [(key.hex, at(time), *rest) for key, time, *rest in rows]
            )
        else:
            with database.connection.cursor() as cursor:
                if len(rows) == 1:
                    # One round trip to the server, of which COPY needs two.
                    cursor.execute(_INSERT.replace("?", "%s"), rows[0], prepare=True)
                else:
                    since = cache(_microseconds)
                    with cursor.copy(_COPY) as copy:
                        copy.set_types(_TYPES)
                        for key, time, *rest in rows:
                            copy.write_row((key.bytes, since(time), *rest))


_group = GroupCommit()
insert_each, close = _group.insert_each, _group.close
