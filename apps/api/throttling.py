"""Rate limits per API key, and per address for anonymous requests."""

import logging
import time
from functools import cache

from django.conf import settings
from limits import RateLimitItem, RateLimitItemPerMinute
from limits.errors import StorageError
from limits.storage import MemoryStorage, storage_from_string
from limits.strategies import SlidingWindowCounterRateLimiter
from rest_framework.request import Request
from rest_framework.throttling import BaseThrottle
from rest_framework.views import APIView

logger = logging.getLogger(__name__)

OUTAGE_SECONDS = 10.0


class RateLimiter:
    """Counts hits in Redis, shared by every process; while Redis is out, in this process's memory."""

    def __init__(self, redis_url: str) -> None:
        self._local = SlidingWindowCounterRateLimiter(MemoryStorage())
        self._shared = (
            SlidingWindowCounterRateLimiter(
                storage_from_string(
                    redis_url, wrap_exceptions=True, socket_connect_timeout=0.2, socket_timeout=0.2
                )  # type: ignore[arg-type]
            )
            if redis_url
            else self._local
        )
        self._out_until = 0.0

    def wait(self, item: RateLimitItem, who: str) -> float | None:
        """Count one request; return None if it is within the limit, else the seconds until one will be."""
        if time.monotonic() >= self._out_until:
            try:
                return self._wait(self._shared, item, who)
            except StorageError as error:
                # One request in ten seconds pays for trying, the others don't wait for a Redis that is down.
                self._out_until = time.monotonic() + OUTAGE_SECONDS
                logger.warning("Rate limits are kept per process, Redis fails: %s", error.__class__.__name__)
        return self._wait(self._local, item, who)

    @staticmethod
    def _wait(limiter: SlidingWindowCounterRateLimiter, item: RateLimitItem, who: str) -> float | None:
        if limiter.hit(item, who):
            return None
        return max(limiter.get_window_stats(item, who).reset_time - time.time(), 1.0)


@cache
def rate_limiter() -> RateLimiter:
    """Return this process's rate limiter."""
    return RateLimiter(settings.REDIS_URL)


class ClientRateThrottle(BaseThrottle):
    """DRF's door to the rate limiter."""

    seconds: float | None = None

    def allow_request(self, request: Request, view: APIView) -> bool:
        if request.auth is None:
            item = RateLimitItemPerMinute(settings.ANONYMOUS_RATE_PER_MINUTE)
            who = f"address:{self.get_ident(request)}"
        else:
            item = RateLimitItemPerMinute(request.auth.rate_per_minute)
            who = f"key:{request.auth.pk}"
        self.seconds = rate_limiter().wait(item, who)
        return self.seconds is None

    def wait(self) -> float | None:
        return self.seconds
