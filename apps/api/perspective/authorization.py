"""API keys and rate limits of the Perspective API; its views and `apps.api.batching` call it.

Clients send the API keys of this site in the same places as Google's API keys. A request with an invalid key
is rejected. A request without a key is anonymous; it is rejected if ANONYMOUS_API is off, as in production.
Each process looks up a key once a second, so a revoked key stops working within a second.
"""

import time
from collections.abc import Iterable

from django.conf import settings
from django.db import DatabaseError
from django.http import HttpRequest
from limits import RateLimitItemPerMinute

from apps.accounts.actions import (
    LOOKUP_SECONDS,
    find_api_key,
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
from apps.api.perspective.exceptions import (
    PerspectiveError,
    invalid_api_key,
    invalid_argument,
    invalid_token,
    method_blocked,
    missing_api_key,
    quota_exceeded,
)

MAX_BATCH_KEYS = 10  # different keys in the requests of a batch; each is looked up
_no_lookup_before = 0.0  # monotonic time


def get_secret(request: HttpRequest) -> str:
    """Return the API key that a request has in its query or headers, or an empty string."""
    if secret := request.GET.get("key") or request.META.get("HTTP_X_GOOG_API_KEY"):
        return secret
    scheme, _, secret = request.META.get("HTTP_AUTHORIZATION", "").partition(" ")
    if scheme.lower() in ("bearer", "api-key"):
        return secret.strip()
    return request.GET.get("access_token") or request.GET.get("oauth_token") or ""


def invalid_secret(request: HttpRequest) -> PerspectiveError:
    """Return the error for a request whose API key, or bearer token in place of it, is unknown or revoked."""
    has_key = request.GET.get("key") or request.META.get("HTTP_X_GOOG_API_KEY")
    scheme = request.META.get("HTTP_AUTHORIZATION", "").partition(" ")[0].lower()
    return invalid_api_key() if has_key or scheme == "api-key" else invalid_token()


def get_api_key(request: HttpRequest) -> APIKey | None:
    """Return the API key of a request, or None for an anonymous request.

    Raises:
        PerspectiveError: the key is unknown or revoked, or the address has sent too many such keys.
    """
    secret = get_secret(request)
    if not secret:
        return None
    key = find_api_key(secret=secret)
    if key is None:
        if (seconds := unknown_key_wait(request)) is not None:
            raise quota_exceeded(None, UNKNOWN_KEYS.amount, seconds)
        raise invalid_secret(request)
    return key


def can_batch(secret: str) -> bool:
    """Return whether a request with this key, or with none, needs no database access but the insert."""
    global _no_lookup_before
    if not secret:
        return True
    if not is_cached(secret=secret) or time.monotonic() < _no_lookup_before:
        return False
    try:
        key = find_api_key(secret=secret)
    except DatabaseError:
        # Other requests in the batch must not wait for the same timeout one after the other.
        _no_lookup_before = time.monotonic() + LOOKUP_SECONDS
        return False
    return key is not None and not key.review_perspective and not needs_last_used_update(key=key)


def authorize(request: HttpRequest, *, scope: Scope, method: str) -> APIKey | None:
    """Count a request against its rate limit; return its API key, or None for an anonymous request.

    Raises:
        PerspectiveError: the key is invalid or lacks the scope, anonymous requests are not allowed, or the
            rate limit is exceeded.
    """
    key = get_api_key(request)
    if key is None:
        if not settings.ANONYMOUS_API:
            raise missing_api_key()
        limit, seconds = settings.ANONYMOUS_RATE_PER_MINUTE, anonymous_wait(request)
    else:
        if scope not in key.scopes:
            raise method_blocked(method)
        limit = key.rate_per_minute
        seconds = rate_limiter().hit(RateLimitItemPerMinute(limit), f"key:{key.pk}")
    if seconds is not None:
        raise quota_exceeded(key, limit, seconds)
    if key is not None:
        update_last_used(key=key)
    return key


def authorize_batch(request: HttpRequest) -> None:
    """Check the API key of a batch request, if it has one, and its rate limit, without counting a request.

    Raises:
        PerspectiveError: the key is unknown or revoked, or its rate limit is exceeded.
    """
    key = get_api_key(request)
    if key is not None:
        _check_quota(key, key.rate_per_minute, f"key:{key.pk}")


def find_invalid_keys(requests: Iterable[HttpRequest], batch: HttpRequest) -> set[str]:
    """Return the API keys of the requests in a batch that are unknown or revoked; look up each key once.

    Raises:
        PerspectiveError: the requests have too many different keys; or none has a key, and anonymous requests
            are not allowed or exceed their rate limit.
    """
    secrets = {get_secret(request) for request in requests}
    if secrets == {""}:
        if not settings.ANONYMOUS_API:
            raise missing_api_key()
        _check_quota(None, settings.ANONYMOUS_RATE_PER_MINUTE, f"address:{client_network(batch)}")
    if len(secrets) > MAX_BATCH_KEYS:
        raise invalid_argument(f"The batch has more than {MAX_BATCH_KEYS} different API keys.", None)
    return {secret for secret in secrets if secret and find_api_key(secret=secret) is None}


def _check_quota(key: APIKey | None, limit: int, identifier: str) -> None:
    seconds = rate_limiter().peek(RateLimitItemPerMinute(limit), identifier)
    if seconds is not None:
        raise quota_exceeded(key, limit, seconds)
