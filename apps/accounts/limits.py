"""Rate limits per API key, and per address for requests without a key."""

import ipaddress
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from django.conf import settings
from django.http import HttpRequest
from limits import RateLimitItem, RateLimitItemPerMinute
from limits.errors import StorageError
from limits.storage import MemoryStorage, storage_from_string
from limits.strategies import SlidingWindowCounterRateLimiter

logger = logging.getLogger(__name__)

OUTAGE_SECONDS = 10.0
UNKNOWN_KEYS = RateLimitItemPerMinute(60)  # requests with an invalid API key, per address
ALLOWANCE_SECONDS, ALLOWANCE_SHARE, MAX_ALLOWANCES = 0.1, 0.01, 10_000


@dataclass
class _Allowance:
    """Requests that this process may admit without Redis.

    Attributes:
        size: the number of requests.
        expires_at: a time of the monotonic clock.
        used: the requests admitted so far, which Redis has not counted yet.
    """

    size: int
    expires_at: float
    used: int = 0

    @property
    def is_available(self) -> bool:
        """Whether another request may be admitted."""
        return self.used < self.size and time.monotonic() < self.expires_at


class RateLimiter:
    """Counts requests in Redis, shared by all processes; in this process's memory while Redis is down.

    To save calls, a process asks Redis ten times a second per identity, and admits up to a hundredth of the
    remaining requests in between. A limit of 6,000 may be exceeded by 60 in each process; a limit below 100
    is exact.
    """

    def __init__(self, redis_url: str) -> None:
        self._local = SlidingWindowCounterRateLimiter(MemoryStorage())
        self._shared = (
            SlidingWindowCounterRateLimiter(
                storage_from_string(
                    redis_url, wrap_exceptions=True, socket_connect_timeout=0.2, socket_timeout=0.2
                )
            )
            if redis_url
            else self._local
        )
        self._down_until = 0.0
        self._allowances: dict[str, _Allowance] = {}
        self._lock, self._local_lock = threading.Lock(), threading.Lock()

    def hit(self, limit: RateLimitItem, identity: str) -> float | None:
        """Count one request; return None if it is within the limit, else the seconds to wait."""
        with self._lock:
            allowance = self._allowances.get(identity)
            if allowance and allowance.is_available:
                allowance.used += 1
                return None
            self._allowances.pop(identity, None)
        cost = 1 + (allowance.used if allowance else 0)
        return self._call(lambda limiter: self._hit(limiter, limit, identity, cost))

    def peek(self, limit: RateLimitItem, identity: str) -> float | None:
        """Return None if a request would be within the limit, else the seconds to wait. Counts nothing."""
        with self._lock:
            allowance = self._allowances.get(identity)
            if allowance and allowance.is_available:
                return None
        return self._call(
            lambda limiter: None if limiter.test(limit, identity) else _wait(limiter, limit, identity)
        )

    def _call(self, function: Callable[[SlidingWindowCounterRateLimiter], float | None]) -> float | None:
        if self._shared is not self._local and time.monotonic() >= self._down_until:
            try:
                return function(self._shared)
            except StorageError as error:
                # While Redis is down, only one request in ten seconds waits for its timeout.
                self._down_until = time.monotonic() + OUTAGE_SECONDS
                logger.warning(
                    "Redis failed (%s), rate limits apply per process for now", error.__class__.__name__
                )
        with self._local_lock:  # the library's MemoryStorage is not thread-safe when it starts its timer
            return function(self._local)

    def _hit(
        self, limiter: SlidingWindowCounterRateLimiter, limit: RateLimitItem, identity: str, cost: int
    ) -> float | None:
        is_within_limit = limiter.hit(limit, identity, cost=cost)
        if is_within_limit and limit.amount * ALLOWANCE_SHARE < 1:
            return None  # the limit is too low for an allowance
        stats = limiter.get_window_stats(limit, identity)
        if not is_within_limit:
            return max(stats.reset_time - time.time(), 1.0)
        if size := int(stats.remaining * ALLOWANCE_SHARE):
            with self._lock:
                if len(self._allowances) >= MAX_ALLOWANCES:
                    self._allowances.clear()
                self._allowances[identity] = _Allowance(size, time.monotonic() + ALLOWANCE_SECONDS)
        return None


def _wait(limiter: SlidingWindowCounterRateLimiter, limit: RateLimitItem, identity: str) -> float:
    """Return the seconds until the limit admits another request."""
    return max(limiter.get_window_stats(limit, identity).reset_time - time.time(), 1.0)


@cache
def rate_limiter() -> RateLimiter:
    """Return this process's rate limiter."""
    return RateLimiter(settings.REDIS_URL)


def client_network(request: HttpRequest) -> str:
    """Return the client's IPv4 address, or the /64 network of its IPv6 address, which one subscriber has.

    Only the entries of X-Forwarded-For that trusted proxies appended are used: a client can forge the others.
    """
    hops = request.META.get("HTTP_X_FORWARDED_FOR", "").split(",")
    trusted = settings.TRUSTED_PROXIES
    address = hops[-trusted].strip() if 0 < trusted <= len(hops) else ""
    address = address or request.META.get("REMOTE_ADDR", "")
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address[:64]
    if parsed.version == 4:
        return str(parsed)
    if parsed.ipv4_mapped:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((int(parsed), 64), strict=False))


def client_address(request: HttpRequest) -> str | None:
    """Return `client_network` as one address, which django-axes can store, or None without an address."""
    address = client_network(request).partition("/")[0]
    try:
        return str(ipaddress.ip_address(address))
    except ValueError:
        return None


def unknown_key_wait(request: HttpRequest) -> float | None:
    """Count a request with an invalid API key; return None, or the seconds to wait before another one."""
    return rate_limiter().hit(UNKNOWN_KEYS, f"unknown key:{client_network(request)}")


def anonymous_wait(request: HttpRequest) -> float | None:
    """Count a request without an API key; return None, or the seconds to wait before another one."""
    limit = RateLimitItemPerMinute(settings.ANONYMOUS_RATE_PER_MINUTE)
    return rate_limiter().hit(limit, f"address:{client_network(request)}")
