"""The mirror in DynamoDB: a copy of every record, kept by partition and readable by time.

A comment's records share a partition: `prediction` is its id, `record` is `prediction`, `feedback#7` or
`decision#12`. The index `by_time` holds them by `shard` (the kind, the day and one of sixteen numbers, so
that no partition takes a whole day's writes) and `at` (the moment, UTC, in microseconds). DynamoDB removes
what is past `expires`. The other attributes are the record's own columns.

Reading by time is `read(since, until)`: a generator in the order of time, in bounded memory.
"""

import heapq
import json
import logging
import random
import time
import uuid
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from itertools import groupby, islice
from typing import Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import models
from django.utils import timezone

from apps.core import aws
from apps.predictions import outbox
from apps.predictions.models import Feedback, MirrorState, Outbox, Prediction

logger = logging.getLogger(__name__)

INDEX = "by_time"
SHARDS = 16
BATCH = 200
LEASE = timedelta(seconds=60)
FIRST_WAIT, LONGEST_WAIT = 5.0, 300.0
# What AWS says of a single item; whatever else it says concerns the table, the network or the credentials.
_REFUSALS = {"ValidationException", "ItemCollectionSizeLimitExceededException"}


class MirrorError(Exception):
    """DynamoDB can't be reached, throttles or refuses; the message says what to do."""


class UnreadableRecordError(Exception):
    """A record in DynamoDB does not fit its model."""


@dataclass(frozen=True)
class Stream:
    """A kind of records that are mirrored: append-only rows with the columns `id` and `created_at`.

    Attributes:
        prediction: the column that holds the prediction's id.
        text: the path to the comment's text; where it is null, it was not to be stored.
        words: columns of free text about the comment, left out where the comment itself was not to be stored.
    """

    kind: str
    model: type[models.Model]
    prediction: str
    text: str
    words: tuple[str, ...] = ()

    def rows(self, **chosen: Any) -> Iterator[dict[str, Any]]:
        """Yield the chosen records' columns in the order of time."""
        columns = [field.attname for field in self.model._meta.concrete_fields]
        found = self.model._default_manager.filter(**chosen).order_by("created_at", "pk")
        for row in found.values(*columns, said=models.F(self.text)).iterator(chunk_size=BATCH):
            if row.pop("said") is None:
                row |= dict.fromkeys(self.words, "")
            yield row


PREDICTIONS = Stream("prediction", Prediction, "id", "text")
FEEDBACK = Stream("feedback", Feedback, "prediction_id", "prediction__text", ("remark",))


def create_table() -> None:
    """Make the table as Terraform makes it: keys, index, encryption and TTL.

    Raises:
        MirrorError: DynamoDB can't be reached, or refuses: the table exists already.
    """
    name = settings.DYNAMODB_TABLE
    with _told():
        client = aws.client("dynamodb")
        client.create_table(
            TableName=name,
            BillingMode="PAY_PER_REQUEST",
            AttributeDefinitions=[
                {"AttributeName": each, "AttributeType": "S"}
                for each in ("prediction", "record", "shard", "at")
            ],
            KeySchema=_key("prediction", "record"),
            GlobalSecondaryIndexes=[
                {
                    "IndexName": INDEX,
                    "KeySchema": _key("shard", "at"),
                    "Projection": {"ProjectionType": "ALL"},
                }
            ],
            SSESpecification={"Enabled": True},
        )
        client.get_waiter("table_exists").wait(TableName=name, WaiterConfig={"Delay": 1, "MaxAttempts": 60})
        client.update_time_to_live(
            TableName=name, TimeToLiveSpecification={"Enabled": True, "AttributeName": "expires"}
        )


def _key(partition: str, sort: str) -> list[dict[str, str]]:
    return [
        {"AttributeName": partition, "KeyType": "HASH"},
        {"AttributeName": sort, "KeyType": "RANGE"},
    ]


