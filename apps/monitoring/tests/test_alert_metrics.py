from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis
from django.utils import timezone

from apps.mirror.models import ChangeLogEntry, MirrorState
from apps.moderation import actions as moderation
from apps.moderation.models import Policy, QueueItem
from apps.monitoring import actions
from apps.monitoring.alert_metrics import TrafficWindow, estimate
from apps.monitoring.models import AlertRule, HourlyRollup
from apps.registry.models import ModelVersion

pytestmark = [pytest.mark.django_db, pytest.mark.database]
NOW = datetime(2026, 11, 20, 12, 30, tzinfo=UTC)
LIVE_METRICS = {
    "queue_items",
    "queue_oldest_hours",
    "mirror_lag_seconds",
    "broker_messages",
    "background_problems",
}


@pytest.mark.parametrize("metric", sorted(set(AlertRule.Metric.values) - LIVE_METRICS))
def test_estimate_returns_value_or_none_without_data(
    metric: str, traffic: Callable[..., HourlyRollup]
) -> None:
    without_data = estimate(metric, TrafficWindow(NOW, hours=1))
    assert without_data is None or metric == AlertRule.Metric.REQUESTS
    counts = {
        "requests": 500,
        "errors": 5,
        "any_flagged": 50,
        "feedback_right": 9,
        "feedback_wrong": 1,
        "queued": 20,
    }
    counts |= {"approved": 6, "rejected": 3, "reversed": 4, "escalations_reversed": 1}
    rows = {
        "flagged": [50, 5, 20, 1, 30, 4],
        "scores": [[400, *[2] * 49]] * 6,
        "lengths": [0] * 10 + [50] * 10 + [0] * 10,
        "latency": [0] * 20 + [500] + [0] * 39,
        "ngrams": [20_000, 1_000],
    }
    for day in range(15):
        for hour in (0, 1):
            traffic(NOW - timedelta(days=day, hours=hour), **counts, **rows)
    result = estimate(metric, TrafficWindow(NOW, hours=1))
    if metric == AlertRule.Metric.TRAINING_DRIFT:
        assert result is None  # there is no baseline
        return
    assert result is not None
    expected = {
        "error_share": 10 / 1_010, "latency_p95_ms": 1.26, "requests_per_hour": 500, "flag_share": 0.1,
        "flag_change": 1, "score_psi": 0, "length_psi": 0, "unknown_change": 1, "wrong_share": 0.1,
        "queue_growth": 28,
    }  # fmt: skip
    assert result.value == pytest.approx(expected[metric], abs=0.01)
    assert result.low <= result.value <= result.high


@pytest.mark.usefixtures("up_to_date")
def test_estimate_reads_live_metrics(
    model: ModelVersion, policy: Policy, redis_url: str, settings: Any
) -> None:
    def values() -> dict[str, float | None]:
        result = {metric: estimate(metric, TrafficWindow(timezone.now(), hours=1)) for metric in LIVE_METRICS}
        return {metric: value and value.value for metric, value in result.items()}

    settings.REDIS_URL = ""
    assert values() == {
        "queue_items": 0, "queue_oldest_hours": 0, "mirror_lag_seconds": None, "broker_messages": None,
        "background_problems": 0,
    }  # fmt: skip
    settings.REDIS_URL = redis_url
    with redis.Redis.from_url(redis_url) as broker:
        broker.lpush("training", "a", "b")
    item = moderation.moderate(text="toxic=0.7 you", community="forum", author_ref="x").item
    assert item is not None
    QueueItem.objects.update(created_at=timezone.now() - timedelta(hours=30))
    MirrorState.objects.create()
    ChangeLogEntry.objects.create(kind="prediction", key="1", created_at=timezone.now() - timedelta(hours=1))
    assert values() == pytest.approx(
        {
            "queue_items": 1,
            "queue_oldest_hours": 30,
            "mirror_lag_seconds": 3_600,
            "broker_messages": 2,
            "background_problems": 0,
        },
        rel=0.01,
    )
    actions.install_default_rules()
    AlertRule.objects.filter(metric="broker_messages").update(threshold=1)
    opened = {alert.metric for alert in actions.evaluate_rules()}
    assert opened == {"queue_oldest_hours", "mirror_lag_seconds", "broker_messages"}
    with redis.Redis.from_url(redis_url) as broker:
        broker.delete("training")
