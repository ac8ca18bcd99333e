"""A short way to the two methods that are called for every comment."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from django.core.handlers.wsgi import WSGIRequest
from django.db import close_old_connections
from django.http import HttpResponse

from apps.api.perspective import views

Application = Callable[..., Iterable[bytes]]
Middleware = Callable[[Callable[[Any], Any]], Callable[[Any], Any]]
_VIEWS = {
    "/v1alpha1/comments:analyze": views.analyze,
    "/v1alpha1/comments:suggestscore": views.suggestscore,
}


class ShortWay:
    """A WSGI application that answers Perspective's methods past Django's handler, signals and middleware.

    They know keys, no cookies, and answer JSON; what is left out takes longer than scoring the comment. A
    page of another origin goes the long way, where CORS is looked after. Both ways lead to the same views.
    """

    def __init__(self, application: Application, middleware: Sequence[Middleware]) -> None:
        self._application = application
        self._handlers: dict[str, Callable[[WSGIRequest], HttpResponse]] = dict(_VIEWS)
        for wrap in reversed(middleware):
            self._handlers = {path: wrap(handler) for path, handler in self._handlers.items()}

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        handler = self._handlers.get(environ["PATH_INFO"])
        if handler is None or "HTTP_ORIGIN" in environ:
            return self._application(environ, start_response)
        close_old_connections()  # those that broke or have grown old, as at the start of any request
        response = handler(WSGIRequest(environ))
        headers = [*response.items(), ("Content-Length", str(len(response.content)))]
        start_response(f"{response.status_code} {response.reason_phrase}", headers)
        return [response.content]
