"""The outbox of webhooks."""

from typing import Any

from django.db import models
from django.db.models import Q
from django.utils import timezone
from uuid_utils.compat import uuid7

from apps.moderation.models.decisions import Decision
from apps.webhooks.models import Endpoint


class Delivery(models.Model):
    """A webhook in the outbox, before and after it is sent."""

    class Event(models.TextChoices):
        DECIDED = "decision.made", "A moderator decided"
        REVERSED = "decision.reversed", "A decision was undone"
        APPEAL = "appeal.resolved", "An appeal was resolved"

    class Status(models.TextChoices):
        PENDING = "pending", "Waiting to be sent"
        SENDING = "sending", "Being sent"
        DELIVERED = "delivered", "Delivered"
        CANCELLED = "cancelled", "Cancelled by an undo"
        FAILED = "failed", "Failed"

    UNFINISHED = (Status.PENDING, Status.SENDING)

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    decision = models.ForeignKey(Decision, on_delete=models.PROTECT, related_name="deliveries")
    api_key = models.ForeignKey(
        "accounts.APIKey", verbose_name="API key", null=True, on_delete=models.PROTECT, related_name="+"
    )
    endpoint = models.ForeignKey(Endpoint, on_delete=models.PROTECT, related_name="+", db_index=False)
    event = models.CharField(max_length=20, choices=Event)
    url = models.URLField("URL", max_length=500)
    payload: Any = models.JSONField()
    status = models.CharField(max_length=9, choices=Status, default=Status.PENDING)
    attempts = models.PositiveSmallIntegerField(default=0)
    send_after = models.DateTimeField(help_text="While it is being sent: when another worker tries again.")
    not_before = models.DateTimeField(
        null=True, help_text="Until when the receiver asked to wait, with `Retry-After`."
    )
    retry_until = models.DateTimeField(help_text="An attempt that fails after this moment is the last one.")
    response_status = models.PositiveSmallIntegerField(null=True)
    error = models.CharField(max_length=300, blank=True)
    created_at = models.DateTimeField(default=timezone.now)
    delivered_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ("-id",)
        verbose_name_plural = "deliveries"
        permissions = [("resend_delivery", "Can send deliveries again")]
        indexes = [
            models.Index(
                fields=["send_after"],
                condition=Q(status__in=["pending", "sending"]),
                name="moderation_outbox",
            ),
            models.Index(fields=["status", "-id"], name="moderation_deliveries"),
            models.Index(
                fields=["endpoint", "id"],
                condition=Q(status__in=["pending", "sending"]),
                name="moderation_endpoint_outbox",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.event} {self.status}"

    @property
    def state(self) -> str:
        """The status in words; a pending delivery that has failed before is being retried."""
        if self.status == self.Status.PENDING and self.attempts:
            return f"Being retried, {self.attempts} attempt{'s' if self.attempts > 1 else ''} failed"
        return self.get_status_display()
