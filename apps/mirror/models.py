"""The change log of the mirror, and the state of its sender."""

from dataclasses import dataclass

from django.db import models
from django.utils import timezone

from apps.core.models import Leasable


@dataclass(frozen=True)
class ReplicationLag:
    """How far the mirror lags behind the database.

    Attributes:
        count: the number of records that are not yet in the mirror.
        seconds: the age of the oldest of them, 0 if there are none.
    """

    count: int
    seconds: float


class ChangeLogQuerySet(models.QuerySet["ChangeLogEntry"]):
    """Queries of the change log."""

    def replication_lag(self) -> ReplicationLag:
        """Return how far the mirror lags behind."""
        row = self.aggregate(count=models.Count("pk"), oldest=models.Min("created_at"))
        if row["oldest"] is None:
            return ReplicationLag(0, 0.0)
        return ReplicationLag(row["count"], max((timezone.now() - row["oldest"]).total_seconds(), 0.0))


class ChangeLogEntry(models.Model):
    """A record to copy to DynamoDB. A database trigger inserts it in the record's own transaction."""

    kind = models.CharField(max_length=10, help_text="The kind of the record, see `ReplicatedModel`.")
    key = models.CharField(max_length=36, help_text="The record's primary key.")
    created_at = models.DateTimeField()

    objects = ChangeLogQuerySet.as_manager()

    class Meta:
        ordering = ("pk",)
        verbose_name_plural = "change log"

    def __str__(self) -> str:
        return f"{self.kind} {self.key}"


class MirrorState(Leasable):
    """The state of the sender: one row, whose lease admits one sender at a time."""

    id = models.PositiveSmallIntegerField(primary_key=True, default=1)
    retry_at = models.DateTimeField(null=True, help_text="After a failure, the time of the next attempt.")
    failures = models.PositiveIntegerField(default=0, help_text="The number of consecutive failures.")
    error = models.CharField(max_length=100, blank=True, help_text="The error of the last attempt.")

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=models.Q(id=1),
                name="mirror_one_state",
                violation_error_message="There is only one mirror state.",
            )
        ]

    def __str__(self) -> str:
        return f"mirror: {self.error or 'no error'}"
