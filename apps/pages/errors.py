"""Error pages, and decorators that return them."""

import logging
import math
from collections.abc import Callable
from functools import wraps

from django.db import DatabaseError
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from apps.accounts.limits import anonymous_wait
from apps.accounts.sign_in import lock_seconds
from apps.core.database import describe_error
from apps.registry.exceptions import NoModelError

logger = logging.getLogger(__name__)

View = Callable[..., HttpResponse]


def csrf_failure(request: HttpRequest, reason: str = "") -> HttpResponse:
    """Return the page for a form without a valid CSRF token."""
    return render(request, "403_csrf.html", status=403)


def too_many_requests(request: HttpRequest, seconds: float) -> HttpResponse:
    """Return the page for an address over its rate limit, which may send requests again after `seconds`."""
    retry_after = math.ceil(seconds)
    response = render(request, "429.html", {"seconds": retry_after}, status=429)
    response["Retry-After"] = str(retry_after)
    return response


def too_many_sign_ins(request: HttpRequest, seconds: float) -> HttpResponse:
    """Return the page for too many failed sign-ins; the next attempt is allowed after `seconds`."""
    minutes = math.ceil(seconds / 60)
    response = render(request, "429_sign_in.html", {"minutes": minutes}, status=429)
    response["Retry-After"] = str(math.ceil(seconds))
    return response


def sign_in_locked(
    request: HttpRequest, response: HttpResponse | None = None, credentials: object = None
) -> HttpResponse:
    """Return the page for a username that django-axes has locked for this address.

    Each further attempt restarts the lock.
    """
    return too_many_sign_ins(request, lock_seconds())


def unavailable(request: HttpRequest) -> HttpResponse:
    """Return the page for an outage of the model or the database."""
    response = render(request, "503.html", status=503)
    response["Retry-After"] = "5"
    return response


def handle_unavailable(view: View) -> View:
    """Return the page for an outage if the view finds no model or the database fails."""

    @wraps(view)
    def wrapped(request: HttpRequest, *args: object, **kwargs: object) -> HttpResponse:
        try:
            return view(request, *args, **kwargs)
        except NoModelError as error:
            logger.error("%s", error)
        except DatabaseError as error:
            logger.error("The database failed: %s", describe_error(error))
        return unavailable(request)

    return wrapped


def rate_limited(*methods: str) -> Callable[[View], View]:
    """Apply the rate limit of anonymous visitors to requests with these methods, by address."""

    def decorate(view: View) -> View:
        @wraps(view)
        def wrapped(request: HttpRequest, *args: object, **kwargs: object) -> HttpResponse:
            seconds = anonymous_wait(request) if request.method in methods else None
            return view(request, *args, **kwargs) if seconds is None else too_many_requests(request, seconds)

        return wrapped

    return decorate
