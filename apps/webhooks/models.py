"""Signing keys of platforms, and receivers with the state of their circuit breaker."""

from datetime import datetime

from django.db import models
from django.db.models import Q
from django.utils import timezone


class SigningKeyQuerySet(models.QuerySet["SigningKey"]):
    """Queries of signing keys."""

    def active(self, now: datetime | None = None) -> "SigningKeyQuerySet":
        """Return the keys that sign webhooks, the newest first."""
        return self.filter(Q(expires_at=None) | Q(expires_at__gt=now or timezone.now())).order_by("-pk")


class SigningKey(models.Model):
    """A key that signs a platform's webhooks. Its secret is derived from `SECRET_KEY` and not stored."""

    key_id = models.CharField(max_length=16, unique=True)
    api_key = models.ForeignKey(
        "accounts.APIKey", verbose_name="API key", on_delete=models.CASCADE, related_name="+"
    )
    created_at = models.DateTimeField(default=timezone.now)
    created_by = models.CharField(max_length=150, blank=True, help_text="The user, API key or operator.")
    expires_at = models.DateTimeField(
        null=True, blank=True, help_text="The end of its use beside its successor. Empty if it has none."
    )
    expired_by = models.CharField(max_length=150, blank=True, help_text="Who replaced or ended it.")

    objects = SigningKeyQuerySet.as_manager()

    class Meta:
        ordering = ("-pk",)

    def __str__(self) -> str:
        return self.key_id

    @property
    def is_active(self) -> bool:
        """Whether it signs webhooks at this moment."""
        return self.expires_at is None or self.expires_at > timezone.now()


class Endpoint(models.Model):
    """A receiver of webhooks: one platform's deliveries to one origin. One of them is sent at a time."""

    api_key = models.ForeignKey(
        "accounts.APIKey", verbose_name="API key", null=True, on_delete=models.CASCADE, related_name="+"
    )
    origin = models.CharField(max_length=500, help_text="Scheme, host and port.")
    failures = models.PositiveIntegerField(
        default=0, help_text="Consecutive failures; a response resets them."
    )
    paused_until = models.DateTimeField(null=True, help_text="No delivery is attempted before this time.")
    busy_until = models.DateTimeField(
        null=True, help_text="Set while a worker sends: when it counts as dead."
    )

    class Meta:
        ordering = ("api_key", "origin")
        constraints = [
            models.UniqueConstraint(fields=["api_key", "origin"], name="webhooks_one_endpoint"),
            models.UniqueConstraint(
                fields=["origin"],
                condition=Q(api_key=None),
                name="webhooks_one_endpoint_without_api_key",
                violation_error_message="There is an endpoint with this address already.",
            ),
        ]

    def __str__(self) -> str:
        return self.origin
