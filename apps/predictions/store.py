"""Durable inserts, many requests to a flush: those that come while one is being flushed share the next."""

import threading
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from queue import Empty, SimpleQueue
from uuid import UUID

from django.db import OperationalError, connection, transaction

from apps.predictions.models import Prediction

IDLE_SECONDS = 60.0
_FIELDS = Prediction._meta.concrete_fields
_NAMES = [field.attname for field in _FIELDS]
_COLUMNS = ", ".join(f'"{field.column}"' for field in _FIELDS)
_COPY = f'COPY "{Prediction._meta.db_table}" ({_COLUMNS}) FROM STDIN'
_INSERT = (
    f'INSERT INTO "{Prediction._meta.db_table}" ({_COLUMNS}) VALUES ({", ".join(["%s"] * len(_FIELDS))})'
)


class _Request:
    """What one request wants stored; `error` is why it could not be, None where all of it is."""

    def __init__(self, predictions: Sequence[Prediction]) -> None:
        self.predictions = predictions
        self.error: Exception | None = None
        self._done = threading.Lock()
        self._done.acquire()

    def store(self) -> None:
        try:
            _write(self.predictions)
        except Exception as error:
            self.error = error

    def answer(self) -> None:
        """Let the thread go on that waits for the answer."""
        self._done.release()

    def wait(self) -> None:
        self._done.acquire()
        if self.error is not None:
            raise self.error


class GroupCommit:
    """Inserts predictions of concurrent requests in one transaction (group commit, DeWitt et al. 1984).

    A flush to disk takes longer than scoring, SQLite has one writer at a time, and writers that it turns away
    sleep before they try again: one by one, eight threads would wait for eight flushes and for chance. The
    requests' threads hand their rows to one thread, which commits whatever waits, and go on once it has. It
    has a database connection of its own, and ends when there is nothing to do for a minute.
    """

    def __init__(self) -> None:
        self._queue: SimpleQueue[_Request | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._writer: threading.Thread | None = None

    def insert(self, predictions: Sequence[Prediction]) -> None:
        """Return when all are committed; inside a transaction of the caller's they are only inserted.

        Raises:
            DatabaseError: they could not be stored, none of them.
        """
        if connection.in_atomic_block:
            _write(predictions)
            return
        request = _Request(predictions)
        self._queue.put(request)
        with self._lock:
            if self._writer is None or not self._writer.is_alive():  # a forked process has no threads
                self._writer = threading.Thread(target=self._work, name="predictions writer", daemon=True)
                self._writer.start()
        request.wait()

    def close(self) -> None:
        """End the writer, with its connection, once all that waits is stored."""
        if (writer := self._writer) and writer.is_alive():
            self._queue.put(None)
            writer.join()

    def _work(self) -> None:
        try:
            while requests := self._take():
                _store(requests)
                for request in requests:
                    request.answer()
        finally:
            connection.close()

    def _take(self) -> list[_Request]:
        """Wait for work and return all there is; nothing where the thread is to end."""
        requests: list[_Request] = []
        with suppress(Empty):
            request = self._queue.get(timeout=IDLE_SECONDS)
            while request is not None:
                requests.append(request)
                request = self._queue.get_nowait()
            if requests:
                self._queue.put(None)  # `close` ends the thread after what waits
        if not requests:
            with self._lock:
                # One that came at this moment sees either a thread that goes on or none.
                if self._queue.empty():
                    self._writer = None
                    return []
            return self._take()
        return requests


def _store(requests: Sequence[_Request]) -> None:
    try:
        _write([prediction for request in requests for prediction in request.predictions])
    except Exception as error:
        if isinstance(error, OperationalError) and connection.vendor == "sqlite":
            # Locked by another for as long as we wait, or the disk is full: no row is to blame.
            for request in requests:
                request.error = error
            return
        # The connection may have broken, or one row spoil it for all: each request gets its own try.
        connection.close_if_unusable_or_obsolete()
        for request in requests:
            request.store()


def _write(predictions: Sequence[Prediction]) -> None:
    """Insert rows in one transaction, without the ORM, which takes longer over a row than the model."""
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor, connection.wrap_database_errors, cursor.copy(_COPY) as copy:
            for prediction in predictions:
                copy.write_row(list(map(prediction.__dict__.get, _NAMES)))
    else:
        rows = [
            [
                field.get_db_prep_save(value, connection) if isinstance(value, UUID | datetime) else value
                for field, value in zip(_FIELDS, map(prediction.__dict__.get, _NAMES), strict=True)
            ]
            for prediction in predictions
        ]
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.executemany(_INSERT, rows)
    for prediction in predictions:
        prediction._state.adding, prediction._state.db = False, connection.alias


_group = GroupCommit()
insert, close = _group.insert, _group.close
