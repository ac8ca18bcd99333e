"""Errors in OpenAI's format, which its clients turn into exceptions by the status and the code."""

from typing import Any

from django.http import HttpRequest, JsonResponse
from rest_framework import exceptions
from rest_framework.response import Response

from apps.api import problems

_TYPES = {429: "requests", 500: "server_error", 503: "server_error"}
_CODES = {401: "invalid_api_key", 403: "insufficient_permissions", 429: "rate_limit_exceeded"}


class UnsupportedInputError(exceptions.APIException):
    """A part of the input is no text."""

    status_code = 400
    default_code = "unsupported_input"
    default_detail = "This server scores text only. Send parts with the type `text`, and no images."


def error_body(
    status: int, message: str, field: str | None = None, code: str | None = None
) -> dict[str, Any]:
    """Return the body of an error response.

    Args:
        field: the request's member that is invalid, for example `input[1]`.
        code: the error's code; by default that of the status, if it has one.
    """
    kind = _TYPES.get(status, "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": field, "code": code or _CODES.get(status)}}


def json_error(request: HttpRequest, status: int, message: str) -> JsonResponse:
    """Return an error response for a request that no view of the API handles."""
    return JsonResponse(error_body(status, message), status=status)


def _field(detail: dict[str, Any]) -> str | None:
    """Return the name of the first invalid field in OpenAI's notation."""
    errors = detail.get("errors")
    if not errors or not errors[0]["field"]:
        return None
    name, *path = errors[0]["field"].split(".")
    return name + "".join(f"[{part}]" if part.isdecimal() else f".{part}" for part in path)


def exception_handler(error: Exception, context: dict[str, Any]) -> Response | None:
    """Return the error response for an exception of a view; None for an unexpected exception, a 500."""
    response = problems.exception_handler(error, context)
    if response is None:
        return None
    message, field, code = response.data["detail"], _field(response.data), None
    if isinstance(error, UnsupportedInputError):
        field, code = "input", error.default_code
    response.data = error_body(response.status_code, message, field, code)
    response.content_type = "application/json"
    return response
