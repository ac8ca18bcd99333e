"""What is done with API keys."""

import time
from datetime import timedelta

from django.db import transaction
from django.utils import timezone

from apps.accounts.models import APIKey, User, default_scopes

LOOKUP_SECONDS = 1.0
_MOST_KEPT = 10_000
_found: dict[str, tuple[APIKey, float]] = {}


@transaction.atomic
def create_api_key(
    *,
    name: str,
    scopes: list[str] | None = None,
    rate_per_minute: int = 6_000,
    created_by: User | None = None,
    acts_as: User | None = None,
    review_perspective: bool = False,
    drop_unsupported: bool = False,
    secret: str | None = None,
) -> tuple[APIKey, str]:
    """Create a key and return it with its secret, which is shown this once.

    Args:
        acts_as: the moderator in whose name the key may decide.
        review_perspective: send what the policy wants reviewed into the queue (see the field's help).
        drop_unsupported: leave out Perspective attributes that can't be scored instead of refusing the call.
        secret: a secret chosen by the operator; a random one by default.

    Raises:
        ValidationError: an unknown scope, no name, a rate below 1, or a secret that is in use.
    """
    secret = secret or APIKey.new_secret()
    key = APIKey(
        name=name,
        hint=secret[:4] if len(secret) < 20 else secret[:8],
        secret_hash=APIKey.hash(secret),
        scopes=default_scopes() if scopes is None else scopes,
        rate_per_minute=rate_per_minute,
        created_by=created_by,
        acts_as=acts_as,
        review_perspective=review_perspective,
        drop_unsupported=drop_unsupported,
    )
    key.full_clean(exclude=["created_by", "acts_as"])
    key.save()
    return key, secret


def revoke_api_key(*, key: APIKey) -> None:
    """Revoke a key: it is refused within a second. Revoking twice keeps the first time."""
    APIKey.objects.active().filter(pk=key.pk).update(revoked_at=timezone.now())


def find_api_key(*, secret: str) -> APIKey | None:
    """Return the active key with this secret, or None. It is looked up once a second in each process."""
    key, until = _found.get(secret, (None, 0.0))
    if key is None or time.monotonic() >= until:
        key = APIKey.objects.for_secret(secret)
        if key is None:
            _found.pop(secret, None)
            return None
        if len(_found) >= _MOST_KEPT:
            _found.clear()
        _found[secret] = (key, time.monotonic() + LOOKUP_SECONDS)
    return key


def was_found(*, secret: str) -> bool:
    """Whether this process has found the key with this secret before."""
    return secret in _found


def is_touch_due(*, key: APIKey) -> bool:
    """Whether that the key is used is to be noted: at most once a minute, so that its row is no hot spot."""
    return key.last_used_at is None or key.last_used_at < timezone.now() - timedelta(minutes=1)


def touch_api_key(*, key: APIKey) -> None:
    """Note that the key was used, where that is due."""
    if is_touch_due(key=key):
        now = timezone.now()
        APIKey.objects.filter(pk=key.pk).update(last_used_at=now)
        key.last_used_at = now
