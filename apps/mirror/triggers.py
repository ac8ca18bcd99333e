"""Database triggers that fill the change log in the transaction of each inserted record.

Predictions are inserted without the ORM, so the database writes the change log. Without a mirror there are no
triggers and no cost, and processes that insert records need no knowledge of the mirror.
"""

import logging

from django.conf import settings
from django.db import connection, transaction

from apps.mirror.models import ChangeLogEntry
from apps.mirror.replicated import REPLICATED_MODELS

logger = logging.getLogger(__name__)

_CHANGE_LOG = ChangeLogEntry._meta.db_table
_FUNCTION = f"""
CREATE OR REPLACE FUNCTION {_CHANGE_LOG}_add() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO {_CHANGE_LOG} (kind, key, created_at) SELECT TG_ARGV[0], id::text, now() FROM inserted;
    RETURN NULL;
END $$"""
_CREATE = {
    "postgresql": """
CREATE TRIGGER {name} AFTER INSERT ON {table} REFERENCING NEW TABLE AS inserted
FOR EACH STATEMENT EXECUTE FUNCTION {change_log}_add('{kind}')""",
    "sqlite": """
CREATE TRIGGER {name} AFTER INSERT ON {table} BEGIN
    INSERT INTO {change_log} (kind, key, created_at)
    VALUES ('{kind}', NEW.id, strftime('%%Y-%%m-%%d %%H:%%M:%%f', 'now'));
END""",
}
_LIST = {
    "postgresql": "SELECT tgname FROM pg_trigger WHERE tgname LIKE %s",
    "sqlite": "SELECT name FROM sqlite_master WHERE type = 'trigger' AND name LIKE %s",
}
_LOCK_TIMEOUT = "SET LOCAL lock_timeout = '1s'"  # inserts queue behind a statement that waits for its lock


def sync_triggers() -> None:
    """Install the triggers if the mirror is on, else remove them; log the replication lag.

    The log record has the attributes `mirror_waiting` (records) and `mirror_lag_seconds`.

    Raises:
        OperationalError: a table was locked for a second; the next call tries again.
    """
    if not settings.DYNAMODB_TABLE:
        remove_triggers()
        return
    install_triggers()
    replication_lag = ChangeLogEntry.objects.replication_lag()
    logger.info(
        "The mirror lags %.0f s behind, %d records are pending",
        replication_lag.seconds,
        replication_lag.count,
        extra={
            "mirror_waiting": replication_lag.count,
            "mirror_lag_seconds": round(replication_lag.seconds, 3),
        },
    )


def install_triggers() -> None:
    """Create the missing triggers, so that each record inserted from now on is in the change log.

    Raises:
        OperationalError: a table was locked for a second; nothing was changed.
    """
    installed = _installed()
    missing = [
        (replicated.kind, table)
        for replicated in REPLICATED_MODELS
        if _name(table := replicated.model._meta.db_table) not in installed
    ]
    if not missing:
        return
    with transaction.atomic(), connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute(_LOCK_TIMEOUT)
            cursor.execute(_FUNCTION)
        for kind, table in missing:
            statement = _CREATE[connection.vendor].format(
                name=_name(table), table=table, change_log=_CHANGE_LOG, kind=kind
            )
            cursor.execute(statement, [])


def remove_triggers() -> None:
    """Drop the triggers. Entries of the change log remain.

    Raises:
        OperationalError: a table was locked for a second; nothing was changed.
    """
    installed = _installed()
    if not installed:
        return
    with transaction.atomic(), connection.cursor() as cursor:
        is_postgresql = connection.vendor == "postgresql"
        if is_postgresql:
            cursor.execute(_LOCK_TIMEOUT)
        for replicated in REPLICATED_MODELS:
            table = replicated.model._meta.db_table
            if _name(table) in installed:
                cursor.execute(f"DROP TRIGGER {_name(table)}{f' ON {table}' if is_postgresql else ''}")


def _name(table: str) -> str:
    return f"{table}_to_change_log"


def _installed() -> set[str]:
    with connection.cursor() as cursor:
        cursor.execute(_LIST[connection.vendor], [_name("%")])
        return {row[0] for row in cursor.fetchall()}
