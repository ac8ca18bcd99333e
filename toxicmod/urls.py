"""The URL configuration of the site, and the error views."""

import sys

from django.contrib import admin
from django.db import InterfaceError, OperationalError
from django.http import HttpRequest, HttpResponse
from django.template.loader import render_to_string
from django.urls import include, path
from django.views import defaults
from django_otp.plugins.otp_static.models import StaticDevice
from django_otp.plugins.otp_totp.models import TOTPDevice
from django_plotly_dash import urls as dash
from django_plotly_dash.models import DashApp, StatelessApp

from apps.api import views
from apps.api.openai.errors import json_error
from apps.api.problems import RETRY_SECONDS, json_problem
from apps.monitoring import prometheus
from apps.pages.errors import unavailable

# The paths of django-plotly-dash for applications by name. Another of its paths needs no permission, and the
# view of `app-routes` raises NotImplementedError.
_DASH = [
    pattern
    for pattern in dash.urlpatterns
    if pattern.name.startswith("app-")
    and not pattern.name.endswith("--args")
    and pattern.name != "app-routes"
]
admin.autodiscover()
# The admin pages of the devices would show the users' secrets; each user has a page for two-factor
# authentication. The dashboard's applications are defined in code, so nobody should edit them.
admin.site.unregister([StaticDevice, TOTPDevice, DashApp, StatelessApp])
urlpatterns = [
    path("api/v1/", include("apps.api.v1.urls")),
    path("connectors/", include("apps.connectors.urls")),
    path("", include("apps.api.openai.urls")),
    path("", include("apps.api.perspective.urls")),
    path("health", views.health, name="health"),
    path("ready", views.ready, name="ready"),
    path("metrics", prometheus.metrics, name="metrics"),
    path("admin/", admin.site.urls),
    path("monitoring/", include("apps.monitoring.urls")),
    path("monitoring/dash/", include((_DASH, "the_django_plotly_dash"))),
    path("", include("apps.pages.urls")),
]


def _is_api(request: HttpRequest) -> bool:
    return request.path.startswith(("/api/", "/connectors/", "/v1/"))


def _api_error(request: HttpRequest, status: int, message: str) -> HttpResponse:
    render = json_error if request.path.startswith("/v1/") else json_problem
    return render(request, status, message)


def _error_page(request: HttpRequest, status: int) -> HttpResponse:
    """Return an error page, rendered without the context processors, which could fail as well."""
    return HttpResponse(render_to_string(f"{status}.html", {"request": request}), status=status)


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    """Return a response with status 400, as JSON to an API."""
    if _is_api(request):
        return _api_error(request, 400, "The request is malformed.")
    return _error_page(request, 400)


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    """Return a response with status 404, as JSON to an API."""
    if _is_api(request):
        return _api_error(request, 404, "This path does not exist; /api/v1/docs lists all paths.")
    return defaults.page_not_found(request, exception)


def server_error(request: HttpRequest) -> HttpResponse:
    """Return the response to an unexpected exception: 503 if the database can't be reached, otherwise 500."""
    if isinstance(sys.exc_info()[1], (InterfaceError, OperationalError)):
        if not _is_api(request):
            return unavailable(request)
        response = _api_error(request, 503, "The database can't be reached. Please try again.")
        response["Retry-After"] = str(RETRY_SECONDS)
        return response
    if _is_api(request):
        return _api_error(request, 500, "An unexpected error occurred and was logged. Please try again.")
    return _error_page(request, 500)


handler400 = bad_request
handler404 = not_found
handler500 = server_error