def _moment(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def item(stream: Stream, row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record's columns as an item of DynamoDB's low-level API."""
    record = stream.kind if stream.prediction == "id" else f"{stream.kind}#{row['id']}"
    prediction, created_at = str(row[stream.prediction]), row["created_at"]
    number = zlib.crc32(f"{prediction}{record}".encode()) % SHARDS
    values = {
        **row,
        "prediction": prediction,
        "record": record,
        "shard": _shard(stream, created_at, number),
        "at": _moment(created_at),
        "expires": int(created_at.timestamp()) + settings.DYNAMODB_TTL_DAYS * 86_400,
    }
    return {name: _packed(value) for name, value in values.items()}


def _shard(stream: Stream, moment: datetime, number: int) -> str:
    return f"{stream.kind}#{moment.astimezone(UTC):%Y-%m-%d}#{number:02}"


def _packed(value: Any) -> dict[str, Any]:
    match value:
        case None:
            return {"NULL": True}
        case bool():
            return {"BOOL": value}
        case int() | float():
            return {"N": repr(value)}
        case _:
            return {"S": _text(value)}


def _text(value: Any) -> str:
    return _moment(value) if isinstance(value, datetime) else str(value)


def record(stream: Stream, found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns that `item` was made of; a column newer than the record has its default.

    Raises:
        UnreadableRecordError: an attribute does not have the type of its column.
    """
    try:
        return {
            field.attname: _unpacked(field, *next(iter(found[field.attname].items())))
            if field.attname in found
            else field.get_default()
            for field in stream.model._meta.concrete_fields
        }
    except (ArithmeticError, TypeError, ValueError, ValidationError) as error:
        raise UnreadableRecordError(
            f"A {stream.kind} record in DynamoDB can't be read ({type(error).__name__})."
        ) from None


Unreadable = Callable[[UnreadableRecordError], None]


def _records(
    stream: Stream, items: Iterable[Mapping[str, Any]], on_unreadable: Unreadable | None
) -> Iterator[dict[str, Any]]:
    for found in items:
        try:
            row = record(stream, found)
        except UnreadableRecordError as error:
            if on_unreadable is None:
                raise
            on_unreadable(error)
        else:
            yield row


def _unpacked(field: Any, kind: str, value: Any) -> Any:
    if kind == "NULL":
        return None
    if field.remote_field:
        field = field.target_field
    return float(value) if isinstance(field, models.FloatField) else field.to_python(value)


@contextmanager
def _told() -> Iterator[None]:
    """Turn what botocore raises into a MirrorError that says what to do."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except ClientError as error:
        code = error.response["Error"]["Code"]
        raise MirrorError(f"DynamoDB refused ({code}): check the table, the region and the rights.") from None
    except BotoCoreError as error:
        raise MirrorError(
            f"DynamoDB can't be reached ({error.__class__.__name__}): check AWS_DEFAULT_REGION, the "
            "credentials and the network."
        ) from None


def read(
    since: datetime,
    until: datetime,
    *,
    stream: Stream = PREDICTIONS,
    on_unreadable: Unreadable | None = None,
) -> Iterator[dict[str, Any]]:
    """Yield a kind of records, from `since` until before `until`, in the order of time, in bounded memory.

    Each is a dictionary of its model's columns, as `.values()` gives: `created_at` is aware, a prediction's
    `id` a UUID, probabilities are floats. The index lags behind the table by a moment (it is never read
    consistently), so what was stored in the last minute may be missing.

    Args:
        on_unreadable: is called for each record that can't be read, which is then left out.

    Raises:
        MirrorError: DynamoDB can't be reached or refuses.
        UnreadableRecordError: a record can't be read, and `on_unreadable` is missing.
    """
    if since >= until:
        return
    with _told():
        client = aws.client("dynamodb")
    day = since
    while _day(day) <= _day(until):
        shards = (
            _read_shard(client, _shard(stream, day, number), since, until, stream, on_unreadable)
            for number in range(SHARDS)
        )
        yield from heapq.merge(*shards, key=lambda row: (row["created_at"], row["id"]))
        day += timedelta(days=1)


def counts(since: datetime, until: datetime, *, stream: Stream = PREDICTIONS) -> Counter[datetime]:
    """Return how many records `read` would yield of each hour (its start, UTC); only their times are sent.

    Raises:
        MirrorError: DynamoDB can't be reached or refuses.
    """
    found: Counter[str] = Counter()
    day = since
    with _told():
        client = aws.client("dynamodb")
        while since < until and _day(day) <= _day(until):
            for number in range(SHARDS):
                shard = _shard(stream, day, number)
                for page in _pages(client, shard, since, until, ProjectionExpression="#at"):
                    found.update(each["at"]["S"][:13] for each in page["Items"])
            day += timedelta(days=1)
    return Counter({datetime.fromisoformat(f"{hour}:00+00:00"): count for hour, count in found.items()})


def find(
    ids: Iterable[uuid.UUID], *, on_unreadable: Unreadable | None = None
) -> dict[uuid.UUID, dict[str, Any]]:
    """Return the predictions of these ids, at most 100, as `read` yields them, so far as they are there.

    Raises:
        MirrorError: DynamoDB can't be reached or refuses.
        UnreadableRecordError: as in `read`.
    """
    table = settings.DYNAMODB_TABLE
    wanted = {table: {"Keys": [_packed_key(each) for each in ids]}}
    found: list[dict[str, Any]] = []
    with _told():
        client = aws.client("dynamodb")
        while wanted.get(table, {}).get("Keys"):
            answer = client.batch_get_item(RequestItems=wanted)
            found += answer["Responses"].get(table, [])
            wanted = answer["UnprocessedKeys"]
    return {row["id"]: row for row in _records(PREDICTIONS, found, on_unreadable)}


def _packed_key(prediction: uuid.UUID) -> dict[str, Any]:
    return {"prediction": {"S": str(prediction)}, "record": {"S": PREDICTIONS.kind}}


def _day(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d}"


def _read_shard(
    client: Any,
    shard: str,
    since: datetime,
    until: datetime,
    stream: Stream,
    on_unreadable: Unreadable | None,
) -> Iterator[dict[str, Any]]:
    pages = _pages(client, shard, since, until, PaginationConfig={"PageSize": BATCH})
    found = iter(pages)
    while True:
        with _told():
            page = next(found, None)
        if page is None:
            return
        yield from _records(stream, page["Items"], on_unreadable)


def _pages(client: Any, shard: str, since: datetime, until: datetime, **options: Any) -> Iterable[Any]:
    return client.get_paginator("query").paginate(
        TableName=settings.DYNAMODB_TABLE,
        IndexName=INDEX,
        KeyConditionExpression="#shard = :shard AND #at BETWEEN :since AND :until",
        ExpressionAttributeNames={"#shard": "shard", "#at": "at"},
        ExpressionAttributeValues={
            ":shard": {"S": shard},
            ":since": {"S": _moment(since)},
            ":until": {"S": _moment(until - timedelta(microseconds=1))},
        },
        **options,
    )


@dataclass(frozen=True)
class _Put:
    """What became of items: by position the code of a refusal or None; the rest waits for a failure's end."""

    outcomes: dict[int, str | None]
    failure: str


def _put_all(client: Any, items: Sequence[Mapping[str, Any]]) -> _Put:
    """Store items that are not stored yet, by threads. After the first failure the rest is left alone."""
    from botocore.exceptions import BotoCoreError, ClientError

    outcomes: dict[int, str | None] = {}
    failures: list[str] = []

    def put(position: int) -> None:
        if failures:
            return
        try:
            client.put_item(
                TableName=settings.DYNAMODB_TABLE,
                Item=items[position],
                # Of a batch only single writes and transactions, at twice the price, know conditions.
                ConditionExpression="attribute_not_exists(prediction)",
            )
            outcomes[position] = None
        except ClientError as error:
            code = error.response["Error"]["Code"]
            if code == "ConditionalCheckFailedException":
                outcomes[position] = None
            elif code in _REFUSALS:
                outcomes[position] = code
            else:
                failures.append(code)
        except BotoCoreError as error:
            failures.append(error.__class__.__name__)

    with ThreadPoolExecutor(aws.MAX_CONNECTIONS) as pool:
        list(pool.map(put, range(len(items))))
    refused = set(outcomes.values()) - {None}
    if refused and None not in outcomes.values():
        failures.append(min(map(str, refused)))  # nothing is accepted: it is not the items
    return _Put(outcomes, failures[0] if failures else "")


def tend(streams: Sequence[Stream]) -> None:
    """Have new records written down while the mirror is on, else stop it; log how far it is behind.

    The figures are `mirror_waiting` (records) and `mirror_lag_seconds` (the age of the oldest) of a log line.

    Raises:
        OperationalError: a table was busy; the next call tries again.
    """
    tables = [(stream.kind, stream.model) for stream in streams]
    if not settings.DYNAMODB_TABLE:
        outbox.remove(tables)
        return
    outbox.install(tables)
    behind = outbox.lag()
    logger.info(
        "The mirror is %.0f s behind, %d records wait",
        behind.seconds,
        behind.count,
        extra={"mirror_waiting": behind.count, "mirror_lag_seconds": round(behind.seconds, 3)},
    )


def send_due(streams: Sequence[Stream], *, seconds: float = 20.0) -> int:
    """Send what waits in the outbox; one sender at a time, for some seconds, and none while a pause lasts.

    botocore tries again by itself. What it gives up stays in the outbox, and each failure in a row doubles
    the pause. A sender that is killed is replaced after a minute; what it had sent is found stored.

    Returns:
        How many records left the outbox.
    """
    if not settings.DYNAMODB_TABLE or not Outbox.objects.exists():
        return 0
    holder = uuid.uuid4().hex
    if not _take(holder):
        return 0
    sent, last, failure = 0, 0, "interrupted"
    end = time.monotonic() + seconds
    try:
        client = aws.client("dynamodb")
        while _renew(holder):
            waiting = list(Outbox.objects.filter(pk__gt=last)[:BATCH])
            done, failure = _send(client, waiting, streams)
            Outbox.objects.filter(pk__in=done).delete()
            sent += len(done)
            if failure or len(waiting) < BATCH or time.monotonic() > end:
                break
            last = waiting[-1].pk
    finally:
        _release(holder, failure)
    return sent


def _take(holder: str) -> bool:
    now = timezone.now()
    MirrorState.objects.get_or_create(defaults={"free_at": now})
    free = MirrorState.objects.filter(free_at__lte=now)
    return bool(free.update(holder=holder, free_at=now + LEASE))


def _renew(holder: str) -> bool:
    return bool(MirrorState.objects.filter(holder=holder).update(free_at=timezone.now() + LEASE))


def _release(holder: str, failure: str) -> None:
    state = MirrorState.objects.filter(holder=holder).first()
    if state is None:
        return
    pause = 0.0
    if failure:
        pause = min(FIRST_WAIT * 2**state.failures, LONGEST_WAIT) * random.uniform(0.5, 1)
        logger.warning("The mirror is tried again in %.0f s: %s", pause, failure)
    MirrorState.objects.filter(holder=holder).update(
        holder="",
        free_at=timezone.now() + timedelta(seconds=pause),
        failures=min(state.failures + 1, 16) if failure else 0,
        error=failure[:100],
    )


def _send(client: Any, waiting: Sequence[Outbox], streams: Sequence[Stream]) -> tuple[list[int], str]:
    """Send records; return the outbox rows that are done with, and why the rest is not."""
    items, numbers = [], []
    done = {row.pk for row in waiting}
    for stream in streams:
        to_key = stream.model._meta.pk.to_python
        keys = {to_key(row.key): row.pk for row in waiting if row.kind == stream.kind}
        for row in stream.rows(pk__in=list(keys)):
            items.append(item(stream, row))
            numbers.append(keys[row["id"]])
    put = _put_all(client, items)
    for position, number in enumerate(numbers):
        if position not in put.outcomes or put.outcomes[position]:
            done.discard(number)
            if code := put.outcomes.get(position):
                logger.error("The mirror refused outbox row %d: %s", number, code)
    return sorted(done), put.failure


def oldest_kept() -> datetime:
    """Return the moment before which records have expired in the mirror, or are about to."""
    return timezone.now() - timedelta(days=settings.DYNAMODB_TTL_DAYS) + timedelta(hours=1)


def backfill(stream: Stream, since: datetime | None = None) -> Iterator[int]:
    """Send records that are stored, whether sent before or not; yield how many were sent each time.

    Raises:
        MirrorError: DynamoDB could not be reached or refused for some minutes, or refuses a record.
    """
    with _told():
        client = aws.client("dynamodb")
    rows = stream.rows(created_at__gte=max(since or oldest_kept(), oldest_kept()))
    while batch := list(islice(rows, BATCH)):
        items = [item(stream, row) for row in batch]
        wait = FIRST_WAIT
        while (put := _put_all(client, items)).failure:
            if wait > LONGEST_WAIT:
                raise MirrorError(
                    f"DynamoDB gives no way ({put.failure}): continue with "
                    f"--since {_moment(batch[0]['created_at'])}."
                )
            time.sleep(wait * random.uniform(0.5, 1))
            wait *= 2
        if any(put.outcomes.values()):
            raise MirrorError(f"DynamoDB refuses a {stream.kind} of {_moment(batch[0]['created_at'])}.")
        yield len(batch)


@dataclass(frozen=True)
class Tally:
    """Records of an hour: how many, and the sum of their hashes, which no order changes.

    Source of the sum: Bellare and Micciancio, "A new paradigm for collision-free hashing", 1997.
    """

    count: int = 0
    digest: int = 0


@dataclass(frozen=True)
class Compared:
    """The same hour of the same kind on both sides."""

    kind: str
    hour: datetime
    database: Tally
    mirror: Tally

    @property
    def is_equal(self) -> bool:
        """Whether both sides hold the same records."""
        return self.database == self.mirror


def verify(stream: Stream, since: datetime | None, until: datetime) -> Iterator[Compared]:
    """Compare every record of both sides, hour by hour, in bounded memory; records that wait are missing.

    Args:
        since: by default the moment of the database's first record.

    Raises:
        MirrorError: DynamoDB can't be reached or refuses.
    """
    first = stream.model._default_manager.aggregate(first=models.Min("created_at"))["first"]
    since = max(since or first or until, oldest_kept())
    here = _tallies(0, stream.rows(created_at__gte=since, created_at__lt=until))
    there = _tallies(1, read(since, until, stream=stream))
    both = heapq.merge(here, there, key=lambda each: each[:2])
    for hour, group in groupby(both, key=lambda each: each[0]):
        tallies = {side: tally for _, side, tally in group}
        yield Compared(stream.kind, hour, tallies.get(0, Tally()), tallies.get(1, Tally()))


def _tallies(side: int, rows: Iterable[Mapping[str, Any]]) -> Iterator[tuple[datetime, int, Tally]]:
    for hour, group in groupby(rows, _hour):
        count = digest = 0
        for row in group:
            count += 1
            text = json.dumps(row, sort_keys=True, default=_text)
            digest += int.from_bytes(sha256(text.encode()).digest(), "big")
        yield hour, side, Tally(count, digest % 2**256)


def _hour(row: Mapping[str, Any]) -> datetime:
    return row["created_at"].replace(minute=0, second=0, microsecond=0)
