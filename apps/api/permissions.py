"""Permissions of the views of Django REST framework."""

from typing import TYPE_CHECKING

from django.conf import settings
from rest_framework.exceptions import NotAuthenticated, PermissionDenied
from rest_framework.permissions import BasePermission
from rest_framework.request import Request

if TYPE_CHECKING:  # `rest_framework.views` imports this module
    from rest_framework.views import APIView


class HasScope(BasePermission):
    """Permits API keys with the view's `scope`, and anonymous requests if site and view allow them."""

    def has_permission(self, request: Request, view: "APIView") -> bool:
        if request.auth is None:
            if settings.ANONYMOUS_API and getattr(view, "anonymous", True):
                return True
            scheme = request.authenticators[0].keywords[0]  # type: ignore[index, union-attr]
            raise NotAuthenticated(f"This server needs an API key: `Authorization: {scheme} YOUR-KEY`.")
        scope = view.scope  # type: ignore[attr-defined]  # a view without a scope is a defect
        if scope not in request.auth.scopes:  # type: ignore[union-attr]
            raise PermissionDenied(f"This API key lacks the scope “{scope}”.")
        return True
