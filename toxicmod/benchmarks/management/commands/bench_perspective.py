"""`manage.py bench_perspective`: measure the Perspective-compatible endpoint on one core."""

import itertools
import json
import os
import random
from argparse import ArgumentParser
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from django.core.management import BaseCommand, CommandError

from apps.training.examples import COMMENTS
from toxicmod.benchmarks.classifier import read
from toxicmod.testing.load import load, post, site_on_one_core

NATURAL_RATE = 0.1
SATURATED_P99, HALF_P99 = 80.0, 16.0  # the targets in milliseconds


class Command(BaseCommand):
    help = (
        "Measure the Perspective-compatible endpoint against a real gunicorn with one worker on one core, "
        "on SQLite and on PostgreSQL: with 32 saturating connections, then at half of the measured rate. "
        "ENCODER in the environment decides what the server reads."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--seconds", type=float, default=10.0, help="Seconds of each measurement (10).")
        parser.add_argument("--database", choices=["sqlite", "postgres", "both"], default="both")
        parser.add_argument(
            "--csv", type=Path, help="Real comments with Jigsaw's columns; a tenth of the requests is toxic."
        )
        parser.add_argument("--rate", type=float, help="Also measure this rate, in requests per second.")
        parser.add_argument("--check", action="store_true", help="Fail if a target is missed.")

    def handle(self, *args: Any, **options: Any) -> None:
        if len(os.sched_getaffinity(0)) < 2:
            raise CommandError("Two cores are needed: one for the server, one for its clients.")
        missed = []
        databases = ["sqlite", "postgres"] if options["database"] == "both" else [options["database"]]
        seconds = options["seconds"]
        for name in databases:
            with site_on_one_core(name) as (url, _, key):
                requests = _requests(url, key, options["csv"])
                load(url, requests, seconds=min(seconds, 3.0))
                saturated = load(url, requests, seconds=seconds)
                self.stdout.write(f"{name:8}  32 connections   {saturated}")
                half = load(url, requests, seconds=seconds, rate=saturated.rate / 2)
                self.stdout.write(f"{name:8}  half capacity    {half}")
                if options["rate"]:
                    offered = load(url, requests, seconds=seconds, rate=options["rate"], may_reject=True)
                    self.stdout.write(
                        f"{name:8}  offered {options['rate']:8g} {offered}  {len(offered.rejected)} rejected"
                    )
            if saturated.p99 >= SATURATED_P99 or half.p99 >= HALF_P99:
                missed.append(name)
        self.stdout.write(
            f"Targets: p99 under {SATURATED_P99:g} ms saturated, {HALF_P99:g} ms at half capacity."
        )
        if missed and options["check"]:
            raise CommandError(f"Missed on {' and '.join(missed)}.")


def _requests(url: str, key: str, csv: Path | None) -> Iterator[bytes]:
    """Yield requests with six attributes, as a platform would send them.

    Args:
        csv: a file of comments, a tenth of which is toxic in the requests; without it, each request has one
            to six of the project's sentences.
    """
    random.seed(0)
    comments: list[list[str]] = []
    if csv:
        texts, labels = read(csv)
        comments = [
            [text for text, row in zip(texts, labels, strict=True) if row.any() == is_toxic]
            for is_toxic in (False, True)
        ]
    names = ("TOXICITY", "SEVERE_TOXICITY", "IDENTITY_ATTACK", "INSULT", "PROFANITY", "THREAT")
    for number in itertools.count():
        if comments:
            text = random.choice(comments[random.random() < NATURAL_RATE])
        else:
            text = f"{number} {' '.join(random.choices(COMMENTS, k=random.randint(1, 6)))}"
        request = {"comment": {"text": text}, "requestedAttributes": {name: {} for name in names}}
        body = json.dumps(request | {"languages": ["en"]}).encode()
        yield post(f"{url}/v1alpha1/comments:analyze?key={key}", body)
