"""Handles several scoring requests together. `toxicmod.asgi` calls it.

Most requests score comments. They have no cookies and get no pages, so this module applies only the
middleware that matters to them. The views are the same as for requests that Django handles. Django also
handles all unusual requests.
"""

import io
from collections.abc import Callable, Sequence
from typing import Any

from django.core.handlers.asgi import ASGIRequest
from django.db import close_old_connections
from django.http import HttpRequest, HttpResponse
from django.middleware.security import SecurityMiddleware

from apps.api.perspective import views
from apps.api.perspective.authorization import can_batch, get_secret
from apps.api.v1.views import predictions as v1
from apps.core.batches import map_groups

Handler = Callable[[Sequence[HttpRequest]], list[HttpResponse]]
_ANALYZE = "/v1alpha1/comments:analyze"
_PREDICT = {"/api/v1/predict": v1.PredictView, "/api/v1/predict_proba": v1.PredictProbaView}
BATCHABLE_PATHS = (_ANALYZE, *_PREDICT)
security = SecurityMiddleware(lambda request: HttpResponse())  # for its hooks, which are called one by one


def prepare(scope: dict[str, Any], body: bytes) -> ASGIRequest | None:
    """Return the request for `handle_batch`, or None if Django has to handle it.

    Django handles requests of other origins, because they need CORS headers. The scope must contain the
    length of the body.
    """
    has_origin = any(name == b"origin" for name, _ in scope["headers"])
    if scope["path"] not in BATCHABLE_PATHS or scope["method"] != "POST" or has_origin:
        return None
    try:
        return ASGIRequest(scope, io.BytesIO(body))
    except ValueError:  # the path is not UTF-8, or the charset is unknown
        return None


def handle_batch(requests: Sequence[ASGIRequest]) -> list[HttpResponse | None]:
    """Handle requests together.

    Returns:
        `responses[i]` is the response to `requests[i]`, or None if Django has to handle the request.
    """
    close_old_connections()  # broken or expired ones, as Django does at the start of a request
    return map_groups(_select_handler, _handle_group, requests)


def _select_handler(request: ASGIRequest) -> Handler | None:
    """Return the handler of a request, or None if Django has to handle it.

    A request that needs another database access than the insert would block the other requests of its batch.
    """
    try:
        request.get_host()
        if security.process_request(request) is not None:
            return None
        if request.path_info in _PREDICT:
            secret, handler = request.META.get("HTTP_AUTHORIZATION", "").partition(" ")[2].strip(), _predict
        else:
            secret, handler = get_secret(request), views.analyze_batch
        return handler if can_batch(secret) else None
    except Exception:  # for example an invalid host or too many parameters: Django returns the error
        return None


def _handle_group(handler: Handler | None, requests: Sequence[ASGIRequest]) -> Sequence[HttpResponse | None]:
    if handler is None:
        return [None] * len(requests)
    return list(map(security.process_response, requests, handler(requests)))


def _predict(requests: Sequence[HttpRequest]) -> list[HttpResponse]:
    return v1.predict_batch(requests, [_PREDICT[request.path_info]() for request in requests])
