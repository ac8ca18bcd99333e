"""A load generator with persistent HTTP connections."""

import asyncio
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import numpy as np
import psutil

from toxicmod.testing import servers
from toxicmod.testing.site import PID, manage, site

CONNECTIONS = 32
_MAKE_KEY = (
    "from apps.accounts.actions import create_api_key; from apps.core.permissions import SYSTEM;"
    "print('key', create_api_key(actor=SYSTEM, name='bench', rate_per_minute=10**9)[1])"
)


class Load(NamedTuple):
    """The result of a load: milliseconds of each response, responses per second, milliseconds of each 503."""

    milliseconds: np.ndarray
    rate: float
    rejected: np.ndarray

    def __str__(self) -> str:
        p50, p99 = np.percentile(self.milliseconds, [50, 99])
        return f"{self.rate:6.0f} requests/s   p50 {p50:6.2f} ms   p99 {p99:6.2f} ms"

    @property
    def p99(self) -> float:
        return float(np.percentile(self.milliseconds, 99))


class UnexpectedResponseError(Exception):
    """The server responded with an unexpected status."""


def post(url: str, body: bytes) -> bytes:
    """Return the bytes of a request with a JSON body."""
    split = urlsplit(url)
    target = f"{split.path}?{split.query}" if split.query else split.path
    head = f"POST {target} HTTP/1.1\r\nHost: {split.netloc}\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def load(
    url: str,
    requests: Iterator[bytes],
    *,
    seconds: float,
    rate: float | None = None,
    connections: int = CONNECTIONS,
    may_reject: bool = False,
    warm_up: float = 0.0,
) -> Load:
    """Send requests over persistent connections: at random times at a mean rate, or as fast as possible.

    With a rate, the time of a request counts from when it was due. A stalled server therefore delays the
    requests that it would otherwise have prevented (coordinated omission).

    Args:
        rate: requests per second; None to send each request after the response to the previous one.
        may_reject: accept responses with the status 503.
        warm_up: seconds at the start that are not reported.

    Raises:
        UnexpectedResponseError: the status of a response is not 200, nor 503 if `may_reject`.
    """
    return asyncio.run(_load(url, requests, seconds, rate, connections, may_reject, warm_up))


async def _load(
    url: str,
    requests: Iterator[bytes],
    seconds: float,
    rate: float | None,
    connections: int,
    may_reject: bool,
    warm_up: float,
) -> Load:
    split = urlsplit(url)
    milliseconds: list[float] = []
    rejected: list[float] = []
    start = time.perf_counter()
    due = start
    reported, end = start + warm_up, start + seconds

    def next_due() -> float:
        nonlocal due
        if rate is None:
            return time.perf_counter()
        due += random.expovariate(rate)
        return due

    async def client(due_at: Callable[[], float]) -> None:
        reader, writer = await asyncio.open_connection(split.hostname, split.port)
        try:
            while (at := due_at()) < end:
                if (wait := at - time.perf_counter()) > 0:
                    await asyncio.sleep(wait)
                writer.write(next(requests))
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
                answer = await reader.readexactly(length)
                passed = (time.perf_counter() - at) * 1e3
                if head.startswith(b"HTTP/1.1 200"):
                    if at >= reported:
                        milliseconds.append(passed)
                elif may_reject and head.startswith(b"HTTP/1.1 503"):
                    if at >= reported:
                        rejected.append(passed)
                    if b"\r\nconnection: close" in head.lower():
                        writer.close()
                        reader, writer = await asyncio.open_connection(split.hostname, split.port)
                else:
                    raise UnexpectedResponseError(answer.decode())
        finally:
            writer.close()

    await asyncio.gather(*[client(next_due) for _ in range(connections)])
    measured_rate = len(milliseconds) / (time.perf_counter() - reported)
    return Load(np.array(milliseconds), measured_rate, np.array(rejected))


@contextmanager
def site_on_one_core(database: str) -> Iterator[tuple[str, dict[str, str], str]]:
    """Run gunicorn with one worker on the first core, and put this process on the others.

    The database and Redis may use any core, so their time does not count as the server's.

    Args:
        database: "sqlite" or "postgres".

    Yields:
        The site's URL, its environment, and the secret of an API key without a rate limit.
    """
    cores = sorted(os.sched_getaffinity(0))
    with ExitStack() as stack:
        stack.callback(os.sched_setaffinity, 0, cores)
        environment: dict[str, Any] = {"WEB_CONCURRENCY": "1"}
        environment["REDIS_URL"] = stack.enter_context(servers.redis())
        if database == "postgres":
            environment["DATABASE_URL"] = stack.enter_context(servers.postgres())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        url, env = stack.enter_context(site(folder, **environment))
        # A process that imports ONNX Runtime while it may use one core only gets slower matrix products.
        main = psutil.Process(int((folder / PID).read_text()))
        for process in (main, *main.children()):
            for thread in process.threads():
                os.sched_setaffinity(thread.id, cores[:1])
        os.sched_setaffinity(0, cores[1:])
        yield url, env, manage("shell", "-v0", "-c", _MAKE_KEY, env=env).split()[-1]
