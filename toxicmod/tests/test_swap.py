"""A promotion under load: every process loads the model within 5 s, and no request fails."""

import json
import threading
import time
import urllib.request
from pathlib import Path

import pytest

from toxicmod.testing.site import manage, site

_CLIENTS = 4
_REGISTER_AND_PROMOTE = """
from apps.core.permissions import SYSTEM
from apps.registry.actions import BASE_MODEL, promote, register_version
from apps.classifier.artifact import Artifact
version = register_version(artifact=Artifact.read(BASE_MODEL), recipe="two_level", metrics={})
promote(version=version, reason="swap under load", actor=SYSTEM)
print(version.number)
"""


def _versions(url: str) -> set[int]:
    body = json.dumps({"texts": ["one comment", "another comment", "a third"]}).encode()
    request = urllib.request.Request(f"{url}/api/v1/predict", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as response:
        return {result["model_version"] for result in json.load(response)["results"]}


@pytest.mark.slow
def test_promotion_reaches_every_process_within_five_seconds(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    responses: list[tuple[float, set[int]]] = []
    failures: list[Exception] = []
    stop = threading.Event()

    def load(url: str) -> None:
        while not stop.is_set():
            try:
                start = time.monotonic()
                responses.append((start, _versions(url)))
            except Exception as error:
                failures.append(error)

    with site(tmp_path, WEB_CONCURRENCY="3") as (url, env):
        clients = [threading.Thread(target=load, args=(url,)) for _ in range(_CLIENTS)]
        for client in clients:
            client.start()
        while not responses and not failures:
            time.sleep(0.1)
        before = list(responses)
        new = int(manage("shell", "-v0", "-c", _REGISTER_AND_PROMOTE, env=env).strip().splitlines()[-1])
        promoted = time.monotonic()
        time.sleep(6)
        stop.set()
        for client in clients:
            client.join()

    assert not failures
    assert all(len(versions) == 1 for _, versions in responses)
    assert all(versions == {1} for _, versions in before)
    late = [versions for start, versions in responses if start > promoted + 5]
    assert late
    assert all(versions == {new} for versions in late)
