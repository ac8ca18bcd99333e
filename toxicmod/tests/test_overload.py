"""More requests than can be answered: those that are accepted keep their time, the rest are told at once."""

import itertools
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from django.test import Client

from toxicmod import overload
from toxicmod.tests.load import CONNECTIONS, Load, load, post, site_on_one_core


def requests(url: str) -> Iterator[bytes]:
    """Comments to either API, no two alike."""
    for number in itertools.count():
        text = f"Comment {number}: thank you for the clear answer"
        body: dict[str, Any] = {"text": text}
        if "v1alpha1" in url:
            body = {"comment": body, "languages": ["en"], "requestedAttributes": {"TOXICITY": {}}}
        yield post(url, json.dumps(body).encode())


@pytest.mark.slow
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core for the server, one for its clients")
@pytest.mark.parametrize("path", ["v1alpha1/comments:analyze", "api/v1/predict_proba"])
def test_four_times_the_load_leaves_the_accepted_their_time(path: str) -> None:
    def measure() -> tuple[Load, Load, Load]:
        with site_on_one_core("sqlite") as (url, _, key):
            target = f"{url}/{path}?key={key}"
            load(target, requests(target), seconds=1)
            full = load(target, requests(target), seconds=3)
            over = load(target, requests(target), seconds=5, connections=4 * CONNECTIONS, may_refuse=True)
            after = load(target, requests(target), seconds=10, rate=full.rate / 2, may_refuse=True)
            return full, over, after

    # In a thread of its own: where browser tests ran before, this one has an event loop already.
    with ThreadPoolExecutor(1) as pool:
        full, over, after = pool.submit(measure).result()
    refused = np.percentile(over.refused, 99) if len(over.refused) else 0
    print(
        f"\nfull {full}\nover {over}, {len(over.refused)} refused within {refused:.0f} ms\nafter {after}, {len(after.refused)}"
    )
    assert len(over.refused)


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("path", "content_type", "words"),
    [
        ("/", "text/html", "catching its breath"),
        ("/api/v1/predict", "application/problem+json", "More comes than can be answered"),
        ("/v1alpha1/comments:analyze", "application/json", "UNAVAILABLE"),
    ],
)
def test_who_is_turned_away_is_told_when_to_come_back(
    client: Client, monkeypatch: pytest.MonkeyPatch, path: str, content_type: str, words: str
) -> None:
    monkeypatch.setattr(overload, "is_late", lambda: True)
    response = client.post(path)
    assert response.status_code == 503
    assert response["Retry-After"] == "5"
    assert response["Content-Type"].startswith(content_type)
    assert words in response.content.decode()
    assert client.get("/health").status_code == 200
