"""Bulk jobs."""

from typing import Any

from django.db import models
from django.utils import timezone

from apps.accounts.models import User
from apps.moderation.models.decisions import Decision
from apps.moderation.models.policies import PolicyRule


class BulkJob(models.Model):
    """One decision applied to all items of a filter, confirmed by typing their number."""

    class Status(models.TextChoices):
        DRAFT = "draft", "Not confirmed"
        QUEUED = "queued", "Queued"
        RUNNING = "running", "Running"
        DONE = "done", "Done"
        CANCELLED = "cancelled", "Cancelled"
        UNDOING = "undoing", "Being undone"
        UNDONE = "undone", "Undone"

    filter: Any = models.JSONField(help_text="Selects the items, see `actions.BulkFilter`.")
    action = models.CharField(max_length=8, choices=Decision.Action)
    rule = models.ForeignKey(PolicyRule, null=True, on_delete=models.PROTECT, related_name="+")
    note = models.TextField(blank=True, max_length=2_000)
    count = models.PositiveIntegerField(help_text="Number of items that the filter selects.")
    last_item = models.BigIntegerField(help_text="The last item that the job may decide.")
    done = models.PositiveIntegerField(default=0)
    skipped = models.PositiveIntegerField(default=0, help_text="Leased or decided by others meanwhile.")
    cursor = models.BigIntegerField(default=0, help_text="The last item that was processed.")
    status = models.CharField(max_length=9, choices=Status, default=Status.DRAFT)
    created_at = models.DateTimeField(default=timezone.now)
    created_by = models.ForeignKey(User, on_delete=models.PROTECT, related_name="+")
    confirmed_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)
    cancelled_by = models.ForeignKey(User, null=True, on_delete=models.PROTECT, related_name="+")
    undone = models.PositiveIntegerField(default=0, help_text="Number of its decisions that were undone.")
    not_undone: Any = models.JSONField(
        default=list, help_text="Items whose decision could not be undone, each with the reason."
    )
    undo_cursor = models.BigIntegerField(default=0, help_text="The last decision that the undo processed.")
    undone_by = models.ForeignKey(User, null=True, on_delete=models.PROTECT, related_name="+")

    class Meta:
        ordering = ("-pk",)

    def __str__(self) -> str:
        return f"{self.action} {self.count}: {self.status}"

    @property
    def is_active(self) -> bool:
        """Whether a worker continues the job."""
        return self.status in (self.Status.QUEUED, self.Status.RUNNING, self.Status.UNDOING)

    @property
    def can_undo(self) -> bool:
        """Whether the job has ended and made decisions that can be undone."""
        return self.status in (self.Status.DONE, self.Status.CANCELLED) and self.done > 0

    @property
    def progress(self) -> float:
        """The fraction that is done, from 0 to 1."""
        return min((self.done + self.skipped) / self.count, 1.0) if self.count else 1.0
