"""Rotate signing keys and send test webhooks. The console, the API and the management command call them."""

import threading
from datetime import timedelta
from uuid import uuid4

from django.db import transaction
from django.utils import timezone
from django.utils.crypto import get_random_string

from apps.accounts.models import APIKey, Scope
from apps.accounts.permissions import Actor, require
from apps.core.exceptions import PermissionDeniedError
from apps.webhooks import retries, signing
from apps.webhooks.exceptions import WebhookError
from apps.webhooks.models import SigningKey

MANAGE_KEYS_PERMISSION = "accounts.change_apikey"
DEFAULT_OVERLAP = timedelta(hours=24)
MAX_OVERLAP = timedelta(days=30)
_MAX_TESTS = 2
_tests = threading.BoundedSemaphore(_MAX_TESTS)


def _require(actor: Actor | APIKey, permission: str, api_key: APIKey | None) -> str:
    """Check that a user has the permission, or that an API key manages its own webhooks; return the name."""
    if isinstance(actor, APIKey):
        if actor != api_key or Scope.WEBHOOKS not in actor.scopes:
            raise PermissionDeniedError(
                f"An API key needs the scope “{Scope.WEBHOOKS}” for its own webhooks."
            )
        return f"API key {actor.hint}…"
    require(actor, permission)
    return actor.get_username()


@transaction.atomic
def rotate_signing_key(
    *, api_key: APIKey, actor: Actor | APIKey, overlap: timedelta = DEFAULT_OVERLAP
) -> tuple[SigningKey, str]:
    """Create the first signing key of an API key, or the successor of its key; return it with its secret.

    The previous key stays active for the time `overlap`, so that the receiver can be changed meanwhile.

    Args:
        actor: a user, the API key itself, or an operator.

    Raises:
        PermissionDeniedError: the actor may not manage the signing keys of the API key.
        WebhookError: two keys sign already, or the overlap is too long.
    """
    name = _require(actor, MANAGE_KEYS_PERMISSION, api_key)
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
        created_by=name,
    )
    SigningKey.objects.filter(pk__in=[old.pk for old in active]).update(
        expires_at=now + overlap, expired_by=name
    )
    return key, signing.secret_of(key)


@transaction.atomic
def end_signing_key(*, api_key: APIKey, key_id: str, actor: Actor | APIKey) -> SigningKey:
    """Deactivate one of two active keys. The other one stays active, even if it was to expire.

    Raises:
        PermissionDeniedError: the actor may not manage the signing keys of the API key.
        WebhookError: the API key has no such active signing key, or no other one.
    """
    name = _require(actor, MANAGE_KEYS_PERMISSION, api_key)
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
    key.expires_at, key.expired_by = now, name
    key.save(update_fields=["expires_at", "expired_by"])
    return key


def send_test(
    *,
    api_key: APIKey | None,
    url: str,
    actor: Actor | APIKey,
    permission: str = MANAGE_KEYS_PERMISSION,
) -> retries.Attempt:
    """Send a webhook with the event `test`, signed like any other webhook, and return the result.

    Args:
        permission: the permission that a user needs for this URL.

    Raises:
        PermissionDeniedError: the actor may not send a test to the receiver of the API key.
        WebhookError: other tests are being sent.
    """
    name = _require(actor, permission, api_key)
    if not _tests.acquire(blocking=False):
        raise WebhookError("Other test webhooks are being sent. Try again in some seconds.")
    try:
        payload = {"event": "test", "sent_at": timezone.now().isoformat(), "sent_by": name}
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
