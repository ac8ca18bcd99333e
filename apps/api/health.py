"""Whether the process lives, and whether it can answer."""

from django.db import DatabaseError, connection
from django.http import HttpRequest, JsonResponse

from apps.api.problems import RETRY_SECONDS, json_problem
from apps.registry import serving
from apps.registry.exceptions import NoModelError


def health(request: HttpRequest) -> JsonResponse:
    """Answer 200 while the process lives; touches nothing else."""
    return JsonResponse({"status": "alive"})


def ready(request: HttpRequest) -> JsonResponse:
    """Answer 200 when the database answers and a model is in service, else 503."""
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
