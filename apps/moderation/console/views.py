"""Shared base of the console's views: rendering a page, and turning exceptions into error responses."""

from collections.abc import Callable
from functools import wraps
from typing import Any

from django.core.exceptions import PermissionDenied, ValidationError
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase, JsonResponse
from django.shortcuts import render
from django.views.decorators.http import require_http_methods

from apps.accounts.permissions import get_user
from apps.core.exceptions import ToxicmodError
from apps.moderation.exceptions import StaleError
from apps.moderation.models import Preference

View = Callable[..., HttpResponseBase]


def is_fetch(request: HttpRequest) -> bool:
    """Return True if `console.js` sent the request and expects JSON or a fragment of HTML."""
    return request.headers.get("X-Requested-With") == "fetch"


def render_page(
    request: HttpRequest, template: str, context: dict[str, Any], *, section: str = "", status: int = 200
) -> HttpResponse:
    """Render a console page.

    Args:
        template: name in `templates/moderation/`, without the suffix.
        section: the entry of the console's navigation to mark as current.
    """
    user = get_user(request)
    shared = {
        # The admin's base template needs these two. `AdminSite.each_context` would also query every model
        # for a sidebar that the console does not show.
        "has_permission": True,
        "site_url": "/",
        "section": section,
        "preference": Preference.for_user(user),
        "may_bulk": user.has_perm("moderation.bulk_decide"),
        "may_policy": user.has_perm("moderation.view_policy"),
        "may_deliveries": user.has_perm("moderation.view_delivery"),
        "may_export": user.has_perm("moderation.export_decision"),
    }
    return render(request, f"moderation/{template}.html", shared | context, status=status)


def console_view(*methods: str) -> Callable[[View], View]:
    """Allow these HTTP methods (by default GET and HEAD) and turn an action's exceptions into responses.

    The response is an error page, or JSON with a `message` for `console.js`.
    """

    def decorate(view: View) -> View:
        @wraps(view)
        def wrapped(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
            try:
                return view(request, *args, **kwargs)
            except StaleError as error:
                is_change = request.method == "POST"
                title = "Your change was not saved" if is_change else "This item is not available"
                return _render_error(request, 409, title, str(error), item=error.item)
            except PermissionDenied as error:
                message = str(error) or "You don't have permission to do this."
                return _render_error(request, 403, "Permission denied", message)
            except ToxicmodError as error:
                status = error.status if error.status >= 500 else 422
                return _render_error(request, status, "This is not possible", str(error))
            except Http404:
                if not is_fetch(request):
                    raise
                message = "This does not exist, or it belongs to a community that is not yours."
                return JsonResponse({"message": message}, status=404)
            except ValidationError as error:
                return _render_error(request, 422, "This is not possible", " ".join(error.messages))

        return require_http_methods(methods or ("GET", "HEAD"))(wrapped)

    return decorate


def _render_error(
    request: HttpRequest, status: int, title: str, message: str, **context: Any
) -> HttpResponse:
    if is_fetch(request):
        return JsonResponse({"message": message}, status=status)
    context |= {"title": title, "message": message, "status": status}
    return render_page(request, "error", context, status=status)
