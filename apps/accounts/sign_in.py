"""Limits on failed sign-ins per address and per name; django-axes limits them per name and address together.

The sign-in form calls it. A browser in which a user has signed in before has a signed cookie and is exempt
for that user, so that attacks from the same address or on the same name do not lock the user out.
"""

from hashlib import sha256

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from limits import RateLimitItem, RateLimitItemPerHour, RateLimitItemPerMinute

from apps.accounts.exceptions import TooManySignInsError
from apps.accounts.limits import client_network, rate_limiter
from apps.accounts.models import User

ADDRESS_FAILURES = RateLimitItemPerMinute(30, 15)  # for all names, against password spraying
NAME_FAILURES = RateLimitItemPerHour(200)  # for all addresses, against botnets
DEVICE_COOKIE = "known_device"
DEVICE_DAYS = 180


def _limits(request: HttpRequest, username: str) -> list[tuple[RateLimitItem, str]]:
    name = sha256(username.encode()).hexdigest()
    return [
        (ADDRESS_FAILURES, f"sign-in address:{client_network(request)}"),
        (NAME_FAILURES, f"sign-in name:{name}"),
    ]


def _is_known_device(request: HttpRequest, username: str) -> bool:
    max_age = DEVICE_DAYS * 86_400
    return bool(username) and username == request.get_signed_cookie(
        DEVICE_COOKIE, default=None, salt=DEVICE_COOKIE, max_age=max_age
    )


def require_attempt(request: HttpRequest, username: str) -> None:
    """Check that a sign-in may be attempted.

    Raises:
        TooManySignInsError: too many failed from this address or for this name.
    """
    if _is_known_device(request, username):
        return
    for limit, identity in _limits(request, username):
        seconds = rate_limiter().peek(limit, identity)
        if seconds is not None:
            raise TooManySignInsError(seconds)


def record_failure(request: HttpRequest, username: str) -> None:
    """Count a failed sign-in."""
    for limit, identity in _limits(request, username):
        rate_limiter().hit(limit, identity)


def remember_device(response: HttpResponse, user: User) -> None:
    """Set the cookie that marks the browser as known to the user."""
    response.set_signed_cookie(
        DEVICE_COOKIE,
        user.get_username(),
        salt=DEVICE_COOKIE,
        max_age=DEVICE_DAYS * 86_400,
        path="/admin/",
        secure=settings.SESSION_COOKIE_SECURE,
        httponly=True,
        samesite="Lax",
    )
