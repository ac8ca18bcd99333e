"""Connections to platforms, the comments received through them, and what is sent back."""

from datetime import datetime
from typing import Any

from django.db import models
from django.db.models import Q
from django.utils import timezone
from uuid_utils.compat import uuid7

from apps.accounts.models import User
from apps.connectors import encryption
from apps.core.models import Leasable
from apps.moderation.models import Decision, Submission
from apps.webhooks.retries import GIVE_UP_AFTER


class Connection(Leasable):
    """A platform that sends comments by its own webhooks. One process at a time sends actions to it."""

    class Platform(models.TextChoices):
        CORAL = "coral", "Coral"
        DISCOURSE = "discourse", "Discourse"
        MASTODON = "mastodon", "Mastodon"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    platform = models.CharField(max_length=9, choices=Platform)
    community = models.CharField(
        max_length=100, blank=True, help_text="The community whose policy applies to the comments."
    )
    base_url = models.URLField(
        "address of the platform",
        max_length=300,
        blank=True,
        help_text="For example https://forum.example.org. Needed to send decisions back.",
    )
    api_user = models.CharField(
        "API user",
        max_length=100,
        blank=True,
        help_text="Discourse only: the user in whose name flags are set.",
    )
    encrypted_secret = models.TextField(blank=True, editable=False)
    encrypted_token = models.TextField(blank=True, editable=False)
    is_active = models.BooleanField(
        default=True, help_text="If unticked, the platform's requests get status 404."
    )
    failures = models.PositiveIntegerField(default=0, editable=False, help_text="Consecutive failures.")
    paused_until = models.DateTimeField(
        null=True, editable=False, help_text="No action is sent before this time."
    )
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    created_by = models.ForeignKey(
        User, null=True, on_delete=models.SET_NULL, related_name="+", editable=False
    )

    class Meta:
        ordering = ("platform", "community", "pk")

    def __str__(self) -> str:
        return f"{self.get_platform_display()} for {self.community or 'comments without a community'}"

    @property
    def secret(self) -> str:
        """The secret with which the platform signs its requests."""
        return encryption.decrypt(self.encrypted_secret)

    @property
    def token(self) -> str:
        """The token or API key with which decisions are sent back; empty if there is none."""
        return encryption.decrypt(self.encrypted_token)

    @property
    def sends_actions(self) -> bool:
        """Whether flags and decisions are sent back."""
        return bool(self.is_active and self.base_url and self.encrypted_token)


class ReceivedComment(models.Model):
    """A comment that a platform sent: what is needed to name it to the platform again."""

    submission = models.OneToOneField(
        Submission, primary_key=True, on_delete=models.PROTECT, related_name="received_comment"
    )
    connection = models.ForeignKey(Connection, on_delete=models.PROTECT, related_name="+")
    reference: Any = models.JSONField(default=dict, help_text="The platform's IDs.")
    last_decision = models.BigIntegerField(
        default=0, help_text="The ID of the newest decision that was considered for an action."
    )
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ("-pk",)

    def __str__(self) -> str:
        return self.submission.external_id or str(self.pk)


def _retry_until() -> datetime:
    return timezone.now() + GIVE_UP_AFTER


class PlatformAction(models.Model):
    """A flag or a decision in the outbox for a platform, before and after it is sent."""

    class Kind(models.TextChoices):
        FLAG = "flag", "Flag"
        APPROVE = "approve", "Approve"
        REJECT = "reject", "Reject"

    class Status(models.TextChoices):
        PENDING = "pending", "Waiting to be sent"
        DELIVERED = "delivered", "Delivered"
        FAILED = "failed", "Failed"

    comment = models.ForeignKey(ReceivedComment, on_delete=models.PROTECT, related_name="actions")
    decision = models.ForeignKey(
        Decision, null=True, on_delete=models.PROTECT, related_name="+", help_text="Empty for a flag."
    )
    kind = models.CharField(max_length=7, choices=Kind)
    status = models.CharField(max_length=9, choices=Status, default=Status.PENDING)
    attempts = models.PositiveSmallIntegerField(default=0)
    send_after = models.DateTimeField(default=timezone.now)
    retry_until = models.DateTimeField(
        default=_retry_until, help_text="An attempt that fails after this moment is the last one."
    )
    response_status = models.PositiveSmallIntegerField(null=True)
    error = models.CharField(max_length=300, blank=True)
    created_at = models.DateTimeField(default=timezone.now)
    delivered_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ("-pk",)
        constraints = [
            models.CheckConstraint(
                condition=Q(kind="flag", decision__isnull=True)
                | (~Q(kind="flag") & Q(decision__isnull=False)),
                name="connectors_action_has_decision",
                violation_error_message="A flag has no decision, and every other action has one.",
            )
        ]
        indexes = [
            models.Index(fields=["send_after"], condition=Q(status="pending"), name="connectors_outbox")
        ]

    def __str__(self) -> str:
        return f"{self.get_kind_display()}: {self.get_status_display()}"
