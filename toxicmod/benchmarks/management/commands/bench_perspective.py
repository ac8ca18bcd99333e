"""`manage.py bench_perspective`: measure the Perspective-compatible endpoint on one core."""

import itertools
import json
import os
import random
from argparse import ArgumentParser
from collections.abc import Iterator
from typing import Any

from django.core.management import BaseCommand, CommandError

from apps.training.examples import COMMENTS
from toxicmod.testing.load import load, post, site_on_one_core

SATURATED_P99, HALF_P99 = 80.0, 16.0  # the targets in milliseconds


class Command(BaseCommand):
    help = (
        "Measure the Perspective-compatible endpoint against a real gunicorn with one worker on one core, "
        "on SQLite and on PostgreSQL: with 32 saturating connections, then at half of the measured rate."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--seconds", type=float, default=10.0, help="Seconds of each measurement (10).")
        parser.add_argument("--database", choices=["sqlite", "postgres", "both"], default="both")
        parser.add_argument("--check", action="store_true", help="Fail if a target is missed.")

    def handle(self, *args: Any, **options: Any) -> None:
        if len(os.sched_getaffinity(0)) < 2:
            raise CommandError("Two cores are needed: one for the server, one for its clients.")
        missed = []
        databases = ["sqlite", "postgres"] if options["database"] == "both" else [options["database"]]
        seconds = options["seconds"]
        for name in databases:
            with site_on_one_core(name) as (url, _, key):
                requests = _requests(url, key)
                load(url, requests, seconds=min(seconds, 3.0))
                saturated = load(url, requests, seconds=seconds)
                self.stdout.write(f"{name:8}  32 connections   {saturated}")
                half = load(url, requests, seconds=seconds, rate=saturated.rate / 2)
                self.stdout.write(f"{name:8}  half capacity    {half}")
            if saturated.p99 >= SATURATED_P99 or half.p99 >= HALF_P99:
                missed.append(name)
        self.stdout.write(
            f"Targets: p99 under {SATURATED_P99:g} ms saturated, {HALF_P99:g} ms at half capacity."
        )
        if missed and options["check"]:
            raise CommandError(f"Missed on {' and '.join(missed)}.")


def _requests(url: str, key: str) -> Iterator[bytes]:
    """Yield requests for one to six sentences each, six attributes, as a platform would send them."""
    random.seed(0)
    names = ("TOXICITY", "SEVERE_TOXICITY", "IDENTITY_ATTACK", "INSULT", "PROFANITY", "THREAT")
    for number in itertools.count():
        text = f"{number} {' '.join(random.choices(COMMENTS, k=random.randint(1, 6)))}"
        request = {"comment": {"text": text}, "requestedAttributes": {name: {} for name in names}}
        body = json.dumps(request | {"languages": ["en"]}).encode()
        yield post(f"{url}/v1alpha1/comments:analyze?key={key}", body)
