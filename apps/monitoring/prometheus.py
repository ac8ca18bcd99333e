"""Metrics for Prometheus at `/metrics`: calls that the processes count, and what the database knows.

Under gunicorn each process counts in a file of its own, which whichever process is asked adds up
(prometheus-client's multiprocess mode); see `toxicmod.gunicorn`.
"""

import os
from collections.abc import Iterator
from functools import cache

from django.conf import settings
from django.db import DatabaseError
from django.db.models import Count, Min
from django.http import Http404, HttpRequest, HttpResponse
from django.utils import timezone
from django.utils.crypto import constant_time_compare
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from apps.moderation.models import Delivery, QueueItem
from apps.monitoring import freshness, schedules, state
from apps.monitoring.models import Alert, UncountedHour
from apps.registry.models import Alias, ModelVersion

BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_REQUESTS = Counter(
    "toxicmod_requests", "Calls answered, by source and class of status.", ["source", "status"], registry=None
)
_SECONDS = Histogram(
    "toxicmod_request_seconds", "Time to answer a call.", ["source"], registry=None, buckets=BUCKETS
)


@cache
def _counters(source: str, status: int) -> tuple[Counter, Histogram]:
    return _REQUESTS.labels(source, f"{status}xx"), _SECONDS.labels(source)


def observe(source: str, status: int, seconds: float | None, times: int = 1) -> None:
    """Count a call that was answered, and its time if it took one; takes some microseconds."""
    requests, histogram = _counters(source, status // 100)
    requests.inc(times)
    if seconds is not None:
        histogram.observe(seconds)


class Stored(Collector):
    """What the database knows when it is asked; of a database that is down, only that it is."""

    def collect(self) -> Iterator[GaugeMetricFamily]:
        try:
            found = [
                *_queue(),
                _gauge("toxicmod_model_version", "The champion's number.", _champion()),
                _gauge(
                    "toxicmod_webhooks_waiting",
                    "Webhooks that are to be sent.",
                    Delivery.objects.filter(status__in=["pending", "sending"]).count(),
                ),
                _gauge(
                    "toxicmod_webhooks_given_up",
                    "Webhooks that failed and that nobody has sent again.",
                    Delivery.objects.filter(status=Delivery.Status.FAILED).count(),
                ),
                _gauge("toxicmod_alerts_open", "Alerts that are open.", Alert.objects.open().count()),
                *_rollups(),
                *_schedules(),
                *_mirror(),
            ]
        except DatabaseError:
            found = []
        yield from found
        yield _gauge("toxicmod_database_up", "Whether the database answers.", bool(found))


def _gauge(name: str, what: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, what, value=value)


def _champion() -> int:
    champion = ModelVersion.objects.filter(alias=Alias.CHAMPION).values_list("number", flat=True)
    return champion.first() or 0


def _queue() -> Iterator[GaugeMetricFamily]:
    depth = GaugeMetricFamily("toxicmod_queue_items", "Open items.", labels=["lane"])
    oldest = GaugeMetricFamily("toxicmod_queue_oldest_seconds", "Age of the oldest.", labels=["lane"])
    now = timezone.now()
    queues = QueueItem.objects.filter(status=QueueItem.Status.OPEN).order_by().values_list("queue")
    for queue, count, first in queues.annotate(Count("pk"), Min("created_at")):
        depth.add_metric([queue], count)
        oldest.add_metric([queue], (now - first).total_seconds())
    yield depth
    yield oldest


def _rollups() -> Iterator[GaugeMetricFamily]:
    lag = GaugeMetricFamily(
        "toxicmod_rollup_lag_seconds", "Since traffic was last counted.", labels=["origin"]
    )
    now = timezone.now()
    counted = freshness.of_counts(now=now)
    if counted.as_of:
        lag.add_metric([settings.ROLL_UP_FROM], (now - counted.as_of).total_seconds())
    yield lag
    yield _gauge(
        "toxicmod_rollup_incomplete_hours",
        "Hours of which something could not be counted.",
        UncountedHour.objects.count(),
    )


def _schedules() -> Iterator[GaugeMetricFamily]:
    age = GaugeMetricFamily(
        "toxicmod_schedule_success_age_seconds", "Since a task's last success.", labels=["task"]
    )
    failing = GaugeMetricFamily(
        "toxicmod_schedule_failing", "Whether a task fails or is overdue.", labels=["task"]
    )
    now = timezone.now()
    for each in schedules.states(now):
        if each.succeeded_at:
            age.add_metric([each.task], (now - each.succeeded_at).total_seconds())
        failing.add_metric([each.task], bool(each.problem))
    yield age
    yield failing


def _mirror() -> Iterator[GaugeMetricFamily]:
    lag = state.mirror_lag()
    if lag is not None:
        yield _gauge("toxicmod_mirror_lag_seconds", "Age of the oldest record that the mirror lacks.", lag)


def exposition() -> bytes:
    """Return every metric in Prometheus' text format."""
    registry = CollectorRegistry()
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        MultiProcessCollector(registry)
    else:
        registry.register(_REQUESTS)
        registry.register(_SECONDS)
    registry.register(Stored())
    return generate_latest(registry)


def metrics(request: HttpRequest) -> HttpResponse:
    """Answer who brings the token, where one is set."""
    if not settings.METRICS_TOKEN:
        raise Http404
    given = request.headers.get("Authorization", "")
    if not constant_time_compare(given, f"Bearer {settings.METRICS_TOKEN}"):
        refusal = HttpResponse(
            "Send METRICS_TOKEN as a bearer token.\n", status=401, content_type="text/plain"
        )
        refusal["WWW-Authenticate"] = "Bearer"
        return refusal
    return HttpResponse(exposition(), content_type=CONTENT_TYPE_LATEST)
