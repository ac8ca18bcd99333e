"""The admin site, with two-factor authentication; signing in leads moderators to the console."""

from contextlib import suppress
from typing import Any

from django.contrib.admin import AdminSite
from django.contrib.auth import REDIRECT_FIELD_NAME
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import Resolver404, URLPattern, URLResolver, path, resolve, reverse

from apps.accounts import views
from apps.accounts.forms import SignInForm
from apps.accounts.models import User
from apps.accounts.sign_in import TooManySignInsError, remember_device
from apps.pages.errors import too_many_sign_ins


class ToxicmodAdminSite(AdminSite):
    """The admin site, with two-factor authentication at the sign-in."""

    site_title = site_header = "toxicmod"
    login_form = SignInForm

    def get_urls(self) -> list[URLPattern | URLResolver]:
        page = path("two-factor/", self.admin_view(views.two_factor_page), name="two_factor")
        return [page, *super().get_urls()]

    def catch_all_view(self, request: HttpRequest, url: str) -> HttpResponse:
        """Redirect to the same path with a slash at its end, if the admin has it.

        Django does so only if `APPEND_SLASH` is on, but the APIs have paths without a slash.
        """
        if not url.endswith("/") and request.method in ("GET", "HEAD"):
            with suppress(Resolver404):
                if resolve(f"{request.path_info}/").func.__name__ != "catch_all_view":
                    query = request.META.get("QUERY_STRING", "")
                    return redirect(f"{request.path}/{'?' if query else ''}{query}", permanent=True)
        return super().catch_all_view(request, url)

    def login(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        try:
            response = super().login(request, extra_context)
        except TooManySignInsError as error:
            return too_many_sign_ins(request, error.seconds)
        if request.method == "POST" and isinstance(request.user, User):
            remember_device(response, request.user)
        index = reverse("admin:index")
        target = request.POST.get(REDIRECT_FIELD_NAME, index) or index
        # A moderator who requested no particular page gets the console.
        if (
            response.status_code == 302
            and target == index
            and request.user.has_perm("moderation.decide_queueitem")
            and not request.user.is_superuser
        ):
            return redirect("admin:moderation_review")
        return response
