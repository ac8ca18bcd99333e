"""Who may see the dashboard: staff with the permission. Page, callbacks and downloads ask here."""

from collections.abc import Callable
from functools import wraps
from typing import Any

from django.contrib.auth.views import redirect_to_login
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest
from django.http.response import HttpResponseBase

from apps.accounts.models import User
from apps.accounts.permissions import communities_of, require_a_community
from apps.core.text import is_storable

PERMISSION = "monitoring.view_dashboard"

View = Callable[..., HttpResponseBase]


def require(user: Any) -> User:
    """Return the user who may see the dashboard.

    Raises:
        PermissionDenied: nobody is signed in, or the user isn't staff, lacks the permission or has access to
            no community.
    """
    if not isinstance(user, User) or not (user.is_active and user.is_staff and user.has_perm(PERMISSION)):
        raise PermissionDenied(f"The dashboard needs the permission “{PERMISSION}”.")
    require_a_community(user)
    return user


def guarded(view: View, **names: Any) -> View:
    """Let only those through who may see the dashboard; django-plotly-dash wraps each of its views in it."""

    @wraps(view)
    def guard(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        require(request.user)
        return view(request, *args, **kwargs)

    return guard


def page(view: View) -> View:
    """The same for a page: who is not signed in is asked to."""
    inner = guarded(view)

    @wraps(view)
    def guard(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        if not request.user.is_authenticated:
            return redirect_to_login(request.get_full_path())
        return inner(request, *args, **kwargs)

    return guard


def community_for(user: User, wanted: str | None) -> str | None:
    """Return the community to show: the wanted one, or the first of a user who is limited to others."""
    if wanted is not None and not is_storable(wanted):
        wanted = None
    allowed = communities_of(user)
    return wanted if allowed is None or wanted in allowed else allowed[0]
