"""Limits on failed sign-ins per address and per name, and the step between the password and the code.

The sign-in form calls it. django-axes limits failed sign-ins per name and address together. A browser in
which a user has signed in before has a signed cookie and is exempt for that user, so that attacks from the
same address or on the same name do not lock the user out.
"""

import time
from hashlib import sha256

from axes.handlers.proxy import AxesProxyHandler
from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.utils.crypto import constant_time_compare
from limits import RateLimitItem, RateLimitItemPerHour, RateLimitItemPerMinute

from apps.accounts.exceptions import TooManySignInsError
from apps.accounts.limits import client_network, rate_limiter
from apps.accounts.models import User

ADDRESS_FAILURES = RateLimitItemPerMinute(30, 15)  # for all names, against password spraying
NAME_FAILURES = RateLimitItemPerHour(200)  # for all addresses, against botnets
DEVICE_COOKIE = "known_device"
DEVICE_DAYS = 180
CODE_SECONDS = 300  # after the password, for entering the code
_PENDING = "pending_sign_in"  # in the session: the user whose password was right, and when


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


def lock_seconds() -> float:
    """Return for how long django-axes locks a name for an address after the last failed sign-in."""
    return settings.AXES_COOLOFF_TIME * 3600


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


def start_code_step(request: HttpRequest, user: User) -> None:
    """Store in the session that the user's password was right: the next request sends only the code."""
    request.session.cycle_key()
    request.session[_PENDING] = {
        "user": user.pk,
        "backend": user.backend,
        "hash": user.get_session_auth_hash(),
        "time": time.time(),
    }


def end_code_step(request: HttpRequest) -> None:
    """Forget the user whose password was right."""
    request.session.pop(_PENDING, None)


def pending_user(request: HttpRequest, username: str) -> User | None:
    """Return the user of this name whose password was right in this browser within `CODE_SECONDS`, or None.

    Raises:
        TooManySignInsError: django-axes has locked the name for this address meanwhile.
    """
    pending = request.session.get(_PENDING)
    if pending is None or not 0 <= time.time() - pending["time"] <= CODE_SECONDS:
        return None
    user = User.objects.filter(pk=pending["user"], username=username).first()
    if user is None or not constant_time_compare(pending["hash"], user.get_session_auth_hash()):
        return None
    if not AxesProxyHandler.is_allowed(request, {"username": username}):
        raise TooManySignInsError(lock_seconds())
    user.backend = pending["backend"]
    return user
