"""Durable inserts, many requests to a flush: those that come while one is being flushed share the next."""

import threading
from collections.abc import Sequence
from datetime import datetime
from functools import cache
from uuid import UUID

from django.db import DEFAULT_DB_ALIAS, OperationalError, connection, connections
from django.db.backends.base.base import BaseDatabaseWrapper

from apps.predictions.models import Prediction

_FIELDS = Prediction._meta.concrete_fields
_NAMES = [field.attname for field in _FIELDS]
_COLUMNS = ", ".join(f'"{field.column}"' for field in _FIELDS)
_COPY = f'COPY "{Prediction._meta.db_table}" ({_COLUMNS}) FROM STDIN'
_INSERT = f'INSERT INTO "{Prediction._meta.db_table}" ({_COLUMNS}) VALUES ({", ".join("?" * len(_FIELDS))})'


class _Request:
    """What one request wants stored; `error` is why it could not be, None where all of it is."""

    def __init__(self, predictions: Sequence[Prediction]) -> None:
        self.predictions = predictions
        self.error: Exception | None = None
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

    def insert(self, predictions: Sequence[Prediction]) -> None:
        """Return when all are committed; inside a transaction of the caller's they are only inserted.

        Raises:
            DatabaseError: they could not be stored, none of them.
        """
        if connection.in_atomic_block:
            _write(connection, predictions)
            return
        request = _Request(predictions)
        with self._lock:
            self._waiting.append(request)
            leads = not self._is_led
            self._is_led = True
        if leads or request.wait():
            self._lead(request)
        if request.error is not None:
            raise request.error

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
                request.error = OperationalError(f"Interrupted: {error!r}")
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
            _commit(database, [prediction for request in requests for prediction in request.predictions])
        except Exception as error:
            if isinstance(error, OperationalError) and database.vendor == "sqlite":
                # Locked by another for as long as we wait, or the disk is full: no row is to blame.
                for request in requests:
                    request.error = error
                return
            # The connection may have broken, or one row spoil it for all: each request gets its own try.
            for request in requests:
                database.close_if_unusable_or_obsolete()
                try:
                    _commit(database, request.predictions)
                except Exception as its_own:
                    request.error = its_own


def _commit(database: BaseDatabaseWrapper, predictions: Sequence[Prediction]) -> None:
    """Insert rows in one transaction, without the ORM, which takes longer over a row than the model."""
    database.ensure_connection()
    if database.vendor == "postgresql":
        _write(database, predictions)  # one statement
        return
    with database.wrap_database_errors:
        database.connection.execute("BEGIN IMMEDIATE")
        try:
            _write(database, predictions)
            database.connection.execute("COMMIT")
        except BaseException:
            if database.connection.in_transaction:
                database.connection.execute("ROLLBACK")
            raise


def _write(database: BaseDatabaseWrapper, predictions: Sequence[Prediction]) -> None:
    if database.vendor == "postgresql":
        rows = [list(map(prediction.__dict__.get, _NAMES)) for prediction in predictions]
        with database.wrap_database_errors, database.connection.cursor() as cursor:
            if len(rows) == 1:
                # One round trip to the server, of which COPY needs two.
                cursor.execute(_INSERT.replace("?", "%s"), rows[0], prepare=True)
            else:
                with cursor.copy(_COPY) as copy:
                    for row in rows:
                        copy.write_row(row)
    else:
        at = cache(database.ops.adapt_datetimefield_value)  # one and the same for all of a batch
        rows = [
            [
                value.hex if type(value) is UUID else at(value) if type(value) is datetime else value
                for value in map(prediction.__dict__.get, _NAMES)
            ]
            for prediction in predictions
        ]
        with database.wrap_database_errors:
            database.connection.executemany(_INSERT, rows)
    for prediction in predictions:
        prediction._state.adding, prediction._state.db = False, database.alias


_group = GroupCommit()
insert, close = _group.insert, _group.close
