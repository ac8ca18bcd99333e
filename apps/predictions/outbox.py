"""What the mirror has yet to get. The database itself writes it down, in the transaction of the record.

Predictions are stored without the ORM, so a trigger does it: it costs nothing where there is none, misses
nothing that commits late, and web processes need not know of the mirror.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from django.db import connection, models, transaction
from django.utils import timezone

from apps.predictions.models import Outbox

_TABLE = Outbox._meta.db_table
_FUNCTION = f"""
CREATE OR REPLACE FUNCTION {_TABLE}_add() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO {_TABLE} (kind, key, created_at) SELECT TG_ARGV[0], id::text, now() FROM added;
    RETURN NULL;
END $$"""
_CREATE = {
    "postgresql": """
CREATE TRIGGER {name} AFTER INSERT ON {table} REFERENCING NEW TABLE AS added
FOR EACH STATEMENT EXECUTE FUNCTION {outbox}_add('{kind}')""",
    "sqlite": """
CREATE TRIGGER {name} AFTER INSERT ON {table} BEGIN
    INSERT INTO {outbox} (kind, key, created_at)
    VALUES ('{kind}', NEW.id, strftime('%%Y-%%m-%%d %%H:%%M:%%f', 'now'));
END""",
}
_PRESENT = {
    "postgresql": "SELECT tgname FROM pg_trigger WHERE tgname LIKE %s",
    "sqlite": "SELECT name FROM sqlite_master WHERE type = 'trigger' AND name LIKE %s",
}


@dataclass(frozen=True)
class Lag:
    """How far the mirror is behind: records that wait, and the age in seconds of the oldest."""

    count: int
    seconds: float


def lag() -> Lag:
    """Return how far the mirror is behind."""
    found = Outbox.objects.aggregate(count=models.Count("pk"), oldest=models.Min("created_at"))
    if found["oldest"] is None:
        return Lag(0, 0.0)
    return Lag(found["count"], max((timezone.now() - found["oldest"]).total_seconds(), 0.0))


def _name(table: str) -> str:
    return f"{table}_to_outbox"


def _present() -> set[str]:
    with connection.cursor() as cursor:
        cursor.execute(_PRESENT[connection.vendor], [_name("%")])
        return {row[0] for row in cursor.fetchall()}


def install(tables: Sequence[tuple[str, type[models.Model]]]) -> None:
    """Have every record that is inserted from here on written down; where that is so, change nothing.

    Args:
        tables: each kind of record and its model, whose primary key is the column `id`.

    Raises:
        OperationalError: a table was busy for a second; nothing was changed.
    """
    present = _present()
    missing = [
        (kind, model._meta.db_table) for kind, model in tables if _name(model._meta.db_table) not in present
    ]
    if not missing:
        return
    with transaction.atomic(), connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            # Whoever inserts waits behind us while we wait for the table.
            cursor.execute("SET LOCAL lock_timeout = '1s'")
            cursor.execute(_FUNCTION)
        for kind, table in missing:
            statement = _CREATE[connection.vendor].format(
                name=_name(table), table=table, outbox=_TABLE, kind=kind
            )
            cursor.execute(statement, [])


def remove(tables: Sequence[tuple[str, type[models.Model]]]) -> None:
    """Stop writing records down. What waits already goes on waiting.

    Raises:
        OperationalError: a table was busy for a second; nothing was changed.
    """
    present = _present()
    if not present:
        return
    with transaction.atomic(), connection.cursor() as cursor:
        on_table = ""
        if connection.vendor == "postgresql":
            cursor.execute("SET LOCAL lock_timeout = '1s'")
            on_table = " ON {table}"
        for _, model in tables:
            table = model._meta.db_table
            if _name(table) in present:
                cursor.execute(f"DROP TRIGGER {_name(table)}{on_table.format(table=table)}")
