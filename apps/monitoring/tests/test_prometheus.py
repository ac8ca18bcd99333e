import os
import subprocess
import sys
import time
from typing import Any

import pytest
from django.db import DatabaseError
from django.test import Client
from prometheus_client.parser import text_string_to_metric_families

from apps.monitoring import prometheus
from apps.registry.models import ModelVersion

pytestmark = [pytest.mark.django_db, pytest.mark.database]
TOKEN = {"headers": {"Authorization": "Bearer hush"}}


def _value(text: str, name: str, **labels: str) -> float:
    values = [
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    ]
    return sum(values)


def test_metrics_requires_token(client: Client, settings: Any) -> None:
    settings.METRICS_TOKEN = ""
    assert client.get("/metrics", **TOKEN).status_code == 404
    settings.METRICS_TOKEN = "hush"
    assert client.get("/metrics").status_code == 401
    assert client.get("/metrics", headers={"Authorization": "Bearer hus"}).status_code == 401
    assert client.get("/metrics", **TOKEN).status_code == 200


def test_metrics_include_requests_and_database(
    client: Client, settings: Any, auth: dict[str, Any], champion: ModelVersion
) -> None:
    settings.METRICS_TOKEN = "hush"
    before = client.get("/metrics", **TOKEN).text
    for body in ({"text": "hello"}, {"text": "hello"}, {}):
        client.post("/api/v1/predict", body, content_type="application/json", **auth)
    after = client.get("/metrics", **TOKEN).text

    def added(name: str, **labels: str) -> float:
        return _value(after, name, **labels) - _value(before, name, **labels)

    assert added("toxicmod_requests_total", source="api", status="2xx") == 2
    assert added("toxicmod_requests_total", source="api", status="4xx") == 1
    assert added("toxicmod_request_seconds_count", source="api") == 3
    assert _value(after, "toxicmod_model_version") == champion.number
    assert _value(after, "toxicmod_database_up") == 1


def test_metrics_respond_without_database(
    client: Client, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.METRICS_TOKEN = "hush"

    def down() -> int:
        raise DatabaseError

    monkeypatch.setattr(prometheus, "_champion", down)
    answer = client.get("/metrics", **TOKEN)
    assert answer.status_code == 200
    assert _value(answer.text, "toxicmod_database_up") == 0
    assert "toxicmod_model_version" not in answer.text


_PROCESS = """
import os, sys
os.environ["DJANGO_SETTINGS_MODULE"] = "toxicmod.settings"
import django
django.setup()
from apps.monitoring import prometheus
prometheus.observe("api", 200, 0.003)
if not os.fork():
    prometheus.observe("api", 200, 0.003)
    prometheus.observe("api", 503, 2.0)
    os._exit(0)
os.wait()
registry = prometheus.CollectorRegistry()
prometheus.MultiProcessCollector(registry)
sys.stdout.write(prometheus.generate_latest(registry).decode())
"""


def test_metrics_add_up_processes(tmp_path: Any) -> None:
    environment = os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    result = subprocess.run(
        [sys.executable, "-c", _PROCESS], env=environment, capture_output=True, text=True, check=True
    )
    assert _value(result.stdout, "toxicmod_requests_total", status="2xx") == 2
    assert _value(result.stdout, "toxicmod_requests_total", status="5xx") == 1
    assert _value(result.stdout, "toxicmod_request_seconds_count", source="api") == 3


def test_observe_takes_microseconds() -> None:
    prometheus.observe("api", 200, 0.003)
    start = time.process_time()
    for _ in range(2_000):
        prometheus.observe("api", 200, 0.003)
    seconds = (time.process_time() - start) / 2_000
    print(f"\nobserve: {seconds * 1e6:.1f} µs")
    assert seconds < 20e-6 * 5  # five times the usual processor time
