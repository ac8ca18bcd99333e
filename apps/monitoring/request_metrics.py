"""Counts requests by minute in memory; a thread writes the counts to the database.

Each process writes its own rows and replaces whole counts, so that writing twice changes nothing.
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

from apps.accounts import attribute_counts
from apps.monitoring import prometheus
from apps.monitoring.models import LATENCY_EDGES, RequestMinute
from apps.predictions.models import Prediction

WRITE_SECONDS = 10.0
KEEP_MINUTES = 60  # while the database does not respond
_BINS = len(LATENCY_EDGES) - 1
_STAFF_PATHS = ("/admin/", "/monitoring/")
_UNCOUNTED_PATHS = (*_STAFF_PATHS, "/static/", "/health", "/ready", "/metrics")


def source_of(path: str) -> Prediction.Source | None:
    """Return the source that a path belongs to, or None if its requests are not counted."""
    if path.startswith("/api/v1/"):
        return Prediction.Source.API
    if path.startswith("/v1alpha1/") or path == "/batch":
        return Prediction.Source.PERSPECTIVE
    if path.startswith("/v1/"):
        return Prediction.Source.OPENAI
    if path.startswith("/connectors/"):
        return Prediction.Source.CONNECTOR
    return None if path.startswith(_UNCOUNTED_PATHS) else Prediction.Source.PAGE


@dataclass
class _MinuteCounts:
    """The requests of one minute and source."""

    requests: int = 0
    client_errors: int = 0
    errors: int = 0
    latency: list[int] = field(default_factory=lambda: [0] * _BINS)


class RequestCounter:
    """The requests that this process answered."""

    def __init__(self) -> None:
        self._counts: dict[tuple[int, str], _MinuteCounts] = {}
        self._lock = threading.Lock()
        self._process = f"{socket.gethostname()[:60]}:{os.getpid()}:{uuid.uuid4().hex[:8]}"

    def add(self, source: str, status: int, seconds: float | None, now: float) -> None:
        """Count a request that was answered.

        Args:
            seconds: the response time; None for a request that was rejected unread.
            now: seconds since the epoch.
        """
        with self._lock:
            counts = self._counts.setdefault((int(now // 60), source), _MinuteCounts())
            counts.requests += 1
            counts.client_errors += 400 <= status < 500
            counts.errors += status >= 500
            if seconds is not None:
                index = int((math.log10(max(seconds, 1e-6)) + 5) * 10)
                counts.latency[min(max(index, 0), _BINS - 1)] += 1

    def write(self, now: float) -> None:
        """Write the counts to the database, and discard those of minutes that have ended.

        It stores the counts of `apps.accounts.attribute_counts` too.

        Raises:
            DatabaseError: the database does not respond. The counts are kept for an hour.
        """
        minute = int(now // 60)
        with self._lock:
            self._counts = {
                key: counts for key, counts in self._counts.items() if key[0] > minute - KEEP_MINUTES
            }
            rows = [
                RequestMinute(
                    minute=datetime.fromtimestamp(key[0] * 60, UTC),
                    source=key[1],
                    process=self._process,
                    requests=counts.requests,
                    client_errors=counts.client_errors,
                    errors=counts.errors,
                    latency=list(counts.latency),
                )
                for key, counts in self._counts.items()
            ]
        RequestMinute.objects.bulk_create(
            rows,
            update_conflicts=True,
            unique_fields=["minute", "source", "process"],
            update_fields=["requests", "client_errors", "errors", "latency"],
        )
        with self._lock:
            self._counts = {key: counts for key, counts in self._counts.items() if key[0] >= minute - 1}
        attribute_counts.store_counts()

    def try_to_write(self) -> None:
        """Write the counts if the database responds, and close the connection."""
        with contextlib.suppress(DatabaseError):
            self.write(time.time())
        connection.close()

    def write_forever(self) -> None:
        """Write the counts every ten seconds."""
        while True:
            time.sleep(WRITE_SECONDS)
            self.try_to_write()


_counter = RequestCounter()
add = _counter.add


def start() -> None:
    """Start the thread that writes the counts. Each worker calls this, because a fork has no threads."""
    global _counter, add
    _counter = RequestCounter()
    add = _counter.add
    threading.Thread(target=_counter.write_forever, name="request-metrics", daemon=True).start()


def stop() -> None:
    """Write the counts since the thread wrote last. Each worker calls this when it ends."""
    _counter.try_to_write()


def count(source: str | None, status: int, seconds: float | None) -> None:
    """Count a request for the dashboard and for Prometheus; see `RequestCounter.add`."""
    if source is None:
        return
    add(source, status, seconds, time.time())
    prometheus.observe(source, status, seconds)


class RequestMetricsMiddleware:
    """Counts and times every request; it must be the outermost middleware.

    Of the pages of staff it counts only those that fail: they are rare next to the requests of platforms.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        source = source_of(request.path_info)
        start = time.perf_counter()
        response = self._get_response(request)
        if source is not None:
            count(source, response.status_code, time.perf_counter() - start)
        elif response.status_code >= 500 and request.path_info.startswith(_STAFF_PATHS):
            count(Prediction.Source.PAGE, response.status_code, None)
        return response

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        """Respond 400 if the client closed the connection within its body, which is not a server error."""
        return HttpResponse(status=400) if isinstance(exception, UnreadablePostError) else None
