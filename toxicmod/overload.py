"""Requests that come faster than they can be answered: some are turned away, the others keep their time."""

from collections.abc import Callable

from django.http import HttpRequest, HttpResponse

from apps.api.perspective.errors import unavailable
from apps.api.perspective.rendering import refusal
from apps.api.problems import RETRY_SECONDS, json_problem
from apps.pages import errors
from toxicmod.worker import is_late

_NEVER = ("/health", "/ready", "/metrics")  # who asks for these would take a busy site for a dead one


class TurnAway:
    """Middleware that answers 503 at once to a request that has waited too long for a thread."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        path = request.path
        if not is_late() or path in _NEVER:
            return self._get_response(request)
        if path.startswith("/v1alpha1/"):
            return refusal(request, unavailable())
        if not path.startswith("/api/"):
            return errors.unavailable(request)
        response = json_problem(request, 503, "More comes than can be answered. Please try again.")
        response["Retry-After"] = str(RETRY_SECONDS)
        return response
