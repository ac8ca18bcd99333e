"""Locks, whether the database has the tables and columns of this release, and what its errors say."""

import hashlib
import time
from collections.abc import Sequence
from functools import lru_cache

from django.apps import apps
from django.db import InterfaceError, OperationalError, ProgrammingError, connection
from django.db.migrations.executor import MigrationExecutor

CACHE_SECONDS = 10.0
_SHOWN = 3
_MAX_LENGTH = 300


def lock_until_commit(*keys: Sequence[object]) -> None:
    """Wait for other transactions with one of the keys, and lock the keys until the transaction ends.

    Unlike a row lock, it also covers rows that do not exist yet. On SQLite a transaction has locked the whole
    database when it began.
    """
    if connection.vendor == "postgresql":
        digests = (
            hashlib.blake2b(repr(key).encode("utf-8", "surrogatepass"), digest_size=8).digest()
            for key in keys
        )
        # In one order, so that two transactions do not wait for each other.
        numbers = sorted({int.from_bytes(digest, signed=True) for digest in digests})
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(number) FROM unnest(%s::bigint[]) number", [numbers])


def describe_error(error: Exception) -> str:
    """Return the class of a database error and the first line of its message, if that quotes no value.

    PostgreSQL appends the statement and its values in further lines, and errors about data quote the data.
    """
    name = type(error).__name__
    if isinstance(error, (InterfaceError, OperationalError, ProgrammingError)) and str(error):
        return f"{name}: {str(error).splitlines()[0]}"[:_MAX_LENGTH]
    return name


def find_schema_problem() -> str | None:
    """Return a sentence about what the database lacks for this release, or None. Cached for CACHE_SECONDS.

    A database that a newer release has migrated has no problem as long as it has all columns of this release.

    Raises:
        DatabaseError: the database can't be reached.
    """
    return _find_problem(int(time.monotonic() / CACHE_SECONDS))


@lru_cache(maxsize=1)
def _find_problem(period: int) -> str | None:
    executor = MigrationExecutor(connection)
    plan = executor.migration_plan(executor.loader.graph.leaf_nodes())
    if names := [f"{migration.app_label}.{migration.name}" for migration, _ in plan]:
        return f"Migrations are not applied ({_first(names)}): run `manage.py migrate`."
    if missing := _missing_columns():
        return (
            f"The database lacks {_first(missing)}: another release migrated it. "
            "Run that release, or restore a backup of this one."
        )
    return None


def _first(names: list[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _missing_columns() -> list[str]:
    missing = []
    with connection.cursor() as cursor:
        tables = set(connection.introspection.table_names(cursor))
        for model in apps.get_models(include_auto_created=True):
            table = model._meta.db_table
            if not model._meta.can_migrate(connection):
                continue
            if table not in tables:
                missing.append(f"the table {table}")
                continue
            columns = {
                column.name for column in connection.introspection.get_table_description(cursor, table)
            }
            missing += [
                f"the column {table}.{field.column}"
                for field in model._meta.local_concrete_fields
                if field.column not in columns
            ]
    return missing
