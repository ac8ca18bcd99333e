"""Views for load balancers and supervisors: whether the process runs, and whether it is ready."""

from django.db import DatabaseError, connection
from django.http import HttpRequest, JsonResponse

from apps.api.problems import RETRY_SECONDS, json_problem
from apps.registry import serving
from apps.registry.exceptions import NoModelError


def health(request: HttpRequest) -> JsonResponse:
    """Return 200. The view uses no other service, so it only shows that the process runs."""
    return JsonResponse({"status": "alive"})


def ready(request: HttpRequest) -> JsonResponse:
    """Return 200 if the database responds and a model is in service, otherwise 503."""
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        version = serving.current().number
    except (DatabaseError, NoModelError) as error:
        reason = str(error) if isinstance(error, NoModelError) else "The database can't be reached."
        response = json_problem(request, 503, reason)
        response["Retry-After"] = str(RETRY_SECONDS)
        return response
    return JsonResponse({"status": "ready", "model_version": version})
