"""Middleware for paths that differ from an existing path in their last slash only.

Without it such a path gets a 404, which a person takes for a missing page and a client for a lost comment.
"""

from collections.abc import Callable

from django.http import HttpRequest, HttpResponse, HttpResponsePermanentRedirect
from django.urls import Resolver404, ResolverMatch, resolve
from django.utils.http import escape_leading_slashes

# The paths of Perspective's clients stay exactly as Google's: another spelling gets Google's 404.
_EXACT = "apps.api.perspective."
_API = "/api/"


class PermanentRedirectWithBody(HttpResponsePermanentRedirect):
    """A permanent redirect after which the client sends the same method and body again (RFC 9110, 15.4.9)."""

    status_code = 308


def other_spelling(path: str) -> str:
    """Return the path with its last slash removed, or with one added."""
    return path.rstrip("/") if path.endswith("/") else f"{path}/"


def _match(path: str) -> ResolverMatch | None:
    try:
        match = resolve(path)
    except Resolver404:
        return None
    return None if match.func.__module__.startswith(_EXACT) else match


class TrailingSlashMiddleware:
    """Answers an API call whose path has a slash too many or too few, and redirects all other requests.

    It acts only where no path matches, so it costs nothing elsewhere.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = self.get_response(request)
        if response.status_code != 404 or request.resolver_match is not None:
            return response
        path_info = other_spelling(request.path_info)
        if _match(path_info) is None:
            return response
        path = other_spelling(request.path)
        is_read = request.method in ("GET", "HEAD")
        if not is_read and path_info.startswith(_API):
            # Few clients of an API follow a redirect with the body, so the comment would be lost.
            request.path_info, request.path = path_info, path
            return self.get_response(request)
        query = f"?{query}" if (query := request.META.get("QUERY_STRING", "")) else ""
        target = escape_leading_slashes(path) + query
        return HttpResponsePermanentRedirect(target) if is_read else PermanentRedirectWithBody(target)
