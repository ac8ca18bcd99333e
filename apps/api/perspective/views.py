"""The views of the Perspective API."""

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
from apps.api.perspective import actions
from apps.api.perspective.authorization import authorize, get_api_key
from apps.api.perspective.exceptions import (
    PerspectiveError,
    from_error,
    internal,
    invalid_argument,
    not_found,
    unavailable,
)
from apps.api.perspective.messages import DISCOVERY, parse
from apps.api.perspective.rendering import CONTENT_TYPE, error_response, json_response
from apps.core.batches import map_batch, map_each
from apps.core.database import describe_error
from apps.core.exceptions import ToxicmodError
from apps.core.public_url import root_url

logger = logging.getLogger(__name__)

View = Callable[[HttpRequest], HttpResponse]


def perspective_view(view: View) -> View:
    """Decorate a view: exempt it from CSRF checks, and return each exception as an error of the API."""

    @csrf_exempt
    @functools.wraps(view)
    def wrapped(request: HttpRequest) -> HttpResponse:
        try:
            return view(request)
        except Exception as error:
            return _handle_exception(request, error)

    return wrapped


def _handle_exception(request: HttpRequest, error: Exception) -> HttpResponse:
    if isinstance(error, PerspectiveError):
        return error_response(request, error)
    if isinstance(error, SuspiciousOperation):  # for example too many parameters
        body = invalid_argument("The request is malformed.", None).body
        return JsonResponse(body, status=400, content_type=CONTENT_TYPE)
    if isinstance(error, ToxicmodError):
        if error.status >= 500:
            logger.error("%s %s failed: %s", request.method, request.path, error)
        return error_response(request, from_error(error))
    if isinstance(error, DatabaseError):
        logger.error("The database failed: %s", describe_error(error))
        return error_response(request, unavailable())
    # The message of an exception may quote the comment, its traceback does not.
    frames = "".join(traceback.format_tb(error.__traceback__))
    logger.error("%s %s failed: %s\n%s", request.method, request.path, error.__class__.__name__, frames)
    return error_response(request, internal())


def read_request_body(request: HttpRequest) -> bytes:
    """Return the body of a request of any content type.

    Raises:
        PerspectiveError: the body is too large, or the client closed the connection.
    """
    try:
        return read_body(request)  # type: ignore[arg-type]  # a request has the methods of a file
    except (TooLargeError, ParseError) as error:
        raise invalid_argument(str(error.detail), None) from error


def _read(request: HttpRequest, scope: Scope, name: str) -> tuple[dict[str, Any], APIKey | None]:
    if request.method != "POST":
        raise not_found()
    body = read_request_body(request)  # first, because a client reads the response only after it has sent all
    key = authorize(request, scope=scope, method=name)
    return parse(body, f"{name}Request"), key


def analyze_batch(requests: Sequence[HttpRequest], max_span_scores: int | None = None) -> list[HttpResponse]:
    """Handle requests for AnalyzeComment like `analyze`, but score and store all comments together.

    Args:
        max_span_scores: the largest number of span scores in all responses; requests beyond it get an error.
    """
    span_scores = 0

    def validate(request: HttpRequest) -> actions.AnalyzeRequest:
        nonlocal span_scores
        analysis = actions.validate_analyze_request(*_read(request, Scope.PREDICT, "AnalyzeComment"))
        if max_span_scores is not None and span_scores + analysis.span_score_count > max_span_scores:
            raise invalid_argument(
                f"The batch asks for more than {max_span_scores} span scores: split it.", None
            )
        span_scores += analysis.span_score_count
        return analysis

    def respond(request: HttpRequest, analysis: Any, prediction: Any) -> HttpResponse:
        try:
            if isinstance(prediction, Exception):
                raise prediction
            result = actions.build_response(analysis, prediction)
            response = json_response(request, result.body)
            for name, value in result.headers.items():
                response[name] = value
            return response
        except Exception as error:
            return _handle_exception(request, error)

    analyses = map_each(validate, requests)
    predictions = map_batch(actions.score_and_store, analyses)
    return list(map(respond, requests, analyses, predictions))


@csrf_exempt
def analyze(request: HttpRequest) -> HttpResponse:
    """Score a comment: AnalyzeComment."""
    return analyze_batch([request])[0]


@perspective_view
def suggestscore(request: HttpRequest) -> HttpResponse:
    """Store a suggested score: SuggestCommentScore."""
    return json_response(request, actions.suggest(*_read(request, Scope.FEEDBACK, "SuggestCommentScore")))


@perspective_view
def discovery(request: HttpRequest) -> HttpResponse:
    """Return the discovery document for the host of the request. An invalid API key is an error here too."""
    version = DISCOVERY["version"]
    if request.method not in ("GET", "HEAD") or request.GET.get("version", version) != version:
        raise not_found()
    get_api_key(request)
    root = root_url(request)
    document = {**DISCOVERY, "rootUrl": root, "baseUrl": root}
    return json_response(request, document, fields=document)


@perspective_view
def unknown_path(request: HttpRequest) -> HttpResponse:
    """Return the API's 404 for all other paths below `/v1alpha1/`."""
    raise not_found()
