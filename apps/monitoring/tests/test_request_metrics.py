from typing import Any

import pytest
from django.http import HttpRequest, HttpResponse
from django.test import Client

from apps.monitoring import request_metrics

pytestmark = pytest.mark.django_db

MULTIPART = "multipart/form-data; boundary=BoUnDaRy"
FORM = "application/x-www-form-urlencoded"
POSTS = [
    ("/api/v1/predict", "application/json"),
    ("/api/v1/predict_proba", "application/json"),
    ("/api/v1/feedback", "application/json"),
    ("/api/v1/moderate", "application/json"),
    ("/api/v1/appeals", "application/json"),
    ("/v1alpha1/comments:analyze", "application/json"),
    ("/v1alpha1/comments:suggestscore", "application/json"),
    ("/batch", "multipart/mixed; boundary=BoUnDaRy"),
    ("/", FORM),
    ("/", MULTIPART),
    ("/live", FORM),
    ("/admin/login/", FORM),
    ("/admin/login/", MULTIPART),
]


class ResetConnection:
    """The request body of a client that resets the connection, as gunicorn raises it."""

    def read(self, size: int = -1) -> bytes:
        raise ConnectionResetError(104, "Connection reset by peer")

    readline = read


@pytest.mark.parametrize("csrf", [False, True])
@pytest.mark.parametrize(("path", "content_type"), POSTS)
def test_middleware_counts_client_reset_as_client_error(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    auth: dict[str, Any],
    path: str,
    content_type: str,
    csrf: bool,
) -> None:
    statuses: list[int] = []
    monkeypatch.setattr(request_metrics, "add", lambda source, status, *rest: statuses.append(status))
    response = Client(enforce_csrf_checks=csrf).post(
        path, "x" * 1_000, content_type=content_type, **auth, **{"wsgi.input": ResetConnection()}
    )
    assert 400 <= response.status_code < 500
    assert statuses == ([] if path.startswith("/admin/") else [response.status_code])
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_middleware_ignores_other_exceptions() -> None:
    middleware = request_metrics.RequestMetricsMiddleware(lambda request: HttpResponse())
    assert middleware.process_exception(HttpRequest(), OSError("disk full")) is None


@pytest.mark.parametrize(
    ("path", "status", "counted"),
    [
        ("/admin/queue/", 500, [("page", 500, None)]),
        ("/monitoring/", 503, [("page", 503, None)]),
        ("/admin/queue/", 404, []),
        ("/admin/queue/", 200, []),
        ("/ready", 503, []),
    ],
)
def test_middleware_counts_pages_of_staff_that_fail(
    monkeypatch: pytest.MonkeyPatch, path: str, status: int, counted: list[Any]
) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(request_metrics, "add", lambda *values: calls.append(values[:3]))
    request = HttpRequest()
    request.path_info = path
    request_metrics.RequestMetricsMiddleware(lambda request: HttpResponse(status=status))(request)
    assert calls == counted
