"""Metrics for Prometheus at `/metrics`: requests that the processes count, and what the database holds.

Under gunicorn each process counts in its own file, and the process that answers the scrape adds them up
(prometheus-client's multiprocess mode); see `toxicmod.gunicorn`.
"""

import logging
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

from apps.core.database import describe_error
from apps.moderation.models import Delivery, QueueItem
from apps.monitoring import freshness, live_metrics, schedules
from apps.monitoring.models import Alert, IncompleteHour
from apps.registry.models import Alias, ModelVersion

logger = logging.getLogger(__name__)

BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_REQUESTS = Counter(
    "toxicmod_requests", "Requests answered, by source and status class.", ["source", "status"], registry=None
)
_SECONDS = Histogram("toxicmod_request_seconds", "Response time.", ["source"], registry=None, buckets=BUCKETS)


@cache
def _counters(source: str, status: int) -> tuple[Counter, Histogram]:
    return _REQUESTS.labels(source, f"{status}xx"), _SECONDS.labels(source)


def observe(source: str, status: int, seconds: float | None) -> None:
    """Count an answered request and its response time; see `request_metrics.RequestCounter.add`."""
    requests, histogram = _counters(source, status // 100)
    requests.inc()
    if seconds is not None:
        histogram.observe(seconds)


class DatabaseCollector(Collector):
    """Metrics read from the database at each scrape; only `toxicmod_database_up` if it does not respond."""

    def collect(self) -> Iterator[GaugeMetricFamily]:
        try:
            metrics = [
                *_queue(),
                _gauge("toxicmod_model_version", "Number of the champion.", _champion()),
                _gauge(
                    "toxicmod_webhooks_pending",
                    "Webhooks to be sent.",
                    Delivery.objects.filter(status__in=["pending", "sending"]).count(),
                ),
                _gauge(
                    "toxicmod_webhooks_failed",
                    "Webhooks that failed and were not sent again.",
                    Delivery.objects.filter(status=Delivery.Status.FAILED).count(),
                ),
                _gauge("toxicmod_alerts_open", "Open alerts.", Alert.objects.open().count()),
                *_rollups(),
                *_schedules(),
                *_mirror(),
            ]
        except DatabaseError as error:
            logger.error("The database failed: %s", describe_error(error))
            metrics = []
        yield from metrics
        yield _gauge("toxicmod_database_up", "Whether the database responds.", bool(metrics))


def _gauge(name: str, description: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, description, value=value)


def _champion() -> int:
    champion = ModelVersion.objects.filter(alias=Alias.CHAMPION).values_list("number", flat=True)
    return champion.first() or 0


def _queue() -> Iterator[GaugeMetricFamily]:
    depth = GaugeMetricFamily("toxicmod_queue_items", "Open queue items.", labels=["queue"])
    age = GaugeMetricFamily(
        "toxicmod_queue_oldest_seconds", "Age of the oldest open queue item.", labels=["queue"]
    )
    now = timezone.now()
    queues = QueueItem.objects.filter(status=QueueItem.Status.OPEN).order_by().values_list("queue")
    for queue, count, oldest in queues.annotate(Count("pk"), Min("created_at")):
        depth.add_metric([queue], count)
        age.add_metric([queue], (now - oldest).total_seconds())
    yield depth
    yield age


def _rollups() -> Iterator[GaugeMetricFamily]:
    lag = GaugeMetricFamily(
        "toxicmod_rollup_lag_seconds", "Time since traffic was last counted.", labels=["origin"]
    )
    now = timezone.now()
    as_of = freshness.of_rollups(now=now).as_of
    if as_of:
        lag.add_metric([settings.ROLL_UP_FROM], (now - as_of).total_seconds())
    yield lag
    yield _gauge(
        "toxicmod_rollup_incomplete_hours",
        "Hours that are not counted completely.",
        IncompleteHour.objects.count(),
    )


def _schedules() -> Iterator[GaugeMetricFamily]:
    age = GaugeMetricFamily(
        "toxicmod_schedule_success_age_seconds", "Time since a task's last success.", labels=["task"]
    )
    failing = GaugeMetricFamily(
        "toxicmod_schedule_failing", "Whether a task fails or is overdue.", labels=["task"]
    )
    now = timezone.now()
    for state in schedules.states(now):
        if state.succeeded_at:
            age.add_metric([state.task], (now - state.succeeded_at).total_seconds())
        failing.add_metric([state.task], bool(state.problem))
    yield age
    yield failing


def _mirror() -> Iterator[GaugeMetricFamily]:
    lag = live_metrics.mirror_lag()
    if lag is not None:
        yield _gauge("toxicmod_mirror_lag_seconds", "Age of the oldest record not yet in the mirror.", lag)


def exposition() -> bytes:
    """Return all metrics in Prometheus' text format."""
    registry = CollectorRegistry()
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        MultiProcessCollector(registry)
    else:
        registry.register(_REQUESTS)
        registry.register(_SECONDS)
    registry.register(DatabaseCollector())
    return generate_latest(registry)


def metrics(request: HttpRequest) -> HttpResponse:
    """Respond with all metrics to requests that send METRICS_TOKEN; without that setting, with 404."""
    if not settings.METRICS_TOKEN:
        raise Http404
    authorization = request.headers.get("Authorization", "")
    if not constant_time_compare(authorization, f"Bearer {settings.METRICS_TOKEN}"):
        return HttpResponse(
            "Send METRICS_TOKEN as a bearer token.\n",
            status=401,
            content_type="text/plain",
            headers={"WWW-Authenticate": "Bearer"},
        )
    return HttpResponse(exposition(), content_type=CONTENT_TYPE_LATEST)
