"""Views for load balancers and supervisors: whether the process runs, and whether it is ready."""

import logging

from django.db import DatabaseError, connection
from django.http import HttpRequest, JsonResponse

from apps.api.problems import RETRY_SECONDS, json_problem
from apps.core.database import describe_error, find_schema_problem
from apps.registry import serving
from apps.registry.exceptions import NoModelError

logger = logging.getLogger(__name__)


def health(request: HttpRequest) -> JsonResponse:
    """Return 200. The view uses no other service, so it only shows that the process runs."""
    return JsonResponse({"status": "alive"})


def ready(request: HttpRequest) -> JsonResponse:
    """Return 200 if the database responds and has this release's schema, and a model is in service.

    The status is 503 otherwise.
    """
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        if problem := find_schema_problem():
            return _unready(request, problem)
        version = serving.current().number
    except NoModelError as error:
        return _unready(request, str(error))
    except DatabaseError as error:
        return _unready(request, "The database can't be reached.", describe_error(error))
    return JsonResponse({"status": "ready", "model_version": version})


def _unready(request: HttpRequest, reason: str, detail: str = "") -> JsonResponse:
    """Return the response with status 503, and log the reason; `detail` is for the log only."""
    logger.error("The site is not ready. %s %s", reason, detail)
    response = json_problem(request, 503, reason)
    response["Retry-After"] = str(RETRY_SECONDS)
    return response
