"""The format of errors in each API. `error_responses` and the error views of `toxicmod.urls` use it."""

from django.http import HttpRequest, HttpResponse

from apps.api.openai.errors import json_error
from apps.api.perspective.rendering import status_error
from apps.api.problems import json_problem
from apps.predictions.models import Prediction

_RENDERERS = {
    Prediction.Source.API: json_problem,
    Prediction.Source.CONNECTOR: json_problem,
    Prediction.Source.OPENAI: json_error,
    Prediction.Source.PERSPECTIVE: status_error,
}


def api_error(request: HttpRequest, source: str | None, status: int, message: str) -> HttpResponse | None:
    """Return an error response in the format of an API; None if the source is none, but a page.

    Args:
        source: the API, one of `Prediction.Source`.
    """
    render = _RENDERERS.get(source)  # type: ignore[call-overload]
    return render(request, status, message) if render else None
