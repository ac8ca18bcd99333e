"""Responses to requests that are refused before Django sees them."""

from django.http import HttpRequest, HttpResponse

from apps.api.batched import security
from apps.api.perspective.exceptions import PerspectiveError
from apps.api.perspective.rendering import error_response
from apps.api.problems import json_problem
from apps.predictions.models import Prediction


def refusal(source: str | None, status: int, message: str, retry_after: int | None = None) -> HttpResponse:
    """Return the response to a request that no view has seen, in the format of the API that was called.

    Args:
        source: the API, one of `Prediction.Source`; anything else stands for a page.
        status: 400, 413, 415 or 503.
        retry_after: seconds after which the client may try again.
    """
    request = HttpRequest()
    response: HttpResponse
    if source == Prediction.Source.PERSPECTIVE:
        name = "UNAVAILABLE" if status == 503 else "INVALID_ARGUMENT"
        response = error_response(request, PerspectiveError(status, name, message))
    elif source == Prediction.Source.API:
        response = json_problem(request, status, message)
    else:
        response = HttpResponse(message, status=status, content_type="text/plain; charset=utf-8")
    if retry_after is not None:
        response["Retry-After"] = str(retry_after)
    return security.process_response(request, response)
