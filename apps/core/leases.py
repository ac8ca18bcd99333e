"""Leases on rows of the database: one process at a time works on a row, and a killed process is replaced."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Self
from uuid import UUID, uuid4

from django.db.models import Q, QuerySet
from django.utils import timezone


@dataclass(frozen=True)
class Lease:
    """The exclusive right to work on a row of a `Leasable` model until the lease expires.

    Attributes:
        row: a queryset of the one row.
        duration: how long the lease lasts from the last time it was acquired or renewed.
    """

    row: QuerySet[Any]
    owner: UUID
    duration: timedelta

    @classmethod
    def acquire(cls, row: QuerySet[Any], duration: timedelta) -> Self | None:
        """Acquire the lease of a row; return None if another process holds it or there is no such row."""
        owner, now = uuid4(), timezone.now()
        is_free = Q(lease_expires_at=None) | Q(lease_expires_at__lte=now)
        if not row.filter(is_free).update(lease_owner=owner, lease_expires_at=now + duration):
            return None
        return cls(row, owner, duration)

    def update(self, **fields: Any) -> bool:
        """Renew the lease and set fields of the row; return False if another process has taken over."""
        fields["lease_expires_at"] = timezone.now() + self.duration
        return bool(self.row.filter(lease_owner=self.owner).update(**fields))

    def release(self, **fields: Any) -> bool:
        """End the lease and set fields of the row; return False if another process has taken over."""
        fields |= {"lease_owner": None, "lease_expires_at": None}
        return bool(self.row.filter(lease_owner=self.owner).update(**fields))
