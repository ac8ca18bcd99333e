"""Error responses of `/api/v1/` as `application/problem+json` (RFC 9457)."""

import logging
from collections.abc import Iterator
from http import HTTPStatus
from itertools import islice
from typing import Any

from django.core.exceptions import PermissionDenied
from django.db import DatabaseError
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, JsonResponse
from rest_framework import exceptions
from rest_framework.response import Response
from rest_framework.views import exception_handler as drf_exception_handler

from apps.core.database import describe_error
from apps.core.exceptions import ToxicmodError

logger = logging.getLogger(__name__)

CONTENT_TYPE = "application/problem+json"
RETRY_SECONDS = 5
MAX_ERRORS = 20  # in one response
MAX_MESSAGE, MAX_FIELD = 500, 200  # characters


class UnavailableError(exceptions.APIException):
    """A service that the request needs does not respond. The client should retry after `wait` seconds."""

    status_code = 503
    default_code = "unavailable"
    wait = RETRY_SECONDS


def shorten(text: str, length: int = MAX_MESSAGE) -> str:
    """Return the text, shortened with an ellipsis if it has more than `length` characters."""
    return text if len(text) <= length else f"{text[: length - 1]}…"


def problem(status: int, detail: str, errors: list[dict[str, str]] | None = None) -> dict[str, Any]:
    """Return the body of an error response; `errors` has the `field` and `message` of each invalid field."""
    body: dict[str, Any] = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
    }
    if errors:
        body["errors"] = errors
    return body


def _flatten(detail: Any, path: str = "") -> Iterator[dict[str, str]]:
    if isinstance(detail, dict):
        for key, value in detail.items():
            name = "" if key == "non_field_errors" else str(key)
            yield from _flatten(value, f"{path}.{name}".strip("."))
    elif isinstance(detail, list):
        for index, value in enumerate(detail):
            nested = isinstance(value, dict | list)
            yield from _flatten(value, f"{path}.{index}".strip(".") if nested else path)
    else:
        yield {"field": shorten(path, MAX_FIELD), "message": shorten(str(detail))}


def _to_api_exception(error: ToxicmodError) -> exceptions.APIException:
    if error.status == 503:
        return UnavailableError(str(error))
    exception = exceptions.APIException(str(error))
    exception.status_code = error.status
    return exception


def exception_handler(error: Exception, context: dict[str, Any]) -> Response | None:
    """Return the error response for an exception of a view; None for an unexpected exception, a 500."""
    if isinstance(error, ToxicmodError):
        error = _to_api_exception(error)
    elif isinstance(error, DatabaseError):
        logger.error("The database failed: %s", describe_error(error))
        error = UnavailableError("The database can't be reached. Nothing was stored; please try again.")
    elif isinstance(error, Http404):
        error = exceptions.NotFound(str(error) or None)
    elif isinstance(error, PermissionDenied):
        error = exceptions.PermissionDenied(str(error) or None)
    response = drf_exception_handler(error, context)
    if response is None:
        return None
    assert isinstance(error, exceptions.APIException)
    if isinstance(error, exceptions.ValidationError):
        remaining = _flatten(error.detail)
        errors = list(islice(remaining, MAX_ERRORS))
        first = errors[0]
        detail = f"{first['field']}: {first['message']}" if first["field"] else first["message"]
        # An error about the request as a whole is in `detail` only.
        errors = [error for error in errors if error["field"]]
        if more := sum(1 for _ in remaining):
            detail += f" These are the first {MAX_ERRORS} errors; there are {more} more."
        response.data = problem(response.status_code, detail, errors)
    else:
        response.data = problem(response.status_code, shorten(str(error.detail)))
    response.content_type = CONTENT_TYPE
    return response


def get_or_404(queryset: QuerySet[Any], **lookup: Any) -> Any:
    """Return the object that matches the lookup.

    Raises:
        NotFound: there is none; the message names the model.
    """
    instance = queryset.filter(**lookup).first()
    if instance is None:
        raise exceptions.NotFound(f"There is no such {queryset.model._meta.verbose_name}.")
    return instance


def json_problem(request: HttpRequest, status: int, detail: str) -> JsonResponse:
    """Return an error response for a request that no view of the API handles."""
    return JsonResponse(problem(status, detail), status=status, content_type=CONTENT_TYPE)
