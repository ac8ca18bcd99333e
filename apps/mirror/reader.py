"""Read records from DynamoDB by time or by id. Rollups and the comparison with the database call it."""

import heapq
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from django.conf import settings

from apps.core import aws
from apps.mirror.codec import (
    SHARDS,
    Item,
    OnUnreadable,
    decode_items,
    encode_prediction_key,
    format_time,
    shard_name,
)
from apps.mirror.replicated import CHUNK_SIZE, PREDICTIONS, ReplicatedModel
from apps.mirror.table import INDEX, translate_aws_errors


def read(
    since: datetime,
    until: datetime,
    *,
    replicated: ReplicatedModel = PREDICTIONS,
    on_unreadable: OnUnreadable | None = None,
) -> Iterator[dict[str, Any]]:
    """Yield the records of a model with `since <= created_at < until`, ordered by time, in bounded memory.

    A record is a dictionary of the model's columns, as `QuerySet.values` returns it. The index is eventually
    consistent, so records of the last minute may be missing.

    Args:
        on_unreadable: is called for each record that can't be read, which is then left out.

    Raises:
        MirrorError: DynamoDB can't be reached or reports an error.
        UnreadableRecordError: a record can't be read, and `on_unreadable` is missing.
    """
    if since >= until:
        return
    with translate_aws_errors():
        client = aws.client("dynamodb")
    for day in _days(since, until):
        shards = (
            _read_shard(client, shard_name(replicated, day, number), since, until, replicated, on_unreadable)
            for number in range(SHARDS)
        )
        yield from heapq.merge(*shards, key=lambda row: (row["created_at"], row["id"]))


def count_by_hour(
    since: datetime, until: datetime, *, replicated: ReplicatedModel = PREDICTIONS
) -> Counter[datetime]:
    """Return how many records `read` would yield for each hour (its start, UTC); transfers only their times.

    Raises:
        MirrorError: DynamoDB can't be reached or reports an error.
    """
    counts: Counter[str] = Counter()
    with translate_aws_errors():
        client = aws.client("dynamodb")
        for day in _days(since, until) if since < until else ():
            for number in range(SHARDS):
                shard = shard_name(replicated, day, number)
                for page in _pages(client, shard, since, until, ProjectionExpression="#at"):
                    counts.update(item["at"]["S"][:13] for item in page["Items"])
    return Counter({datetime.fromisoformat(f"{hour}:00+00:00"): count for hour, count in counts.items()})


def find_predictions(
    ids: Iterable[uuid.UUID], *, on_unreadable: OnUnreadable | None = None
) -> dict[uuid.UUID, dict[str, Any]]:
    """Return those of at most 100 predictions that are in the mirror, as `read` yields them.

    Raises:
        MirrorError: DynamoDB can't be reached or reports an error.
        UnreadableRecordError: as in `read`.
    """
    table = settings.DYNAMODB_TABLE
    request = {table: {"Keys": [encode_prediction_key(prediction_id) for prediction_id in ids]}}
    items: list[Item] = []
    with translate_aws_errors():
        client = aws.client("dynamodb")
        while request.get(table, {}).get("Keys"):
            response = client.batch_get_item(RequestItems=request)
            items += response["Responses"].get(table, [])
            request = response["UnprocessedKeys"]
    return {row["id"]: row for row in decode_items(PREDICTIONS, items, on_unreadable)}


def _days(since: datetime, until: datetime) -> Iterator[datetime]:
    """Yield a time of each day (UTC) from `since` to `until`."""
    last, day = until.astimezone(UTC).date(), since.astimezone(UTC)
    while day.date() <= last:
        yield day
        day += timedelta(days=1)


def _read_shard(
    client: Any,
    shard: str,
    since: datetime,
    until: datetime,
    replicated: ReplicatedModel,
    on_unreadable: OnUnreadable | None,
) -> Iterator[dict[str, Any]]:
    pages = iter(_pages(client, shard, since, until, PaginationConfig={"PageSize": CHUNK_SIZE}))
    while True:
        with translate_aws_errors():
            page = next(pages, None)
        if page is None:
            return
        yield from decode_items(replicated, page["Items"], on_unreadable)


def _pages(client: Any, shard: str, since: datetime, until: datetime, **options: Any) -> Iterable[Any]:
    return client.get_paginator("query").paginate(
        TableName=settings.DYNAMODB_TABLE,
        IndexName=INDEX,
        KeyConditionExpression="#shard = :shard AND #at BETWEEN :since AND :until",
        ExpressionAttributeNames={"#shard": "shard", "#at": "at"},
        ExpressionAttributeValues={
            ":shard": {"S": shard},
            ":since": {"S": format_time(since)},
            ":until": {"S": format_time(until - timedelta(microseconds=1))},
        },
        **options,
    )
