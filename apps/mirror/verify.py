"""Compare the mirror with the database."""

import heapq
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from itertools import groupby
from typing import Any

from django.db import models

from apps.mirror.codec import format_value
from apps.mirror.reader import read
from apps.mirror.replicated import ReplicatedModel
from apps.mirror.table import oldest_kept


@dataclass(frozen=True)
class HourChecksum:
    """The number of records of an hour, and the sum of their hashes, which does not depend on their order.

    Source of the sum: Bellare and Micciancio, "A new paradigm for collision-free hashing", 1997.
    """

    count: int = 0
    digest: int = 0


@dataclass(frozen=True)
class HourComparison:
    """The records of a model in one hour, in the database and in the mirror."""

    kind: str
    hour: datetime
    database: HourChecksum
    mirror: HourChecksum

    @property
    def is_equal(self) -> bool:
        """Whether database and mirror contain the same records."""
        return self.database == self.mirror


def verify(replicated: ReplicatedModel, since: datetime | None, until: datetime) -> Iterator[HourComparison]:
    """Compare all records of a model, hour by hour, in bounded memory. Pending records count as missing.

    Args:
        since: by default the time of the first record in the database.

    Raises:
        MirrorError: DynamoDB can't be reached or reports an error.
    """
    first = replicated.model._default_manager.aggregate(first=models.Min("created_at"))["first"]
    since = max(since or first or until, oldest_kept())
    database = _checksums(0, replicated.rows(created_at__gte=since, created_at__lt=until))
    mirror = _checksums(1, read(since, until, replicated=replicated))
    merged = heapq.merge(database, mirror, key=lambda checksum: checksum[:2])
    for hour, group in groupby(merged, key=lambda checksum: checksum[0]):
        checksums = {side: checksum for _, side, checksum in group}
        yield HourComparison(
            replicated.kind, hour, checksums.get(0, HourChecksum()), checksums.get(1, HourChecksum())
        )


def _checksums(side: int, rows: Iterable[Mapping[str, Any]]) -> Iterator[tuple[datetime, int, HourChecksum]]:
    for hour, group in groupby(rows, _hour):
        count = digest = 0
        for row in group:
            count += 1
            serialized = json.dumps(row, sort_keys=True, default=format_value)
            digest += int.from_bytes(sha256(serialized.encode()).digest(), "big")
        yield hour, side, HourChecksum(count, digest % 2**256)


def _hour(row: Mapping[str, Any]) -> datetime:
    return row["created_at"].replace(minute=0, second=0, microsecond=0)
