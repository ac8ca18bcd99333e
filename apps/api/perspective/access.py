"""Who calls: our own API keys, sent in any of the ways that Google's clients send theirs.

A key that is sent must be valid. Without one the call is anonymous: answered where ANONYMOUS_API is on, as on
a laptop where somebody tries the server, and refused as Perspective refuses it where it is off, as in
production. Keys are looked up once a second in each process: a revoked one is refused within a second.
"""

import time
from collections.abc import Iterable

from django.conf import settings
from django.db import DatabaseError
from django.http import HttpRequest
from limits import RateLimitItemPerMinute

from apps.accounts.actions import (
    LOOKUP_SECONDS,
    get_api_key,
    is_cached,
    needs_last_used_update,
    update_last_used,
)
from apps.accounts.limits import (
    UNKNOWN_KEYS,
    anonymous_wait,
    client_network,
    rate_limiter,
    unknown_key_wait,
)
from apps.accounts.models import APIKey, Scope
from apps.api.perspective.errors import bad_key, blocked, invalid, no_key, quota_exceeded

MAX_BATCH_KEYS = 10  # different keys in the parts of a batch; each is looked up
_out_until = 0.0


def secret_of(request: HttpRequest) -> str:
    """Return the key that a request names in its query or headers, or an empty string."""
    if secret := request.GET.get("key") or request.META.get("HTTP_X_GOOG_API_KEY"):
        return secret
    scheme, _, secret = request.META.get("HTTP_AUTHORIZATION", "").partition(" ")
    if scheme.lower() in ("bearer", "api-key"):
        return secret.strip()
    return request.GET.get("access_token") or request.GET.get("oauth_token") or ""


def caller(request: HttpRequest) -> APIKey | None:
    """Return the key of a request, or None where it has none.

    Raises:
        PerspectiveError: the key is unknown or revoked, or too many such keys came from the address.
    """
    secret = secret_of(request)
    if not secret:
        return None
    key = get_api_key(secret=secret)
    if key is None:
        if (seconds := unknown_key_wait(request)) is not None:
            raise quota_exceeded(None, UNKNOWN_KEYS.amount, seconds)
        raise bad_key()
    return key


def is_known(secret: str) -> bool:
    """Whether a request has no key, or a valid one that was seen before and has nothing to be written."""
    global _out_until
    if not secret:
        return True
    if not is_cached(secret=secret) or time.monotonic() < _out_until:
        return False
    try:
        key = get_api_key(secret=secret)
    except DatabaseError:
        # Those behind it in the queue are not to wait for the same, one after the other.
        _out_until = time.monotonic() + LOOKUP_SECONDS
        return False
    return key is not None and not key.review_perspective and not needs_last_used_update(key=key)


def admit(request: HttpRequest, *, scope: Scope, method: str) -> APIKey | None:
    """Return the key of a request that may be answered, and count it; None stands for an anonymous one.

    Raises:
        PerspectiveError: the key is unknown or lacks the scope, there must be one, or the quota is used up.
    """
    key = caller(request)
    if key is None:
        if not settings.ANONYMOUS_API:
            raise no_key()
        limit, seconds = settings.ANONYMOUS_RATE_PER_MINUTE, anonymous_wait(request)
    else:
        if scope not in key.scopes:
            raise blocked(method)
        limit = key.rate_per_minute
        seconds = rate_limiter().wait(RateLimitItemPerMinute(limit), f"key:{key.pk}")
    if seconds is not None:
        raise quota_exceeded(key, limit, seconds)
    if key is not None:
        update_last_used(key=key)
    return key


def admit_batch(request: HttpRequest) -> None:
    """Check the key of a batch as a whole, where it has one, and whether its quota is used up.

    Counts nothing: each part counts.

    Raises:
        PerspectiveError: the key is unknown or revoked, or its quota is used up.
    """
    key = caller(request)
    if key is not None:
        _check_quota(key, key.rate_per_minute, f"key:{key.pk}")


def unknown_keys(requests: Iterable[HttpRequest], batch: HttpRequest) -> set[str]:
    """Return the keys of a batch's parts that are unknown or revoked, looking each up once.

    Raises:
        PerspectiveError: the parts name too many keys; or none names a key, and anonymous calls are refused
            here or their quota is used up.
    """
    secrets = {secret_of(request) for request in requests}
    if secrets == {""}:
        if not settings.ANONYMOUS_API:
            raise no_key()
        _check_quota(None, settings.ANONYMOUS_RATE_PER_MINUTE, f"address:{client_network(batch)}")
    if len(secrets) > MAX_BATCH_KEYS:
        raise invalid(f"The batch has more than {MAX_BATCH_KEYS} different API keys.", None)
    return {secret for secret in secrets if secret and get_api_key(secret=secret) is None}


def _check_quota(key: APIKey | None, limit: int, who: str) -> None:
    seconds = rate_limiter().exhausted(RateLimitItemPerMinute(limit), who)
    if seconds is not None:
        raise quota_exceeded(key, limit, seconds)
