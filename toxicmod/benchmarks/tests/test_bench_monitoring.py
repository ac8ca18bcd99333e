"""Tests of `manage.py bench_monitoring`."""

from datetime import timedelta
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.db.models import QuerySet
from django.utils import timezone

from apps.monitoring import actions
from apps.monitoring.models import HourlyRollup
from apps.monitoring.rollups.hours import start_of_hour
from apps.predictions.models import Feedback, Prediction
from apps.registry.models import ModelVersion
from toxicmod.benchmarks import monitoring as bench
from toxicmod.testing.factories import create_prediction


@pytest.mark.django_db
def test_bench_monitoring_without_postgresql_or_predictions() -> None:
    expected = "seed_benchmark" if connection.vendor == "postgresql" else "set DATABASE_URL"
    with pytest.raises(CommandError, match=expected):
        call_command("bench_monitoring", "--predictions", "10", "--only", "fill")


@pytest.mark.database
@pytest.mark.django_db(transaction=True)
def test_fill_adds_predictions_that_rollups_count(champion: ModelVersion) -> None:
    if connection.vendor != "postgresql":
        pytest.skip("fills a PostgreSQL only")
    for _ in range(20):
        create_prediction(champion, timezone.now(), community="a")
    assert len(list(bench.fill(count=2_000))) == bench.DAYS
    assert Prediction.objects.count() == 2_000
    assert 0 < Feedback.objects.count() < 100
    oldest = Prediction.objects.order_by("created_at")[0]
    assert timezone.now() - oldest.created_at > timedelta(days=bench.DAYS - 1)
    assert (
        abs((oldest.id.int >> 80) - oldest.created_at.timestamp() * 1_000) < 60_000
    )  # a UUIDv7 of that moment
    since = start_of_hour(timezone.now() - timedelta(days=3))
    actions.roll_up(since=since)
    counted = Prediction.objects.filter(created_at__gte=since)
    assert sum(HourlyRollup.objects.overall().values_list("requests", flat=True)) == counted.count() > 20
    assert _sources(HourlyRollup.objects.all()) == _sources(counted)
    assert _sources(Prediction.objects.all()) == {"api", "page", "perspective"}


def _sources(rows: QuerySet[Any]) -> set[str]:
    return set(rows.values_list("source", flat=True))
