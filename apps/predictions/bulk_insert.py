"""Insert the predictions of many requests in one transaction, without the ORM. The actions call it."""

import threading
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import cache

from django.db import OperationalError, connection

from apps.core.batches import map_isolated
from apps.predictions.models import Prediction, PredictionRow

_FIELD_OF = {field.attname: field for field in Prediction._meta.concrete_fields}
_FIELDS = [_FIELD_OF[name] for name in PredictionRow._fields]
_COLUMNS = ", ".join(f'"{field.column}"' for field in _FIELDS)
_COPY = f'COPY "{Prediction._meta.db_table}" ({_COLUMNS}) FROM STDIN (FORMAT BINARY)'
# Types for COPY in PostgreSQL's binary format. UUIDs and times are passed as bytes and integers, which have
# the same binary representation.
_BINARY = {
    "UUIDField": "bytea",
    "DateTimeField": "int8",
    "ForeignKey": "int8",
    "FloatField": "float8",
    "BooleanField": "bool",
    "PositiveSmallIntegerField": "int2",
    "PositiveIntegerField": "int4",
}
_TYPES = [_BINARY.get(field.get_internal_type(), "text") for field in _FIELDS]
_POSTGRES_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_INSERT = f'INSERT INTO "{Prediction._meta.db_table}" ({_COLUMNS}) VALUES ({", ".join("?" * len(_FIELDS))})'


# SQLite has one writer at a time, and a writer that finds it locked sleeps before it tries again.
_sqlite_writer = threading.Lock()


def insert_batches(batches: Sequence[Sequence[PredictionRow]]) -> list[Exception | None]:
    """Return when every batch is committed; inside a transaction of the caller, insert without a commit.

    All batches are committed in one transaction if that succeeds, because a flush to disk takes longer than
    scoring.

    Returns:
        `errors[i]` is the exception that prevented storing `batches[i]`, or None.
    """
    if connection.in_atomic_block:
        _write([row for batch in batches for row in batch])
        return [None] * len(batches)
    return map_isolated(_commit_batches, batches, retry=lambda error: not _is_outage(error))


def _commit_batches(batches: Sequence[Sequence[PredictionRow]]) -> list[None]:
    if connection.errors_occurred:
        connection.close_if_unusable_or_obsolete()
    _commit([row for batch in batches for row in batch])
    return [None] * len(batches)


def _is_outage(error: Exception) -> bool:
    """Return True if the rows did not cause the error, so that another attempt would wait as long again.

    SQLite stayed locked for the whole timeout or its disk is full, or PostgreSQL can't be reached.
    """
    return isinstance(error, OperationalError) and (
        connection.vendor == "sqlite" or connection.connection is None
    )


def _commit(rows: Sequence[PredictionRow]) -> None:
    """Insert rows in one transaction."""
    connection.ensure_connection()
    if connection.vendor == "postgresql":
        _write(rows)  # one statement
        return
    with _sqlite_writer, connection.wrap_database_errors:
        connection.connection.execute("BEGIN IMMEDIATE")
        try:
            _write(rows)
            connection.connection.execute("COMMIT")
        except BaseException:
            if connection.connection.in_transaction:
                connection.connection.execute("ROLLBACK")
            raise


def _microseconds(time: datetime) -> int:
    return (time - _POSTGRES_EPOCH) // timedelta(microseconds=1)


def _write(rows: Sequence[PredictionRow]) -> None:
    with connection.wrap_database_errors:
        if connection.vendor != "postgresql":
            at = cache(connection.ops.adapt_datetimefield_value)
            connection.connection.executemany(
                _INSERT, [(key.hex, at(time), *rest) for key, time, *rest in rows]
            )
        else:
            with connection.connection.cursor() as cursor:
                if len(rows) == 1:
                    # INSERT needs one round trip to the server, COPY needs two.
                    cursor.execute(_INSERT.replace("?", "%s"), rows[0], prepare=True)
                else:
                    since = cache(_microseconds)
                    with cursor.copy(_COPY) as copy:
                        copy.set_types(_TYPES)
                        for key, time, *rest in rows:
                            copy.write_row((key.bytes, since(time), *rest))
