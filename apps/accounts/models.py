"""Users, their access to communities, and API keys."""

import hashlib
import secrets

from django.contrib.auth.models import AbstractUser
from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.utils import timezone

from apps.core.text import name_community


class User(AbstractUser):
    """A person who signs in: moderator, lead, engineer or administrator."""

    all_communities = models.BooleanField(
        "access to all communities",
        default=False,
        help_text="Lets the user see every community, those to come included. If unticked, the user sees the "
        "communities listed below and nothing else. Superusers see everything.",
    )


class CommunityAccess(models.Model):
    """Lets a user see one community; the empty name stands for comments without a community."""

    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="community_access")
    community = models.CharField(max_length=100, blank=True)

    class Meta:
        ordering = ("user", "community")
        verbose_name_plural = "community access"
        constraints = [models.UniqueConstraint(fields=["user", "community"], name="accounts_one_access")]

    def __str__(self) -> str:
        return f"{self.user} in {name_community(self.community)}"


class Scope(models.TextChoices):
    """What an API key may do."""

    PREDICT = "predict", "Score comments"
    FEEDBACK = "feedback", "Send feedback"
    READ = "read", "Read records, models and statistics"
    MODERATE = "moderate", "Work on the queue as the moderator the key is bound to"
    WEBHOOKS = "webhooks", "Rotate the secrets that sign its webhooks"


def default_scopes() -> list[str]:
    """Return the scopes of a new key: all but the one that reveals secrets."""
    return [scope for scope in Scope.values if scope != Scope.WEBHOOKS]


def validate_scopes(value: object) -> None:
    """Raise ValidationError unless `value` is a list of known scopes."""
    if not isinstance(value, list) or not set(value) <= set(Scope.values):
        raise ValidationError(f"Scopes are a list of: {', '.join(Scope.values)}.")


class APIKeyQuerySet(models.QuerySet["APIKey"]):
    """Queries of API keys by state and secret."""

    def active(self) -> "APIKeyQuerySet":
        """Return the keys that have not been revoked."""
        return self.filter(revoked_at=None)

    def for_secret(self, secret: str) -> "APIKey | None":
        """Return the active key whose secret this is, or None."""
        return self.active().filter(secret_hash=APIKey.hash(secret)).first()


class APIKey(models.Model):
    """A platform's key. Only a hash of the secret is kept, so a lost key is replaced, not recovered."""

    name = models.CharField(max_length=100, help_text="Which platform uses it.")
    hint = models.CharField(max_length=8, editable=False, help_text="The first characters of the secret.")
    secret_hash = models.CharField(max_length=64, unique=True, editable=False)
    scopes = models.JSONField(default=default_scopes, validators=[validate_scopes])
    rate_per_minute = models.PositiveIntegerField(
        default=6_000,
        validators=[
            MinValueValidator(
                1, "Allow at least one request a minute; to reject all requests, revoke the key."
            ),
            MaxValueValidator(1_000_000_000, "Enter at most 1,000,000,000 requests a minute."),
        ],
        help_text="Requests a minute.",
    )
    acts_as = models.ForeignKey(
        User,
        null=True,
        blank=True,
        on_delete=models.SET_NULL,
        related_name="+",
        help_text="The moderator in whose name the key decides, within that person's permissions.",
    )
    review_perspective = models.BooleanField(
        "Review Perspective calls",
        default=False,
        help_text="Apply the policy to comments analysed through the Perspective-compatible API, and put "
        "those that need human review into the moderation queue. Comments sent with doNotStore are not "
        "moderated.",
    )
    refuse_unsupported = models.BooleanField(
        "Refuse unsupported attributes",
        default=False,
        help_text="The Perspective-compatible API rejects a call that names an attribute or a language that "
        "it can't score, as Perspective did. If unticked, it answers what it can.",
    )
    zero_unsupported = models.BooleanField(
        "Score 0 for unsupported attributes",
        default=False,
        help_text="The Perspective-compatible API gives the score 0 to attributes that it can't score, for "
        "clients that read every attribute they ask for.",
    )
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    created_by = models.ForeignKey(
        User, null=True, blank=True, on_delete=models.SET_NULL, related_name="+", editable=False
    )
    last_used_at = models.DateTimeField(null=True, blank=True, editable=False)
    revoked_at = models.DateTimeField(null=True, blank=True, editable=False)

    objects = APIKeyQuerySet.as_manager()

    class Meta:
        verbose_name = "API key"
        ordering = ("name", "pk")
        constraints = [
            models.CheckConstraint(
                condition=models.Q(refuse_unsupported=False) | models.Q(zero_unsupported=False),
                name="accounts_one_answer_to_unsupported",
                violation_error_message="Refuse unsupported attributes or score them 0, not both.",
            )
        ]

    def __str__(self) -> str:
        return f"{self.name} ({self.hint}…)"

    @staticmethod
    def new_secret() -> str:
        """Return a fresh secret with 256 random bits."""
        return f"tm_{secrets.token_urlsafe(32)}"

    @staticmethod
    def hash(secret: str) -> str:
        """Return the SHA-256 of a secret, hexadecimal. Secrets are random, so no slow hash is needed."""
        return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()

    @property
    def is_authenticated(self) -> bool:
        """Always True. Django and DRF read it from `request.user`, which is an `APIKey` in API requests."""
        return True


class UnsupportedAttribute(models.Model):
    """How often the requests of an API key named an attribute of Perspective that was not scored."""

    api_key = models.ForeignKey(
        APIKey, verbose_name="API key", on_delete=models.CASCADE, related_name="unsupported_attributes"
    )
    attribute = models.CharField(max_length=100)
    requests = models.PositiveBigIntegerField(default=0)

    class Meta:
        ordering = ("api_key", "-requests")
        constraints = [
            models.UniqueConstraint(fields=["api_key", "attribute"], name="accounts_one_count_per_attribute")
        ]

    def __str__(self) -> str:
        return f"{self.attribute}: asked for, not scored, {self.requests:,} times"
