"""Rotate signing keys and send test webhooks. The console, the API and the management command call them."""

import threading
from dataclasses import dataclass
from datetime import timedelta
from uuid import uuid4

from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.utils import timezone
from django.utils.crypto import get_random_string

from apps.accounts.models import APIKey, Scope, User
from apps.webhooks import retries, signing
from apps.webhooks.exceptions import WebhookError
from apps.webhooks.models import SigningKey

MANAGE_KEYS = "accounts.change_apikey"
DEFAULT_OVERLAP = timedelta(hours=24)
MAX_OVERLAP = timedelta(days=30)
_MAX_TESTS = 2
_tests = threading.BoundedSemaphore(_MAX_TESTS)


@dataclass(frozen=True)
class Actor:
    """The actor that manages the signing keys of an API key: a user, the API key itself, or an operator."""

    name: str

    @classmethod
    def for_user(cls, user: User) -> "Actor":
        """Return the user as an actor.

        Raises:
            PermissionDenied: the user may not change API keys.
        """
        if not user.is_active or not user.has_perm(MANAGE_KEYS):
            raise PermissionDenied(f"{user.get_username()} lacks the permission “{MANAGE_KEYS}”.")
        return cls(user.get_username())

    @classmethod
    def for_api_key(cls, api_key: APIKey) -> "Actor":
        """Return the API key as an actor on its own signing keys.

        Raises:
            PermissionDenied: the API key lacks the scope.
        """
        if Scope.WEBHOOKS not in api_key.scopes:
            raise PermissionDenied(f"This API key lacks the scope “{Scope.WEBHOOKS}”.")
        return cls(f"API key {api_key.hint}…"[:150])


@transaction.atomic
def rotate_signing_key(
    *, api_key: APIKey, actor: Actor, overlap: timedelta = DEFAULT_OVERLAP
) -> tuple[SigningKey, str]:
    """Create the first signing key of an API key, or the successor of its key; return it with its secret.

    The previous key stays active for the time `overlap`, so that the receiver can be changed meanwhile.

    Raises:
        WebhookError: two keys sign already, or the overlap is too long.
    """
    if not timedelta(0) <= overlap <= MAX_OVERLAP:
        raise WebhookError(f"The overlap may be 0 to {MAX_OVERLAP // timedelta(hours=1)} hours.")
    APIKey.objects.select_for_update().get(pk=api_key.pk)
    now = timezone.now()
    active = list(SigningKey.objects.active(now).filter(api_key=api_key))
    if len(active) > 1:
        raise WebhookError(
            f"A rotation is in progress: {active[1].key_id} signs until "
            f"{active[1].expires_at:%Y-%m-%d %H:%M} UTC. End one of the two secrets first."
        )
    key = SigningKey.objects.create(
        api_key=api_key,
        key_id=get_random_string(16, "abcdefghjkmnpqrstuvwxyz23456789"),
        created_at=now,
        created_by=actor.name,
    )
    SigningKey.objects.filter(pk__in=[old.pk for old in active]).update(
        expires_at=now + overlap, expired_by=actor.name
    )
    return key, signing.secret_of(key)


@transaction.atomic
def end_signing_key(*, api_key: APIKey, key_id: str, actor: Actor) -> SigningKey:
    """Deactivate one of two active keys. The other one stays active, even if it was to expire.

    Raises:
        WebhookError: the API key has no such active signing key, or no other one.
    """
    APIKey.objects.select_for_update().get(pk=api_key.pk)
    now = timezone.now()
    active = {key.key_id: key for key in SigningKey.objects.active(now).filter(api_key=api_key)}
    key = active.pop(key_id, None)
    if key is None:
        raise WebhookError(f"There is no active signing secret {key_id}.")
    if not active:
        raise WebhookError("This is the only signing secret. Rotate it instead, with an overlap of 0 hours.")
    SigningKey.objects.filter(pk__in=[other.pk for other in active.values()]).update(
        expires_at=None, expired_by=""
    )
    key.expires_at, key.expired_by = now, actor.name
    key.save(update_fields=["expires_at", "expired_by"])
    return key


def send_test(*, api_key: APIKey | None, url: str, actor: Actor) -> retries.Attempt:
    """Send a webhook with the event `test`, signed like any other webhook, and return the result.

    Raises:
        WebhookError: other tests are being sent.
    """
    if not _tests.acquire(blocking=False):
        raise WebhookError("Other test webhooks are being sent. Try again in some seconds.")
    try:
        payload = {"event": "test", "sent_at": timezone.now().isoformat(), "sent_by": actor.name}
        return retries.attempt(
            lambda: signing.send(
                delivery_id=str(uuid4()),
                attempt=1,
                url=url,
                payload=payload,
                api_key=api_key,
                always_read=True,
            )
        )
    finally:
        _tests.release()
