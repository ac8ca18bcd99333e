"""The paths of the Perspective API: parse, act, reply. Plain Django views, for speed."""

import functools
import logging
import traceback
from collections.abc import Callable
from typing import Any

from django.db import DatabaseError
from django.http import HttpRequest, HttpResponse
from django.views.decorators.csrf import csrf_exempt

from apps.accounts.models import APIKey, Scope
from apps.api.parsers import TooLargeError, read_body
from apps.api.perspective import analysis
from apps.api.perspective.access import admit, caller
from apps.api.perspective.errors import PerspectiveError, internal, invalid, not_found, unavailable
from apps.api.perspective.messages import DISCOVERY, parse
from apps.api.perspective.rendering import answer, refusal
from apps.registry.serving import NoModelError

logger = logging.getLogger(__name__)

View = Callable[[HttpRequest], HttpResponse]
Act = Callable[[dict[str, Any], APIKey | None], dict[str, Any]]


def google(view: View) -> View:
    """Let a view answer every failure in Google's form, and leave no word of a comment in the log."""

    @csrf_exempt
    @functools.wraps(view)
    def wrapped(request: HttpRequest) -> HttpResponse:
        try:
            return view(request)
        except PerspectiveError as error:
            return refusal(request, error)
        except NoModelError as error:
            logger.error("No comment can be scored: %s", error)
            return refusal(request, unavailable())
        except DatabaseError as error:
            logger.error("The database failed: %s", error.__class__.__name__)
            return refusal(request, unavailable())
        except Exception as error:
            # The message of an exception may quote the comment, its place in the code does not.
            place = "".join(traceback.format_tb(error.__traceback__))
            logger.error(
                "%s %s failed: %s\n%s", request.method, request.path, error.__class__.__name__, place
            )
            return refusal(request, internal())

    return wrapped


def body_of(request: HttpRequest) -> bytes:
    """Return the body, whatever its content type.

    Raises:
        PerspectiveError: it is larger than the site accepts.
    """
    try:
        return read_body(request)  # type: ignore[arg-type]  # a request reads like a file
    except TooLargeError as error:
        raise invalid(str(error.detail), None) from error


def _method(request: HttpRequest, scope: Scope, name: str, act: Act) -> HttpResponse:
    if request.method != "POST":
        raise not_found()
    body = body_of(request)  # before anything else, so that a refused client can read why
    key = admit(request, scope=scope, method=name)
    return answer(request, act(parse(body, f"{name}Request"), key))


@google
def analyze(request: HttpRequest) -> HttpResponse:
    """Score a comment: AnalyzeComment."""
    return _method(request, Scope.PREDICT, "AnalyzeComment", analysis.analyze)


@google
def suggestscore(request: HttpRequest) -> HttpResponse:
    """Take a suggested score: SuggestCommentScore."""
    return _method(request, Scope.FEEDBACK, "SuggestCommentScore", analysis.suggest)


@google
def discovery(request: HttpRequest) -> HttpResponse:
    """Describe the API for the host that it was asked on. Clients try keys here: a wrong one is refused."""
    version = DISCOVERY["version"]
    if request.method not in ("GET", "HEAD") or request.GET.get("version", version) != version:
        raise not_found()
    caller(request)
    root = request.build_absolute_uri("/")
    return answer(request, {**DISCOVERY, "rootUrl": root, "baseUrl": root})


@google
def nothing_here(request: HttpRequest) -> HttpResponse:
    """Refuse every other path below the API's."""
    raise not_found()
