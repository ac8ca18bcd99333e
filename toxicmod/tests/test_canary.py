"""A canary on a real server: every process serves its share within 5 s, and none once it has ended."""

import json
import time
import urllib.request
from pathlib import Path

import pytest

from toxicmod.testing.site import manage, site

START = """
from apps.core.permissions import SYSTEM
from apps.registry import actions
from apps.classifier.artifact import Artifact
version = actions.register_version(artifact=Artifact.read(actions.BASE_MODEL), recipe="two_level", metrics={})
actions.start_canary(version=version, share=0.5, reason="a trial", actor=SYSTEM)
"""
FAIL = """
from apps.registry.models import CanaryFailure, ModelVersion
from apps.training.actions import check_canary
version = ModelVersion.objects.get(alias="canary")
CanaryFailure.objects.bulk_create(CanaryFailure(version=version, error="ValueError") for _ in range(100))
print(check_canary().outcome)
"""
TEXTS = [f"comment number {number}" for number in range(60)]


def _version(url: str, text: str) -> int:
    body = json.dumps({"text": text}).encode()
    request = urllib.request.Request(f"{url}/api/v1/predict", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as response:
        return json.load(response)["model_version"]


@pytest.mark.slow
def test_every_process_starts_and_stops_serving_the_canary(tmp_path: Path) -> None:
    with site(tmp_path, WEB_CONCURRENCY="2") as (url, env):
        assert {_version(url, text) for text in TEXTS} == {1}
        manage("shell", "-v0", "-c", START, env=env)
        time.sleep(5)
        served = [[_version(url, text) for text in TEXTS] for _ in range(3)]
        # The same comment gets the same model in every process.
        assert served[0] == served[1] == served[2]
        assert 15 <= served[0].count(2) <= 45
        assert set(served[0]) == {1, 2}
        assert manage("shell", "-v0", "-c", FAIL, env=env).split()[-1] == "rolled_back"
        time.sleep(5)
        assert {_version(url, text) for text in TEXTS} == {1}
