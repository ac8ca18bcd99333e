"""The paths of the Perspective API: parse, act, reply. Plain Django views, for speed."""

import functools
import logging
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from django.core.exceptions import SuspiciousOperation
from django.db import DatabaseError
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.csrf import csrf_exempt
from rest_framework.exceptions import ParseError

from apps.accounts.models import APIKey, Scope
from apps.api.parsers import TooLargeError, read_body
from apps.api.perspective import analysis
from apps.api.perspective.access import admit, caller
from apps.api.perspective.errors import PerspectiveError, internal, invalid, not_found, unavailable
from apps.api.perspective.messages import DISCOVERY, parse
from apps.api.perspective.rendering import CONTENT_TYPE, answer, refusal
from apps.predictions.models import Scores
from apps.registry.exceptions import NoModelError

logger = logging.getLogger(__name__)

View = Callable[[HttpRequest], HttpResponse]


def google(view: View) -> View:
    """Let a view answer every failure in Google's form, and leave no word of a comment in the log."""

    @csrf_exempt
    @functools.wraps(view)
    def wrapped(request: HttpRequest) -> HttpResponse:
        try:
            return view(request)
        except Exception as error:
            return _failed(request, error)

    return wrapped


def _failed(request: HttpRequest, error: Exception) -> HttpResponse:
    if isinstance(error, PerspectiveError):
        return refusal(request, error)
    if isinstance(error, SuspiciousOperation):  # too many parameters, say
        body = invalid("The request is malformed.", None).body
        return JsonResponse(body, status=400, content_type=CONTENT_TYPE)
    if isinstance(error, NoModelError):
        logger.error("No comment can be scored: %s", error)
        return refusal(request, unavailable())
    if isinstance(error, DatabaseError):
        logger.error("The database failed: %s", error.__class__.__name__)
        return refusal(request, unavailable())
    # The message of an exception may quote the comment, its place in the code does not.
    place = "".join(traceback.format_tb(error.__traceback__))
    logger.error("%s %s failed: %s\n%s", request.method, request.path, error.__class__.__name__, place)
    return refusal(request, internal())


def body_of(request: HttpRequest) -> bytes:
    """Return the body, whatever its content type.

    Raises:
        PerspectiveError: it is larger than the site accepts, or the client closed the connection.
    """
    try:
        return read_body(request)  # type: ignore[arg-type]  # a request reads like a file
    except (TooLargeError, ParseError) as error:
        raise invalid(str(error.detail), None) from error


def _read(request: HttpRequest, scope: Scope, name: str) -> tuple[dict[str, Any], APIKey | None]:
    if request.method != "POST":
        raise not_found()
    body = body_of(request)  # before anything else, so that a refused client can read why
    key = admit(request, scope=scope, method=name)
    return parse(body, f"{name}Request"), key


def analyze_together(requests: Sequence[HttpRequest], max_spans: int | None = None) -> list[HttpResponse]:
    """Answer requests for AnalyzeComment as `analyze` does each, scoring and storing in one go.

    Args:
        max_spans: how many span scores all answers together may have; requests beyond are refused.
    """
    responses: dict[int, HttpResponse] = {}
    asked: dict[int, analysis.Asked] = {}
    spans = 0
    for place, request in enumerate(requests):
        try:
            checked = analysis.check(*_read(request, Scope.PREDICT, "AnalyzeComment"))
            if max_spans is not None and spans + checked.span_count > max_spans:
                raise invalid(f"The batch asks for more than {max_spans} span scores: split it.", None)
            spans += checked.span_count
            asked[place] = checked
        except Exception as error:
            responses[place] = _failed(request, error)
    results: Sequence[Scores | Exception]
    try:
        results = analysis.store(list(asked.values()))
    except Exception as error:
        results = [error] * len(asked)
    for (place, each), result in zip(asked.items(), results, strict=True):
        try:
            if isinstance(result, Exception):
                raise result
            responses[place] = answer(requests[place], analysis.answer(each, result))
        except Exception as error:
            responses[place] = _failed(requests[place], error)
    return [responses[place] for place in range(len(requests))]


@csrf_exempt
def analyze(request: HttpRequest) -> HttpResponse:
    """Score a comment: AnalyzeComment."""
    return analyze_together([request])[0]


@google
def suggestscore(request: HttpRequest) -> HttpResponse:
    """Take a suggested score: SuggestCommentScore."""
    return answer(request, analysis.suggest(*_read(request, Scope.FEEDBACK, "SuggestCommentScore")))


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
