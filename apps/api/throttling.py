"""Rate limits per API key, and per address for anonymous requests."""

from typing import TYPE_CHECKING

from limits import RateLimitItemPerMinute
from rest_framework.request import Request
from rest_framework.throttling import BaseThrottle

from apps.accounts.limits import anonymous_wait, rate_limiter

if TYPE_CHECKING:  # DRF's views import this module themselves
    from rest_framework.views import APIView


class ClientRateThrottle(BaseThrottle):
    """DRF's door to the rate limiter."""

    seconds: float | None = None

    def allow_request(self, request: Request, view: "APIView") -> bool:
        if request.auth is None:
            self.seconds = anonymous_wait(request._request)
        else:
            item = RateLimitItemPerMinute(request.auth.rate_per_minute)
            self.seconds = rate_limiter().wait(item, f"key:{request.auth.pk}")
        return self.seconds is None

    def wait(self) -> float | None:
        return self.seconds
