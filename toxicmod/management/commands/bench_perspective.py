"""`manage.py bench_perspective`: how fast the Perspective-compatible endpoint answers on one core."""

import asyncio
import itertools
import json
import os
import random
import tempfile
import time
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import numpy as np
from django.core.management import BaseCommand, CommandError

from apps.training.examples import COMMENTS
from toxicmod.tests import servers
from toxicmod.tests.site import manage, site

CONNECTIONS = 32
SATURATED_P99, HALF_P99 = 80.0, 16.0  # milliseconds, the targets
_MAKE_KEY = (
    "from apps.accounts.actions import create_api_key;"
    "print('key', create_api_key(name='bench', rate_per_minute=10**9)[1])"
)


class Load(NamedTuple):
    """What a client saw: milliseconds of each answer, and answers a second."""

    milliseconds: np.ndarray
    rate: float

    def __str__(self) -> str:
        p50, p99 = np.percentile(self.milliseconds, [50, 99])
        return f"{self.rate:6.0f} requests/s   p50 {p50:6.2f} ms   p99 {p99:6.2f} ms"

    @property
    def p99(self) -> float:
        return float(np.percentile(self.milliseconds, 99))


class Command(BaseCommand):
    help = (
        "Measure the Perspective-compatible endpoint against a real gunicorn with one worker on one core, "
        "on SQLite and on PostgreSQL: at 32 saturating connections, then at half the rate they reached."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement (10)")
        parser.add_argument("--database", choices=["sqlite", "postgres", "both"], default="both")
        parser.add_argument("--check", action="store_true", help="fail where a target is missed")

    def handle(self, *args: Any, **options: Any) -> None:
        cores = sorted(os.sched_getaffinity(0))
        if len(cores) < 2:
            raise CommandError("Two cores are needed: one for the server, one for its clients.")
        missed = []
        chosen = ["sqlite", "postgres"] if options["database"] == "both" else [options["database"]]
        for name in chosen:
            # Database and Redis may use either core: their time is not the server's.
            os.sched_setaffinity(0, cores)
            with (
                _database(name) as database_url,
                servers.redis() as redis_url,
                tempfile.TemporaryDirectory() as folder,
            ):
                environment = {"WEB_CONCURRENCY": "1", "REDIS_URL": redis_url}
                if database_url:
                    environment["DATABASE_URL"] = database_url
                # A child inherits the core on which it is started.
                os.sched_setaffinity(0, cores[:1])
                with site(Path(folder), **environment) as (url, env):
                    os.sched_setaffinity(0, cores[1:])
                    key = manage("shell", "-c", _MAKE_KEY, env=env).split()[-1]
                    seconds = options["seconds"]
                    asyncio.run(_run(url, key, min(seconds, 3.0), None))
                    saturated = asyncio.run(_run(url, key, seconds, None))
                    self.stdout.write(f"{name:8}  32 connections   {saturated}")
                    half = asyncio.run(_run(url, key, seconds, saturated.rate / 2))
                    self.stdout.write(f"{name:8}  half capacity    {half}")
            if saturated.p99 >= SATURATED_P99 or half.p99 >= HALF_P99:
                missed.append(name)
        self.stdout.write(
            f"Targets: p99 under {SATURATED_P99:g} ms saturated, {HALF_P99:g} ms at half capacity."
        )
        if missed and options["check"]:
            raise CommandError(f"Missed on {' and '.join(missed)}.")


@contextmanager
def _database(name: str) -> Iterator[str]:
    if name == "sqlite":
        yield ""
    else:
        with servers.postgres() as url:
            yield url


def _requests(host: str, key: str) -> Iterator[bytes]:
    """Yield requests for one to six sentences each, six attributes, as a platform would send them."""
    random.seed(0)
    names = ("TOXICITY", "SEVERE_TOXICITY", "IDENTITY_ATTACK", "INSULT", "PROFANITY", "THREAT")
    for number in itertools.count():
        text = f"{number} {' '.join(random.choices(COMMENTS, k=random.randint(1, 6)))}"
        asked = {"comment": {"text": text}, "requestedAttributes": {name: {} for name in names}}
        body = json.dumps(asked | {"languages": ["en"]}).encode()
        head = f"POST /v1alpha1/comments:analyze?key={key} HTTP/1.1\r\nHost: {host}\r\n"
        yield f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


async def _run(url: str, key: str, seconds: float, rate: float | None) -> Load:
    """Call over 32 kept connections: as fast as answers come, or at random times at a mean rate.

    At a rate, a call's time counts from when it was due, so that a stalled server is not spared the calls
    that a waiting client would have made.
    """
    split = urlsplit(url)
    requests = _requests(split.netloc, key)
    milliseconds: list[float] = []
    start = time.perf_counter()
    due = start
    end = start + seconds

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
                milliseconds.append((time.perf_counter() - at) * 1e3)
                if not head.startswith(b"HTTP/1.1 200"):
                    raise CommandError(answer.decode())
        finally:
            writer.close()

    await asyncio.gather(*[client(next_due) for _ in range(CONNECTIONS)])
    return Load(np.array(milliseconds), len(milliseconds) / (time.perf_counter() - start))
