"""Create, revoke and look up API keys; release accounts. The admin, the APIs and commands call them."""

import time
from datetime import timedelta

from axes.models import AccessAttempt
from django.db import transaction
from django.utils import timezone

from apps.accounts.models import APIKey, User, default_scopes
from apps.accounts.permissions import Actor, require, user_or_none

LOOKUP_SECONDS = 1.0
_MAX_CACHED = 10_000
_cache: dict[str, tuple[APIKey, float]] = {}  # by secret: the key, and when it expires on the monotonic clock


@transaction.atomic
def create_api_key(
    *,
    actor: Actor,
    name: str,
    scopes: list[str] | None = None,
    rate_per_minute: int = 6_000,
    acts_as: User | None = None,
    review_perspective: bool = False,
    refuse_unsupported: bool = False,
    zero_unsupported: bool = False,
    secret: str | None = None,
) -> tuple[APIKey, str]:
    """Create an API key and return it with its secret, which is not stored.

    Args:
        acts_as: the moderator for whom the key may decide.
        review_perspective: apply the policy to Perspective calls (see the field's help text).
        refuse_unsupported: reject Perspective calls that name an unsupported attribute or language.
        zero_unsupported: give unsupported Perspective attributes the score 0.
        secret: a secret that the operator provides; a random one by default.

    Raises:
        PermissionDeniedError: the actor may not create API keys.
        ValidationError: no name, an unknown scope, a rate below 1, or a secret that is in use.
    """
    require(actor, "accounts.add_apikey")
    secret = secret or APIKey.new_secret()
    key = APIKey(
        name=name,
        hint=secret[:4] if len(secret) < 20 else secret[:8],
        secret_hash=APIKey.hash(secret),
        scopes=default_scopes() if scopes is None else scopes,
        rate_per_minute=rate_per_minute,
        created_by=user_or_none(actor),
        acts_as=acts_as,
        review_perspective=review_perspective,
        refuse_unsupported=refuse_unsupported,
        zero_unsupported=zero_unsupported,
    )
    key.full_clean(exclude=["created_by", "acts_as"])
    key.save()
    return key, secret


def revoke_api_key(*, actor: Actor, key: APIKey) -> None:
    """Revoke an API key: every process rejects it within a second. A second call changes nothing.

    Raises:
        PermissionDeniedError: the actor may not change API keys.
    """
    require(actor, "accounts.change_apikey")
    APIKey.objects.active().filter(pk=key.pk).update(revoked_at=timezone.now())


def release_account(*, actor: Actor, username: str | None, address: str | None) -> None:
    """Forget the failed sign-ins with a name from an address, for which django-axes may have locked it.

    Raises:
        PermissionDeniedError: the actor may not release accounts.
    """
    require(actor, "axes.delete_accessattempt")
    AccessAttempt.objects.filter(username=username, ip_address=address).delete()


def find_api_key(*, secret: str) -> APIKey | None:
    """Return the active API key with this secret, or None. Each process caches it for a second."""
    key, expires_at = _cache.get(secret, (None, 0.0))
    if key is None or time.monotonic() >= expires_at:
        key = APIKey.objects.for_secret(secret)
        if key is None:
            _cache.pop(secret, None)
            return None
        if len(_cache) >= _MAX_CACHED:
            _cache.clear()
        _cache[secret] = (key, time.monotonic() + LOOKUP_SECONDS)
    return key


def is_cached(*, secret: str) -> bool:
    """Return whether this process has looked up the API key with this secret before."""
    return secret in _cache


def needs_last_used_update(*, key: APIKey) -> bool:
    """Return True if `last_used_at` is older than a minute; more updates would cause write contention."""
    return key.last_used_at is None or key.last_used_at < timezone.now() - timedelta(minutes=1)


def update_last_used(*, key: APIKey) -> None:
    """Store that the API key was used now, at most once a minute."""
    if needs_last_used_update(key=key):
        now = timezone.now()
        APIKey.objects.filter(pk=key.pk).update(last_used_at=now)
        key.last_used_at = now
