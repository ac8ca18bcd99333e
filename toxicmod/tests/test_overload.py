"""Overload: accepted requests keep their latency, the others are rejected at once."""

import itertools
import json
import os
import sqlite3
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from apps.monitoring.request_metrics import WRITE_SECONDS, source_of
from toxicmod.testing.load import CONNECTIONS, Load, load, post, site_on_one_core

SENTENCE = (
    "Thank you for the clear answer, which was more than I had hoped to read before the end of the day. "
)
# Sentences of a comment, so that one process of clients can send four times what the server can process.
LENGTH = 15


def requests(url: str) -> Iterator[bytes]:
    """Yield requests with different comments."""
    for number in itertools.count():
        text = f"Comment {number}: {SENTENCE * LENGTH}"
        body: dict[str, Any] = {"text": text}
        if "v1alpha1" in url:
            body = {"comment": body, "languages": ["en"]}
            if "analyze" in url:
                body["requestedAttributes"] = {"TOXICITY": {}}
            else:
                body["attributeScores"] = {"TOXICITY": {"summaryScore": {"value": 0.1}}}
        request = post(url, json.dumps(body).encode())
        # Only the Perspective-compatible API accepts the key in the URL.
        key = f"Authorization: Api-Key {url.partition('key=')[2]}\r\nHost:"
        yield request.replace(b"Host:", key.encode(), 1)


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core for the server, one for its clients")
@pytest.mark.parametrize(
    "path", ["v1alpha1/comments:analyze", "api/v1/predict_proba", "v1alpha1/comments:suggestscore"]
)
def test_overload_rejects_excess_requests_and_keeps_latency(path: str) -> None:
    def measure() -> tuple[Load, Load, Load, int]:
        with site_on_one_core("sqlite") as (url, env, key):
            target = f"{url}/{path}?key={key}"
            load(target, requests(target), seconds=1)
            full = load(target, requests(target), seconds=3)
            over = load(
                target,
                requests(target),
                seconds=8,
                rate=4 * full.rate,
                connections=24 * CONNECTIONS,
                may_reject=True,
                warm_up=2,  # the first quarter of a second counts as a burst, whose requests all wait
            )
            after = load(target, requests(target), seconds=10, rate=full.rate / 2, may_reject=True)
            time.sleep(WRITE_SECONDS + 1)
            with closing(sqlite3.connect(Path(env["DATA_DIR"], "toxicmod.sqlite3"))) as database:
                (counted,) = database.execute(
                    "SELECT sum(errors) FROM monitoring_requestminute WHERE source = ?",
                    (source_of(f"/{path}"),),
                ).fetchone()
            return full, over, after, counted

    # In a new thread, because browser tests leave an event loop in this one.
    with ThreadPoolExecutor(1) as pool:
        full, over, after, counted = pool.submit(measure).result()
    rejection_p99 = np.percentile(over.rejected, 99)
    print(
        f"full: {full}\nover: {over}, {len(over.rejected)} rejected, p99 {rejection_p99:.0f} ms\n"
        f"after: {after}"
    )
    assert len(over.rejected) > len(over.milliseconds)
    assert over.rate > 0.6 * full.rate
    assert np.median(over.milliseconds) < full.p99 + 150
    assert rejection_p99 < 50
    assert counted >= len(over.rejected), "the dashboard counts rejections"
    # Requests after the overload get responses, within the first second.
    assert not len(after.rejected)
    assert after.p99 < full.p99 + 250
