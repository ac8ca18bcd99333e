"""A short way to what is called for every comment."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from django.core.handlers.wsgi import WSGIRequest
from django.db import close_old_connections
from django.http import HttpRequest, HttpResponse
from django.middleware.security import SecurityMiddleware

from apps.api.perspective import views
from apps.api.perspective.access import is_known, secret_of
from apps.api.v1 import views as v1
from apps.predictions.models import Prediction

Application = Callable[..., Iterable[bytes]]
Act = Callable[[Sequence[HttpRequest]], list[HttpResponse]]
_ANALYZE = "/v1alpha1/comments:analyze"
_PREDICT: dict[str, type[v1.PredictView]] = {
    "/api/v1/predict": v1.PredictView,
    "/api/v1/predict_proba": v1.PredictProbaView,
}


def _predict(requests: Sequence[HttpRequest]) -> list[HttpResponse]:
    return v1.predict_together(requests, [_PREDICT[request.path_info]() for request in requests])


def _suggest(requests: Sequence[HttpRequest]) -> list[HttpResponse]:
    return list(map(views.suggestscore, requests))


_ACTS: dict[str, Act] = {
    _ANALYZE: views.analyze_together,
    "/v1alpha1/comments:suggestscore": _suggest,
} | dict.fromkeys(_PREDICT, _predict)


class ShortWay:
    """A WSGI application that answers Perspective's methods, and `predict`, past Django's handler, signals
    and middleware.

    They know keys, no cookies, and answer JSON; what is left out takes longer than scoring the comment. A
    page of another origin goes the long way, where CORS is looked after. Both ways lead to the same views.
    A server that holds several requests can have them answered together, see `toxicmod.lane`.
    """

    together = (_ANALYZE, *_PREDICT)

    def __init__(self, application: Application, count: Callable[[str, int, float], None]) -> None:
        """`count` is told of each answer: by which door it came, its status and how many seconds it took."""
        self._application = application
        self._count = count
        self._security = SecurityMiddleware(lambda request: HttpResponse())  # only its two halves are used

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        request = self._short(environ)
        if request is None:
            return self._application(environ, start_response)
        (response,) = self._answer([request])
        return _send(response, start_response)

    def joined(self, environ: dict[str, Any]) -> WSGIRequest | None:
        """Return a request that may be answered together with others: only the store has to be asked."""
        request = self._short(environ)
        if request is None or request.path_info not in self.together:
            return None
        if request.path_info in _PREDICT:
            secret = request.META.get("HTTP_AUTHORIZATION", "").partition(" ")[2].strip()
        else:
            secret = secret_of(request)
        return request if is_known(secret) else None

    def answer_together(
        self, requests: Sequence[WSGIRequest], start_responses: Sequence[Callable[..., Any]]
    ) -> list[Iterator[bytes]]:
        """Answer what `joined` returned, as `__call__` does each."""
        return list(map(_send, self._answer(requests), start_responses))

    def _short(self, environ: dict[str, Any]) -> WSGIRequest | None:
        """Return the request, or None where it goes the long way: also what is to be redirected or is odd."""
        if environ["PATH_INFO"] not in _ACTS or environ["REQUEST_METHOD"] != "POST":
            return None
        if "HTTP_ORIGIN" in environ:
            return None
        try:
            request = WSGIRequest(environ)
            request.GET  # noqa: B018  (reads the query, which may be too long)
            return request if self._security.process_request(request) is None else None
        except Exception:  # an unknown charset, a wrong host: Django knows what to say
            return None

    def _answer(self, requests: Sequence[WSGIRequest]) -> list[HttpResponse]:
        places_of: dict[Act, list[int]] = defaultdict(list)
        for place, request in enumerate(requests):
            places_of[_ACTS[request.path_info]].append(place)
        responses: dict[int, HttpResponse] = {}
        for act, places in places_of.items():
            start = time.perf_counter()
            close_old_connections()  # those that broke or have grown old, as at the start of any request
            own = [requests[place] for place in places]
            answers = act(own)
            seconds = time.perf_counter() - start
            for request, response in zip(own, answers, strict=True):
                self._security.process_response(request, response)
                source = (
                    Prediction.Source.API if request.path_info in _PREDICT else Prediction.Source.PERSPECTIVE
                )
                self._count(source, response.status_code, seconds)
            responses |= zip(places, answers, strict=True)
        return [responses[place] for place in range(len(requests))]


def _send(response: HttpResponse, start_response: Callable[..., Any]) -> Iterator[bytes]:
    """Start and send a response as it is read, so that what is wrong with it is no other's affair."""
    headers = [*response.items(), ("Content-Length", str(len(response.content)))]
    start_response(f"{response.status_code} {response.reason_phrase}", headers)
    yield response.content
