"""Durable inserts, many threads to a flush: those that come while one is being flushed share the next."""

import threading
from collections import deque

from django.db import DatabaseError, connection

from apps.predictions.models import Prediction


class _Row:
    """A prediction on its way; `error` is what the database said, None where it is stored."""

    def __init__(self, prediction: Prediction) -> None:
        self.prediction = prediction
        self.is_done = False
        self.error: DatabaseError | None = None

    def insert(self) -> None:
        try:
            self.prediction.save(force_insert=True)
        except DatabaseError as error:
            self.error = error
        self.is_done = True


class GroupCommit:
    """Inserts predictions of concurrent requests in one transaction (group commit, DeWitt et al. 1984).

    A flush to disk takes longer than scoring, SQLite has one writer at a time, and writers that it turns away
    sleep before they try again: one by one, eight threads would wait for eight flushes and for chance.
    """

    def __init__(self) -> None:
        self._waiting: deque[_Row] = deque()
        self._turn = threading.Lock()

    def insert(self, prediction: Prediction) -> None:
        """Return when the prediction is committed; inside a transaction of the caller's it is only inserted.

        Raises:
            DatabaseError: it could not be stored.
        """
        row = _Row(prediction)
        if connection.in_atomic_block:
            row.insert()
        else:
            self._waiting.append(row)
            with self._turn:
                if not row.is_done:  # nobody who had the turn before took it along
                    self._insert_all()
        if row.error is not None:
            raise row.error

    def _insert_all(self) -> None:
        rows = []
        while self._waiting:
            rows.append(self._waiting.popleft())
        if len(rows) > 1:
            try:
                Prediction.objects.bulk_create([row.prediction for row in rows])
            except DatabaseError:
                pass  # one row may spoil it for all: each gets its own try below
            else:
                for row in rows:
                    row.is_done = True
                return
        for row in rows:
            row.insert()


insert = GroupCommit().insert
