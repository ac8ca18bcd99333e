"""Error pages: what went wrong, and what to do next."""

import logging
import math
from collections.abc import Callable
from functools import wraps

from django.conf import settings
from django.db import DatabaseError
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from apps.accounts.limits import anonymous_wait
from apps.registry.exceptions import NoModelError

logger = logging.getLogger(__name__)

View = Callable[..., HttpResponse]


def bad_request(request: HttpRequest) -> HttpResponse:
    """Return the page of a request that makes no sense."""
    return render(request, "400.html", status=400)


def csrf_failure(request: HttpRequest, reason: str = "") -> HttpResponse:
    """Return the page of a form that did not come from this site, or from one that was open for too long."""
    return render(request, "403_csrf.html", status=403)


def too_many(request: HttpRequest, seconds: float) -> HttpResponse:
    """Return the page of an address that calls too often, with the time after which it may go on."""
    wait = math.ceil(seconds)
    response = render(request, "429.html", {"seconds": wait}, status=429)
    response["Retry-After"] = str(wait)
    return response


def too_many_sign_ins(request: HttpRequest, seconds: float) -> HttpResponse:
    """Return the page of somebody whose sign-ins failed too often, with the time after which to try again."""
    minutes = math.ceil(seconds / 60)
    response = render(request, "429_sign_in.html", {"minutes": minutes}, status=429)
    response["Retry-After"] = str(math.ceil(seconds))
    return response


def sign_in_locked(
    request: HttpRequest, response: HttpResponse | None = None, credentials: object = None
) -> HttpResponse:
    """Return the page of a name that django-axes has locked for this address; an attempt extends it."""
    return too_many_sign_ins(request, settings.AXES_COOLOFF_TIME * 3600)


def unavailable(request: HttpRequest) -> HttpResponse:
    """Return the page of a site that has no model or no database at the moment."""
    response = render(request, "503.html", status=503)
    response["Retry-After"] = "5"
    return response


def helpful(view: View) -> View:
    """Answer with a page that helps when the model or the database is missing."""

    @wraps(view)
    def wrapped(request: HttpRequest, *args: object, **kwargs: object) -> HttpResponse:
        try:
            return view(request, *args, **kwargs)
        except NoModelError as error:
            logger.error("%s", error)
        except DatabaseError as error:
            logger.error("The database failed: %s", error.__class__.__name__)
        return unavailable(request)

    return wrapped


def limited(*methods: str) -> Callable[[View], View]:
    """Count the calls of each address, with these methods, against the limit for anonymous use."""

    def decorate(view: View) -> View:
        @wraps(view)
        def wrapped(request: HttpRequest, *args: object, **kwargs: object) -> HttpResponse:
            seconds = anonymous_wait(request) if request.method in methods else None
            return view(request, *args, **kwargs) if seconds is None else too_many(request, seconds)

        return wrapped

    return decorate
