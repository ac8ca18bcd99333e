"""Copy records to DynamoDB: those of the change log, or all that are stored."""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import count, islice
from typing import Any

from django.conf import settings
from django.db.models import Q
from django.utils import timezone

from apps.core import aws
from apps.core.leases import Lease
from apps.core.retries import back_off
from apps.mirror.codec import encode_item, format_time
from apps.mirror.exceptions import MirrorError
from apps.mirror.models import ChangeLogEntry, MirrorState
from apps.mirror.replicated import CHUNK_SIZE, REPLICATED_MODELS, ReplicatedModel
from apps.mirror.table import oldest_kept, translate_aws_errors

logger = logging.getLogger(__name__)

BATCH_SIZE = CHUNK_SIZE
LEASE_DURATION = timedelta(seconds=60)
FIRST_WAIT, LONGEST_WAIT = timedelta(seconds=5), timedelta(minutes=5)
BACKFILL_ATTEMPTS = 7
# Errors that concern a single item. All others concern the table, the network or the credentials.
_ITEM_ERRORS = {"ValidationException", "ItemCollectionSizeLimitExceededException"}


@dataclass(frozen=True)
class _PutResult:
    """The result of storing items.

    Attributes:
        codes: by index of the item, the error code of DynamoDB, or None if it is stored. Items without an
            entry were not tried because of the failure.
        failure: the error that concerns all items, or an empty string.
    """

    codes: dict[int, str | None]
    failure: str


def _put_items(client: Any, items: Sequence[Mapping[str, Any]]) -> _PutResult:
    """Store the items that are not stored yet, in threads; stop after the first failure."""
    from botocore.exceptions import BotoCoreError, ClientError

    codes: dict[int, str | None] = {}
    failures: list[str] = []

    def put(index: int) -> None:
        if failures:
            return
        try:
            client.put_item(
                TableName=settings.DYNAMODB_TABLE,
                Item=items[index],
                # Only single writes and transactions support conditions, and transactions cost twice as much.
                ConditionExpression="attribute_not_exists(prediction)",
            )
            codes[index] = None
        except ClientError as error:
            code = error.response["Error"]["Code"]
            if code == "ConditionalCheckFailedException":
                codes[index] = None
            elif code in _ITEM_ERRORS:
                codes[index] = code
            else:
                failures.append(code)
        except BotoCoreError as error:
            failures.append(error.__class__.__name__)

    with ThreadPoolExecutor(aws.MAX_CONNECTIONS) as pool:
        list(pool.map(put, range(len(items))))
    rejections = [code for code in codes.values() if code]
    if rejections and None not in codes.values():
        failures.append(min(rejections))  # DynamoDB accepts nothing, so the items are not the cause
    return _PutResult(codes, failures[0] if failures else "")


def flush(*, seconds: float = 20.0) -> int:
    """Copy the records of the change log, for some seconds. One process at a time does so.

    What botocore's retries can't store remains in the change log, and each consecutive failure doubles the
    pause until the next attempt. A killed sender is replaced after a minute; the records that it has stored
    are recognised.

    Returns:
        The number of entries that were removed from the change log.
    """
    if not settings.DYNAMODB_TABLE or not ChangeLogEntry.objects.exists():
        return 0
    MirrorState.objects.get_or_create()
    is_due = Q(retry_at=None) | Q(retry_at__lte=timezone.now())
    lease = Lease.acquire(MirrorState.objects.filter(is_due), LEASE_DURATION)
    if lease is None:
        return 0
    copied, last, failure = 0, 0, "interrupted"
    end = time.monotonic() + seconds
    try:
        client = aws.client("dynamodb")
        while lease.update():
            entries = list(ChangeLogEntry.objects.filter(pk__gt=last)[:BATCH_SIZE])
            finished, failure = _copy(client, entries)
            ChangeLogEntry.objects.filter(pk__in=finished).delete()
            copied += len(finished)
            if failure or len(entries) < BATCH_SIZE or time.monotonic() > end:
                break
            last = entries[-1].pk
    finally:
        _release(lease, failure)
    return copied


def _copy(client: Any, entries: Sequence[ChangeLogEntry]) -> tuple[list[int], str]:
    """Copy the records of entries; return the keys of the finished entries and the failure of the others."""
    items, keys = [], []
    finished = {entry.pk for entry in entries}
    for replicated in REPLICATED_MODELS:
        to_python = replicated.model._meta.pk.to_python
        entry_keys = {to_python(entry.key): entry.pk for entry in entries if entry.kind == replicated.kind}
        for row in replicated.rows(pk__in=list(entry_keys)):
            items.append(encode_item(replicated, row))
            keys.append(entry_keys[row["id"]])
    result = _put_items(client, items)
    for index, key in enumerate(keys):
        if index not in result.codes or result.codes[index]:
            finished.discard(key)
            if code := result.codes.get(index):
                logger.error("DynamoDB rejected the record of change log entry %d: %s", key, code)
    return sorted(finished), result.failure


def _release(lease: Lease, failure: str) -> None:
    if not failure:
        lease.release(retry_at=None, failures=0, error="")
        return
    failures = MirrorState.objects.get().failures + 1
    pause = back_off(failures, first=FIRST_WAIT, longest=LONGEST_WAIT)
    if lease.release(retry_at=timezone.now() + pause, failures=failures, error=failure[:100]):
        logger.warning("The mirror failed (%s), next attempt in %.0f s", failure, pause.total_seconds())


def backfill(replicated: ReplicatedModel, since: datetime | None = None) -> Iterator[int]:
    """Copy all stored records of a model; yield the number of records after each batch.

    Raises:
        MirrorError: DynamoDB could not be reached for some minutes, or rejects a record.
    """
    with translate_aws_errors():
        client = aws.client("dynamodb")
    rows = replicated.rows(created_at__gte=max(since or oldest_kept(), oldest_kept()))
    while batch := list(islice(rows, BATCH_SIZE)):
        items = [encode_item(replicated, row) for row in batch]
        first_time = format_time(batch[0]["created_at"])
        for failures in count(1):
            result = _put_items(client, items)
            if not result.failure:
                break
            if failures == BACKFILL_ATTEMPTS:
                raise MirrorError(
                    f"DynamoDB still fails ({result.failure}): continue with --since {first_time}."
                )
            time.sleep(back_off(failures, first=FIRST_WAIT, longest=LONGEST_WAIT).total_seconds())
        if any(result.codes.values()):
            raise MirrorError(f"DynamoDB rejects a {replicated.kind} record near {first_time}.")
        yield len(batch)
