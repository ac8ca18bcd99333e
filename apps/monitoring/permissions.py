"""The permission to see the dashboard, which its page, callbacks and downloads require."""

from collections.abc import Callable
from functools import wraps
from typing import Any

from django.contrib.auth.views import redirect_to_login
from django.http import HttpRequest
from django.http.response import HttpResponseBase

from apps.accounts.models import User
from apps.accounts.permissions import communities_of, require, require_a_community
from apps.core.exceptions import PermissionDeniedError
from apps.core.text import is_storable

VIEW_DASHBOARD = "monitoring.view_dashboard"

View = Callable[..., HttpResponseBase]


def require_dashboard(user: Any) -> User:
    """Return the user if the user may see the dashboard.

    Raises:
        PermissionDeniedError: the user is not signed in, is not staff, lacks the permission or has no
            access to any community.
    """
    if not isinstance(user, User) or not user.is_staff:
        raise PermissionDeniedError("You do not have permission to see the dashboard.")
    require(user, VIEW_DASHBOARD)
    require_a_community(user)
    return user


def dashboard_required(view: View, **options: Any) -> View:
    """Require the dashboard's permission for a view. django-plotly-dash decorates its views with this."""

    @wraps(view)
    def wrapper(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        require_dashboard(request.user)
        return view(request, *args, **kwargs)

    return wrapper


def dashboard_page(view: View) -> View:
    """Require the dashboard's permission for a page, and redirect visitors who are not signed in."""
    protected_view = dashboard_required(view)

    @wraps(view)
    def wrapper(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        if not request.user.is_authenticated:
            return redirect_to_login(request.get_full_path())
        return protected_view(request, *args, **kwargs)

    return wrapper


def visible_community(user: User, requested: str | None) -> str | None:
    """Return the community to show: the requested one, or the user's first if the user may not see it.

    Returns:
        None for all communities.
    """
    if requested is not None and not is_storable(requested):
        requested = None
    allowed = communities_of(user)
    return requested if allowed is None or requested in allowed else allowed[0]
