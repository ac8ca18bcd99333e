"""Calls that score comments, answered several at once; two out of three requests are such calls.

They know keys, no cookies, and answer JSON. Django's handler and the middleware for pages would take longer
than scoring the comment, so only the middleware that matters to such calls is applied. The views, and what
they check, are those of every other caller. What is out of the ordinary is left to Django as a whole.
"""

import io
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from django.core.handlers.asgi import ASGIRequest
from django.db import close_old_connections
from django.http import HttpRequest, HttpResponse
from django.middleware.security import SecurityMiddleware

from apps.api.perspective import views
from apps.api.perspective.access import is_known, secret_of
from apps.api.v1 import views as v1

Act = Callable[[Sequence[HttpRequest]], list[HttpResponse]]
_ANALYZE = "/v1alpha1/comments:analyze"
_PREDICT: dict[str, type[v1.PredictView]] = {
    "/api/v1/predict": v1.PredictView,
    "/api/v1/predict_proba": v1.PredictProbaView,
}
PATHS = (_ANALYZE, *_PREDICT)
security = SecurityMiddleware(lambda request: HttpResponse())  # for its hooks, which are called one by one


def request_of(scope: dict[str, Any], body: bytes) -> ASGIRequest | None:
    """Return the request to submit, or None for one that Django must answer: also what is odd.

    A page of another origin needs CORS headers, which Django adds. The scope has to name the body's length.
    """
    if scope["path"] not in PATHS or scope["method"] != "POST":
        return None
    if any(name == b"origin" for name, _ in scope["headers"]):
        return None
    try:
        return ASGIRequest(scope, io.BytesIO(body))
    except ValueError:  # not UTF-8, or an unknown charset
        return None


def answer(requests: Sequence[ASGIRequest]) -> list[HttpResponse | None]:
    """Answer requests together; None for those that Django must answer, alone."""
    close_old_connections()  # those that broke or have grown old, as at the start of any request
    places_of: dict[Act, list[int]] = defaultdict(list)
    for place, request in enumerate(requests):
        if _is_batchable(request):
            places_of[_predict if request.path_info in _PREDICT else views.analyze_together].append(place)
    responses: list[HttpResponse | None] = [None] * len(requests)
    for act, places in places_of.items():
        answers = act([requests[place] for place in places])
        for place, response in zip(places, answers, strict=True):
            security.process_response(requests[place], response)
            responses[place] = response
    return responses


def _is_batchable(request: ASGIRequest) -> bool:
    """Whether nothing but the store has to be asked: what waits for more holds up nobody else."""
    try:
        request.get_host()
        if security.process_request(request) is not None:
            return False
        if request.path_info in _PREDICT:
            return is_known(request.META.get("HTTP_AUTHORIZATION", "").partition(" ")[2].strip())
        return is_known(secret_of(request))
    except Exception:  # a wrong host, too many parameters: Django knows what to say
        return False


def _predict(requests: Sequence[HttpRequest]) -> list[HttpResponse]:
    return v1.predict_together(requests, [_PREDICT[request.path_info]() for request in requests])
