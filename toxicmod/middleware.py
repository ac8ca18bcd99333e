"""Middleware for paths that differ from an existing path only in a trailing slash."""

from collections.abc import Callable

from django.http import HttpRequest, HttpResponse, HttpResponsePermanentRedirect
from django.urls import Resolver404, ResolverMatch, resolve
from django.utils.http import escape_leading_slashes

# The compatible APIs have exactly the paths of Google and OpenAI: other paths get the API's 404 response.
_EXCLUDED = ("apps.api.perspective.", "apps.api.openai.")
_API = "/api/"


class PermanentRedirectWithBody(HttpResponsePermanentRedirect):
    """A permanent redirect with which the client repeats method and body (RFC 9110, section 15.4.9)."""

    status_code = 308


def toggle_slash(path: str) -> str:
    """Return the path without its trailing slash, or with one if it has none."""
    return path.rstrip("/") if path.endswith("/") else f"{path}/"


def _match(path: str) -> ResolverMatch | None:
    try:
        match = resolve(path)
    except Resolver404:
        return None
    return None if match.func.__module__.startswith(_EXCLUDED) else match


class TrailingSlashMiddleware:
    """Handles requests to `/api/` with a wrong trailing slash, and redirects all other such requests.

    It acts only after a 404 response to a path that does not exist.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = self.get_response(request)
        if response.status_code != 404 or request.resolver_match is not None:
            return response
        path_info = toggle_slash(request.path_info)
        if _match(path_info) is None:
            return response
        path = toggle_slash(request.path)
        is_safe = request.method in ("GET", "HEAD")
        if not is_safe and path_info.startswith(_API):
            # Most HTTP clients don't repeat the body after a redirect, so the comment would be lost.
            request.path_info, request.path = path_info, path
            return self.get_response(request)
        query = f"?{query}" if (query := request.META.get("QUERY_STRING", "")) else ""
        target = escape_leading_slashes(path) + query
        return HttpResponsePermanentRedirect(target) if is_safe else PermanentRedirectWithBody(target)
