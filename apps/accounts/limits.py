"""How often somebody may call: counted per API key, and per address where there is no key."""

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
UNKNOWN_KEYS = RateLimitItemPerMinute(60)  # API keys that an address may guess
LEASE_SECONDS, LEASE_SHARE, MOST_LEASES = 0.1, 0.01, 10_000


@dataclass
class _Lease:
    """Calls that a process may answer without asking: so many, until then; `taken` are to be counted yet."""

    size: int
    until: float
    taken: int = 0


class RateLimiter:
    """Counts calls in Redis, shared by every process; while Redis is out, in this process's memory.

    Asking Redis takes longer than scoring. So a process asks ten times a second for a busy caller, and lets
    up to a hundredth of what the caller has left pass in between: a limit of 6,000 may be overrun by 60 in
    each process, one below 100 never is.
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
        self._out_until = 0.0
        self._leases: dict[str, _Lease] = {}
        self._lock, self._local_lock = threading.Lock(), threading.Lock()

    def wait(self, item: RateLimitItem, who: str) -> float | None:
        """Count one request; return None if it is within the limit, else the seconds until one will be."""
        with self._lock:
            lease = self._leases.get(who)
            if lease and lease.taken < lease.size and time.monotonic() < lease.until:
                lease.taken += 1
                return None
            self._leases.pop(who, None)
        cost = 1 + (lease.taken if lease else 0)
        return self._ask(lambda limiter: self._wait(limiter, item, who, cost))

    def exhausted(self, item: RateLimitItem, who: str) -> float | None:
        """Return the seconds until a request is within the limit, None if one is so now. Counts nothing."""
        with self._lock:
            lease = self._leases.get(who)
            if lease and lease.taken < lease.size and time.monotonic() < lease.until:
                return None
        return self._ask(lambda limiter: None if limiter.test(item, who) else _reset(limiter, item, who))

    def _ask(self, question: Callable[[SlidingWindowCounterRateLimiter], float | None]) -> float | None:
        if self._shared is not self._local and time.monotonic() >= self._out_until:
            try:
                return question(self._shared)
            except StorageError as error:
                # One request in ten seconds pays for trying, the others don't wait for a Redis that is down.
                self._out_until = time.monotonic() + OUTAGE_SECONDS
                logger.warning("Rate limits are kept per process, Redis fails: %s", error.__class__.__name__)
        with self._local_lock:  # the library's storage in memory starts one timer twice when two threads meet
            return question(self._local)

    def _wait(
        self, limiter: SlidingWindowCounterRateLimiter, item: RateLimitItem, who: str, cost: int
    ) -> float | None:
        admitted = limiter.hit(item, who, cost=cost)
        if admitted and item.amount * LEASE_SHARE < 1:
            return None  # too low a limit for a lease: what is left need not be asked
        stats = limiter.get_window_stats(item, who)
        if not admitted:
            return max(stats.reset_time - time.time(), 1.0)
        if size := int(stats.remaining * LEASE_SHARE):
            with self._lock:
                if len(self._leases) >= MOST_LEASES:
                    self._leases.clear()
                self._leases[who] = _Lease(size, time.monotonic() + LEASE_SECONDS)
        return None


def _reset(limiter: SlidingWindowCounterRateLimiter, item: RateLimitItem, who: str) -> float:
    """Return in how many seconds the limit lets a request pass again."""
    return max(limiter.get_window_stats(item, who).reset_time - time.time(), 1.0)


@cache
def rate_limiter() -> RateLimiter:
    """Return this process's rate limiter."""
    return RateLimiter(settings.REDIS_URL)


def client_network(request: HttpRequest) -> str:
    """Return who is at the other end: an IPv4 address, or the /64 that an IPv6 subscriber is given.

    Only what the trusted proxies appended to X-Forwarded-For counts: the rest is the client's own say.
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
    """Return `client_network` as one address, as django-axes stores it; None where there is no address."""
    address = client_network(request).partition("/")[0]
    try:
        return str(ipaddress.ip_address(address))
    except ValueError:
        return None


def unknown_key_wait(request: HttpRequest) -> float | None:
    """Count one unknown API key; return None, or the seconds until the address may try another."""
    return rate_limiter().wait(UNKNOWN_KEYS, f"unknown key:{client_network(request)}")


def anonymous_wait(request: HttpRequest) -> float | None:
    """Count one request without a key; return None, or the seconds until the address may call again."""
    item = RateLimitItemPerMinute(settings.ANONYMOUS_RATE_PER_MINUTE)
    return rate_limiter().wait(item, f"address:{client_network(request)}")
