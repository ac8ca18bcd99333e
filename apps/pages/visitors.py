"""Who comes back to a result, not who it is: a random cookie, stored only as a hash for each result."""

from uuid import UUID

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.utils.crypto import get_random_string, salted_hmac

COOKIE = "visitor"
SALT = "apps.pages.visitors"
SECONDS = 365 * 24 * 3600


def visitor(request: HttpRequest) -> str | None:
    """Return the visitor's random word, or None where there is none or it was tampered with."""
    return request.get_signed_cookie(COOKIE, None, salt=SALT, max_age=SECONDS)


def new_visitor() -> str:
    """Return a random word for a visitor who has none."""
    return get_random_string(32)


def remember(response: HttpResponse, word: str) -> None:
    """Let the visitor's browser keep the word."""
    response.set_signed_cookie(
        COOKIE,
        word,
        salt=SALT,
        max_age=SECONDS,
        httponly=True,
        samesite="Lax",
        secure=settings.SESSION_COOKIE_SECURE,
    )


def mark(word: str, prediction: UUID) -> str:
    """Return what is stored: differs from result to result, so that nobody can be followed across them."""
    return salted_hmac(SALT, f"{word}:{prediction}", algorithm="sha256").hexdigest()[:32]
