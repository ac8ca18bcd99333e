"""Calls counted by the minute, in memory, and written to the database by a thread of its own.

A call costs a lock and an addition, some microseconds. Each process writes its own rows, whole counts and not
differences, so that writing twice changes nothing; a database that is down is tried again.
"""

import contextlib
import math
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from django.db import DatabaseError, connection
from django.http import HttpRequest, HttpResponse, UnreadablePostError
from django.http.response import HttpResponseBase

from apps.monitoring import prometheus
from apps.monitoring.models import LATENCY_EDGES, RequestMinute
from apps.predictions.models import Prediction

WRITE_SECONDS = 10.0
KEPT_MINUTES = 60  # while the database is down
_BINS = len(LATENCY_EDGES) - 1
_ELSEWHERE = ("/static/", "/admin/", "/monitoring/", "/health", "/ready", "/metrics")


def source_of(path: str) -> Prediction.Source | None:
    """Return which door a path is of, or None for what is not traffic."""
    if path.startswith("/api/v1/"):
        return Prediction.Source.API
    if path.startswith("/v1alpha1/") or path == "/batch":
        return Prediction.Source.PERSPECTIVE
    return None if path.startswith(_ELSEWHERE) else Prediction.Source.PAGE


@dataclass
class Calls:
    """The calls of one minute and source."""

    requests: int = 0
    refused: int = 0
    errors: int = 0
    latency: list[int] = field(default_factory=lambda: [0] * _BINS)


class Counts:
    """The calls of this process."""

    def __init__(self) -> None:
        self._calls: dict[tuple[int, str], Calls] = {}
        self._lock = threading.Lock()
        self._process = f"{socket.gethostname()[:60]}:{os.getpid()}:{uuid.uuid4().hex[:8]}"

    def add(self, source: str, status: int, seconds: float | None, now: float, times: int = 1) -> None:
        """Count a call that was answered; None seconds, where it was turned away unread."""
        with self._lock:
            calls = self._calls.setdefault((int(now // 60), source), Calls())
            calls.requests += times
            calls.refused += times * (400 <= status < 500)
            calls.errors += times * (status >= 500)
            if seconds is not None:
                place = int((math.log10(max(seconds, 1e-6)) + 5) * 10)
                calls.latency[min(max(place, 0), _BINS - 1)] += times

    def write(self, now: float) -> None:
        """Write what was counted; what can't change any more is then forgotten.

        Raises:
            DatabaseError: the database is down; the counts are kept, for an hour.
        """
        minute = int(now // 60)
        with self._lock:
            self._calls = {key: calls for key, calls in self._calls.items() if key[0] > minute - KEPT_MINUTES}
            rows = [
                RequestMinute(
                    minute=datetime.fromtimestamp(key[0] * 60, UTC),
                    source=key[1],
                    process=self._process,
                    requests=calls.requests,
                    refused=calls.refused,
                    errors=calls.errors,
                    latency=list(calls.latency),
                )
                for key, calls in self._calls.items()
            ]
        RequestMinute.objects.bulk_create(
            rows,
            update_conflicts=True,
            unique_fields=["minute", "source", "process"],
            update_fields=["requests", "refused", "errors", "latency"],
        )
        with self._lock:
            self._calls = {key: calls for key, calls in self._calls.items() if key[0] >= minute - 1}

    def write_forever(self) -> None:
        """Write every ten seconds."""
        while True:
            time.sleep(WRITE_SECONDS)
            with contextlib.suppress(DatabaseError):
                self.write(time.time())
            connection.close()


_counts = Counts()
add = _counts.add


def start() -> None:
    """Let this process write its counts; called in each of gunicorn's workers: threads outlive no fork."""
    global _counts, add
    _counts = Counts()
    add = _counts.add
    threading.Thread(target=_counts.write_forever, name="counting", daemon=True).start()


def count(source: str, status: int, seconds: float | None, times: int = 1) -> None:
    """Count a call for the dashboard and for Prometheus; see `Counts.add`."""
    add(source, status, seconds, time.time(), times)
    prometheus.observe(source, status, seconds, times)


class CountCalls:
    """Middleware: times and counts every call, outermost."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        source = source_of(request.path_info)
        if source is None:
            return self._get_response(request)
        start = time.perf_counter()
        response = self._get_response(request)
        count(source, response.status_code, time.perf_counter() - start)
        return response

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        """Answer 400 to a client that closed the connection inside its body: that is no failure of ours."""
        return HttpResponse(status=400) if isinstance(exception, UnreadablePostError) else None
