"""Convert rows to items of DynamoDB and back.

The records of a comment share a partition: `prediction` is the prediction's id, `record` is `prediction`,
`feedback#7` or `decision#12`. The index `by_time` orders them by `shard` (kind, day and one of sixteen
numbers, so that no partition receives all writes of a day) and `at` (UTC, in microseconds). DynamoDB deletes
items after `expires`. The other attributes are the columns of the row.
"""

import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import models

from apps.mirror.exceptions import UnreadableRecordError
from apps.mirror.replicated import PREDICTIONS, ReplicatedModel

SHARDS = 16
Item = dict[str, dict[str, Any]]
OnUnreadable = Callable[[UnreadableRecordError], None]


def format_time(time: datetime) -> str:
    """Return a time as the mirror stores it: ISO 8601 in UTC with microseconds."""
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def format_value(value: Any) -> str:
    """Return a value that is neither a number nor a boolean as text."""
    return format_time(value) if isinstance(value, datetime) else str(value)


def shard_name(replicated: ReplicatedModel, time: datetime, number: int) -> str:
    """Return the partition key of the index `by_time` for a kind, the day of a time and a shard number."""
    return f"{replicated.kind}#{time.astimezone(UTC):%Y-%m-%d}#{number:02}"


def encode_prediction_key(prediction_id: Any) -> Item:
    """Return the primary key of a prediction's item."""
    return {"prediction": {"S": str(prediction_id)}, "record": {"S": PREDICTIONS.kind}}


def encode_item(replicated: ReplicatedModel, row: Mapping[str, Any]) -> Item:
    """Return the columns of a row as an item in the format of DynamoDB's low-level API."""
    is_prediction = replicated.prediction_column == "id"
    record = replicated.kind if is_prediction else f"{replicated.kind}#{row['id']}"
    prediction, created_at = str(row[replicated.prediction_column]), row["created_at"]
    number = zlib.crc32(f"{prediction}{record}".encode()) % SHARDS
    values = {
        **row,
        "prediction": prediction,
        "record": record,
        "shard": shard_name(replicated, created_at, number),
        "at": format_time(created_at),
        "expires": int(created_at.timestamp()) + settings.DYNAMODB_TTL_DAYS * 86_400,
    }
    return {name: _encode_value(value) for name, value in values.items()}


def _encode_value(value: Any) -> dict[str, Any]:
    match value:
        case None:
            return {"NULL": True}
        case bool():
            return {"BOOL": value}
        case int() | float():
            return {"N": repr(value)}
        case _:
            return {"S": format_value(value)}


def decode_item(replicated: ReplicatedModel, item: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns from which `encode_item` made an item.

    A column that was added to the model after the record was stored has its default.

    Raises:
        UnreadableRecordError: an attribute does not have the type of its column.
    """
    try:
        return {
            field.attname: _decode_value(field, *next(iter(item[field.attname].items())))
            if field.attname in item
            else field.get_default()
            for field in replicated.model._meta.concrete_fields
        }
    except (ArithmeticError, TypeError, ValueError, ValidationError) as error:
        raise UnreadableRecordError(
            f"A {replicated.kind} record in DynamoDB can't be read ({type(error).__name__})."
        ) from None


def _decode_value(field: Any, type_name: str, value: Any) -> Any:
    if type_name == "NULL":
        return None
    if field.remote_field:
        field = field.target_field
    return float(value) if isinstance(field, models.FloatField) else field.to_python(value)


def decode_items(
    replicated: ReplicatedModel, items: Iterable[Mapping[str, Any]], on_unreadable: OnUnreadable | None
) -> Iterator[dict[str, Any]]:
    """Yield the columns of each item; pass the error of an unreadable one to `on_unreadable`, or raise it."""
    for item in items:
        try:
            row = decode_item(replicated, item)
        except UnreadableRecordError as error:
            if on_unreadable is None:
                raise
            on_unreadable(error)
        else:
            yield row
