"""Every path of the site."""

import sys

from django.contrib import admin
from django.db import InterfaceError, OperationalError
from django.http import HttpRequest, HttpResponse
from django.urls import include, path
from django.views import defaults
from django_otp.plugins.otp_static.models import StaticDevice
from django_otp.plugins.otp_totp.models import TOTPDevice
from django_plotly_dash import urls as dash
from django_plotly_dash.models import DashApp, StatelessApp

from apps.api import health
from apps.api.problems import RETRY_SECONDS, json_problem
from apps.monitoring import prometheus
from apps.pages.errors import unavailable

# Of django-plotly-dash's forty paths those of an application by name; one of the rest is open to anybody.
# The view of `app-routes` raises NotImplementedError.
_DASH = [
    each
    for each in dash.urlpatterns
    if each.name.startswith("app-") and not each.name.endswith("--args") and each.name != "app-routes"
]
admin.autodiscover()
# The devices' pages show each person's key; everybody has a page of their own for it. The dashboard is not
# stored: nobody is to edit its applications.
admin.site.unregister([StaticDevice, TOTPDevice, DashApp, StatelessApp])
urlpatterns = [
    path("api/v1/", include("apps.api.v1.urls")),
    path("", include("apps.api.perspective.urls")),
    path("health", health.health, name="health"),
    path("ready", health.ready, name="ready"),
    path("metrics", prometheus.metrics, name="metrics"),
    path("admin/", admin.site.urls),
    path("monitoring/", include("apps.monitoring.urls")),
    path("monitoring/dash/", include((_DASH, "the_django_plotly_dash"))),
    path("", include("apps.pages.urls")),
]


def _is_api(request: HttpRequest) -> bool:
    return request.path.startswith("/api/")


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    if _is_api(request):
        return json_problem(request, 400, "The request is malformed.")
    return defaults.bad_request(request, exception)


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    if _is_api(request):
        return json_problem(request, 404, "There is nothing at this path; /api/v1/docs lists what there is.")
    return defaults.page_not_found(request, exception)


def server_error(request: HttpRequest) -> HttpResponse:
    """Return the answer to a defect, or to a database that cannot be reached."""
    if isinstance(sys.exc_info()[1], (InterfaceError, OperationalError)):
        if not _is_api(request):
            return unavailable(request)
        response = json_problem(request, 503, "The database can't be reached. Please try again.")
        response["Retry-After"] = str(RETRY_SECONDS)
        return response
    if _is_api(request):
        return json_problem(request, 500, "Something went wrong here. It was logged; please try again.")
    return defaults.server_error(request)


handler400 = bad_request
handler404 = not_found
handler500 = server_error
