"""The admin site: moderators land on their console."""

from typing import Any

from django.contrib.admin import AdminSite
from django.contrib.auth import REDIRECT_FIELD_NAME
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse


class Site(AdminSite):
    site_title = site_header = "toxicmod"

    def login(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        response = super().login(request, extra_context)
        index = reverse("admin:index")
        wanted = request.POST.get(REDIRECT_FIELD_NAME, index) or index
        # Who asked for nothing but the admin and decides comments is taken to them.
        if (
            response.status_code == 302
            and wanted == index
            and request.user.has_perm("moderation.decide_queueitem")
            and not request.user.is_superuser
        ):
            return redirect("admin:moderation_desk")
        return response
