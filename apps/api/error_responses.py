"""Error responses to requests that do not reach a view. `toxicmod.asgi` calls it."""

from functools import cache

from django.http import HttpRequest, HttpResponse

from apps.api.batching import security
from apps.api.error_formats import api_error


def error_response(
    source: str | None, status: int, message: str, retry_after: int | None = None
) -> HttpResponse:
    """Return the response to a rejected request, in the format of the API that the request is for.

    Args:
        source: the API, one of `Prediction.Source`; any other value stands for a page.
        status: 400, 415, 500 or 503.
        retry_after: seconds after which the client may try again.
    """
    request = HttpRequest()
    response = api_error(request, source, status, message)
    if response is None:
        response = HttpResponse(message, status=status, content_type="text/plain; charset=utf-8")
    if retry_after is not None:
        response["Retry-After"] = str(retry_after)
    return security.process_response(request, response)


@cache
def serialized_error(source: str | None, status: int, message: str, retry_after: int) -> bytes:
    """Return the bytes of an error response, which a server can send without handling the request."""
    response = error_response(source, status, message, retry_after)
    response["Content-Length"] = str(len(response.content))
    return f"HTTP/1.1 {status} {response.reason_phrase}\r\n".encode() + response.serialize()
