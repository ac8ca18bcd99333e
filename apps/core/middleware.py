"""Middleware of the pages for staff."""

from collections.abc import Callable, Iterator
from typing import Any

from django.http import HttpRequest, HttpResponse, JsonResponse, UnreadablePostError
from django.shortcuts import render

from apps.core.text import is_storable

_STAFF_PATHS = ("/admin/", "/monitoring/")
MAX_PARAMETER = 5_000  # characters of a query parameter; SQLite rejects a LIKE pattern above 50,000 bytes
_TOO_LONG = f"What you search for has more than {MAX_PARAMETER:,} characters. Shorten it and try again."
_NOT_STORABLE = (
    "The text that you sent has a NUL character or half of a surrogate pair, which can't be stored or "
    "searched for. Remove it and try again; it often comes along with copied text."
)


class RejectUnstorableTextMiddleware:
    """Responds with 400 to a request for a staff page with a parameter that can't be stored or searched for.

    Django's forms reject NUL themselves. Searches, filters and look-ups of the admin and the console read
    parameters without a form, so the database would raise an error.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        return self.get_response(request)

    def process_view(self, request: HttpRequest, *args: Any) -> HttpResponse | None:
        if not request.path_info.startswith(_STAFF_PATHS):
            return None
        try:
            message = _error(request)
        except UnreadablePostError:  # the client closed the connection while it sent the body
            return HttpResponse(status=400)
        if message is None:
            return None
        if request.headers.get("X-Requested-With") == "fetch":
            return JsonResponse({"message": message}, status=400)
        return render(request, "400.html", {"message": message}, status=400)


def _error(request: HttpRequest) -> str | None:
    if not all(map(is_storable, _texts(request))):
        return _NOT_STORABLE
    is_long = any(len(value) > MAX_PARAMETER for _, values in request.GET.lists() for value in values)
    return _TOO_LONG if is_long else None


def _texts(request: HttpRequest) -> Iterator[str]:
    yield request.path_info
    for parameters in (request.GET, request.POST):
        for name, values in parameters.lists():
            yield name
            yield from map(str, values)
