"""What every page of the console shares: how it is drawn, and how a refusal is answered."""

from collections.abc import Callable
from functools import wraps
from typing import Any

from django.core.exceptions import PermissionDenied, ValidationError
from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse
from django.shortcuts import render
from django.views.decorators.http import require_http_methods

from apps.accounts.models import User
from apps.moderation.errors import ModerationError, StaleError
from apps.moderation.models import Preference

View = Callable[..., HttpResponseBase]


def user_of(request: HttpRequest) -> User:
    """Return who is signed in: `admin_view` lets nobody else through."""
    assert isinstance(request.user, User)
    return request.user


def is_script(request: HttpRequest) -> bool:
    """Whether the console's script asks, which wants a part of a page or JSON."""
    return request.headers.get("X-Requested-With") == "fetch"


def page(
    request: HttpRequest, template: str, context: dict[str, Any], *, here: str = "", status: int = 200
) -> HttpResponse:
    """Draw a page of the console inside the admin."""
    user = user_of(request)
    shared = {
        # What the admin's frame needs. Its own `each_context` lists every model for a sidebar not shown here.
        "has_permission": True,
        "site_url": "/",
        "here": here,
        "preference": Preference.for_user(user),
        "may_bulk": user.has_perm("moderation.bulk_decide"),
        "may_policy": user.has_perm("moderation.view_policy"),
        "may_deliveries": user.has_perm("moderation.view_delivery"),
        "may_export": user.has_perm("moderation.export_decision"),
    }
    return render(request, f"moderation/{template}.html", shared | context, status=status)


def door(*methods: str) -> Callable[[View], View]:
    """Answer what an action refuses with a page, or JSON to the script, that says what to do about it."""

    def decorate(view: View) -> View:
        @wraps(view)
        def guarded(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
            try:
                return view(request, *args, **kwargs)
            except StaleError as error:
                return _refuse(request, 409, "Your choice was not stored", str(error), item=error.item)
            except PermissionDenied as error:
                return _refuse(request, 403, "Not yours to do", str(error) or "You may not do this.")
            except ModerationError as error:
                return _refuse(request, 422, "That can't be done", str(error))
            except ValidationError as error:
                return _refuse(request, 422, "That can't be done", " ".join(error.messages))

        return require_http_methods(methods or ("GET", "HEAD"))(guarded)

    return decorate


def _refuse(request: HttpRequest, status: int, title: str, message: str, **context: Any) -> HttpResponse:
    if is_script(request):
        return JsonResponse({"message": message}, status=status)
    return page(
        request, "refused", {"title": title, "message": message, "status": status, **context}, status=status
    )
