"""Recognises a visitor who returns to a result by a random cookie; only a hash per result is stored.

A page with the feedback form sets the cookie, so that both requests of a double click come from one visitor.
A visitor who deletes the cookie is a new visitor: nothing else identifies visitors without following them.
"""

from uuid import UUID

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.utils.crypto import get_random_string, salted_hmac

COOKIE = "visitor"
SALT = "apps.pages.visitors"
MAX_AGE_SECONDS = 365 * 24 * 3600


def get_visitor_token(request: HttpRequest) -> str | None:
    """Return the random token in the visitor's cookie, or None if it is missing or forged."""
    return request.get_signed_cookie(COOKIE, None, salt=SALT, max_age=MAX_AGE_SECONDS)


def set_visitor_cookie(request: HttpRequest, response: HttpResponse) -> str:
    """Store the visitor's token, or a new one, in the browser for another year, and return it."""
    token = get_visitor_token(request) or get_random_string(32)
    response.set_signed_cookie(
        COOKIE,
        token,
        salt=SALT,
        max_age=MAX_AGE_SECONDS,
        httponly=True,
        samesite="Lax",
        secure=settings.SESSION_COOKIE_SECURE,
    )
    return token


def visitor_id(token: str, prediction_id: UUID) -> str:
    """Return the hash to store with feedback.

    It differs between results, so that a visitor cannot be tracked across them.
    """
    return salted_hmac(SALT, f"{token}:{prediction_id}", algorithm="sha256").hexdigest()[:32]
