"""Rate limits of `/api/v1/` by API key, and by address for anonymous requests."""

from typing import TYPE_CHECKING

from limits import RateLimitItemPerMinute
from rest_framework.request import Request
from rest_framework.throttling import BaseThrottle

from apps.accounts.limits import anonymous_wait, rate_limiter

if TYPE_CHECKING:  # `rest_framework.views` imports this module
    from rest_framework.views import APIView


class ClientRateThrottle(BaseThrottle):
    """Applies `apps.accounts.limits` to the views of Django REST framework."""

    seconds: float | None = None

    def allow_request(self, request: Request, view: "APIView") -> bool:
        if request.auth is None:
            self.seconds = anonymous_wait(request._request)
        else:
            item = RateLimitItemPerMinute(request.auth.rate_per_minute)  # type: ignore[union-attr]
            self.seconds = rate_limiter().hit(item, f"key:{request.auth.pk}")
        return self.seconds is None

    def wait(self) -> float | None:
        return self.seconds
