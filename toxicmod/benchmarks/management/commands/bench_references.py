"""`manage.py bench_references`: compare toxicmod with the reference implementations."""

import csv
import itertools
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import numpy as np
from django.core.management import BaseCommand, CommandError

from apps.classifier.artifact import Artifact
from apps.classifier.scorer import Scorer, warm
from apps.registry.actions import BASE_MODEL
from toxicmod.benchmarks import references
from toxicmod.benchmarks.classifier import machine, read
from toxicmod.testing.load import Load, load, post, site_on_one_core
from toxicmod.testing.site import free_port, gunicorn, manage, site, wait_until_answered

FOLDER = Path(references.__file__).parent
PYTHON = Path(".venv/references/bin/python")
DATABASES = ("postgres", "sqlite")
BATCH = 100
FILE_ROWS = 1_000_000
# Prints the peak memory of a command in kilobytes. A process in between starts the command, because a
# child of this process would start with the memory of this process.
_PEAK = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""
_ATTRIBUTES = ("TOXICITY", "SEVERE_TOXICITY", "IDENTITY_ATTACK", "INSULT", "PROFANITY", "THREAT")


class Command(BaseCommand):
    help = (
        "Measure toxicmod and the reference implementations in turn, several times, and print medians, "
        "ranges and ratios. A server has one process on the first core. Its clients have 32 connections."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("csv", type=Path, help="A CSV file with Jigsaw columns, also as .gz.")
        parser.add_argument(
            "--python", type=Path, default=PYTHON, help=f"Python of the references ({PYTHON})."
        )
        parser.add_argument("--seconds", type=float, default=5.0, help="Seconds of each measurement (5).")
        parser.add_argument("--runs", type=int, default=3, help="Number of repetitions (3).")
        parser.add_argument(
            "--rows", type=int, default=FILE_ROWS, help="Rows of the scored file (1,000,000)."
        )

    def handle(self, *args: Any, **options: Any) -> None:
        if len(os.sched_getaffinity(0)) < 2:
            raise CommandError("Two cores are needed: one for the server, one for its clients.")
        if not options["python"].exists():
            raise CommandError(f"There is no {options['python']}: `make .venv/references` installs it.")
        self.python, self.seconds = options["python"].absolute(), options["seconds"]
        texts, _ = read(options["csv"])
        self.texts = random.Random(0).sample(texts, min(20_000, len(texts)))
        self.measurements: dict[str, list[float]] = defaultdict(list)
        with tempfile.TemporaryDirectory() as folder:
            self.folder = Path(folder)
            self._in_process(texts)
            self._file(texts, options["rows"])
            self._memory_and_start()
            subprocess.run(
                [self.python, FOLDER / "original.py", options["csv"].absolute(), self.folder / "model"],
                check=True,
            )
            for _ in range(options["runs"]):
                self._original()
                self._constant()
                for database in DATABASES:
                    self._toxicmod(database)
        self._print(options["runs"])

    # Measurements

    def _in_process(self, texts: Sequence[str]) -> None:
        scorer = Scorer.load(Artifact.read(BASE_MODEL))
        warm(scorer)
        sample = self.texts[:2_000]
        for text in sample * 3:
            start = time.perf_counter()
            scorer.score(text)
            self.measurements["score, µs"].append((time.perf_counter() - start) * 1e6)
        for name, threads in (("one core", 1), ("all cores", None)):
            for _ in range(3):
                start = time.perf_counter()
                scorer.score_many(texts, threads=threads)
                self.measurements[f"score_many, {name}"].append(len(texts) / (time.perf_counter() - start))
        path = self.folder / "comments.json"
        path.write_text(json.dumps(sample))
        with _on_first_core():
            output = subprocess.run(
                [self.python, FOLDER / "inprocess.py", path], check=True, capture_output=True, text=True
            ).stdout
        answer = json.loads(output)
        self.versions = answer["versions"]
        for name, milliseconds in answer["milliseconds"].items():
            self.measurements[f"{name}, µs"].append(milliseconds * 1e3)

    def _file(self, texts: Sequence[str], rows: int) -> None:
        path = self.folder / "comments.csv"
        env = os.environ | {"DATA_DIR": str(self.folder)}
        manage("migrate", env=env)
        manage("install_base_model", env=env)
        seconds = {}
        for count in (rows // 10, rows):
            with path.open("w", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(["comment_text"])
                writer.writerows([text] for text in itertools.islice(itertools.cycle(texts), count))
            start = time.perf_counter()
            score = ["manage.py", "score", str(path), "--output", str(self.folder / "scores.csv")]
            command = [sys.executable, "-c", _PEAK, sys.executable, *score]
            peak = subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout
            seconds[count] = time.perf_counter() - start
            self.measurements[f"file of {count:,}, comments/s"].append(count / seconds[count])
            self.measurements[f"file of {count:,}, MB"].append(int(peak) / 1024)
        (less, begun), (more, ended) = seconds.items()
        self.measurements["file, comments/s once started"].append((more - less) / (ended - begun))

    def _memory_and_start(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            with site(Path(folder), WEB_CONCURRENCY="1") as (_, env):
                env["WEB_CONCURRENCY"] = "4"
            start = time.perf_counter()
            with gunicorn(env) as (url, process):
                self._predict(url)
                self.measurements["cold start, s"].append(time.perf_counter() - start)
                load(url, self._single(f"{url}/api/v1/predict_proba"), seconds=5)
                for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
                    for name in ("Rss", "Pss"):
                        self.measurements[f"worker {name}, MB"].append(_kilobytes(pid, name) / 1024)

    def _predict(self, url: str) -> None:
        body = json.dumps({"text": self.texts[0]}).encode()
        headers = {"Content-Type": "application/json"}
        with urlopen(Request(f"{url}/api/v1/predict_proba", body, headers), timeout=30):
            pass

    def _original(self) -> None:
        port = free_port()
        command = [self.python, "-m", "uvicorn", "original:app", "--port", str(port)]
        env = {"MODEL": str(self.folder / "model"), "LOG": str(self.folder / "log")}
        with _served(command, port, "/docs", env) as url:
            saturated = self._loaded("original", f"{url}/predict_proba", self._single)
            self._loaded("original, without labels", f"{url}/alone", self._single)
            self._loaded("original, loading", f"{url}/loading", self._single)
            self._at_half("original", f"{url}/predict_proba", self._single, saturated)

    def _constant(self) -> None:
        port = free_port()
        options = ["--bind", f"127.0.0.1:{port}", "--threads", "16", "--keep-alive", "75"]
        command = [self.python, "-m", "gunicorn", "constant:application", *options]
        with _served(command, port, "/", {}) as url:
            self._loaded("constant", f"{url}/", self._single)

    def _toxicmod(self, database: str) -> None:
        with site_on_one_core(database) as (url, _, key):
            path = f"{url}/v1alpha1/comments:analyze?key={key}"
            saturated = self._loaded(f"{database} analyze", path, self._analyze)
            self._at_half(f"{database} analyze", path, self._analyze, saturated)
            rest = f"{url}/api/v1/predict_proba"
            self._loaded(f"{database} predict_proba", rest, self._single)
            batches = self._loaded(f"{database} batches", rest, self._batches)
            self.measurements[f"{database} batches, comments/s"].append(batches.rate * BATCH)

    def _loaded(self, name: str, url: str, requests: Callable[[str], Iterator[bytes]]) -> Load:
        load(url, requests(url), seconds=min(self.seconds, 2.0))
        result = load(url, requests(url), seconds=self.seconds)
        self.measurements[f"{name}, /s"].append(result.rate)
        self.measurements[f"{name}, p99 ms"].append(result.p99)
        return result

    def _at_half(
        self, name: str, url: str, requests: Callable[[str], Iterator[bytes]], saturated: Load
    ) -> None:
        result = load(url, requests(url), seconds=self.seconds, rate=saturated.rate / 2)
        self.measurements[f"{name}, half load, p99 ms"].append(result.p99)

    # Requests

    def _single(self, url: str) -> Iterator[bytes]:
        for text in itertools.cycle(self.texts):
            yield post(url, json.dumps({"text": text}).encode())

    def _batches(self, url: str) -> Iterator[bytes]:
        for number in itertools.cycle(range(0, len(self.texts) - BATCH, BATCH)):
            yield post(url, json.dumps({"texts": self.texts[number : number + BATCH]}).encode())

    def _analyze(self, url: str) -> Iterator[bytes]:
        wanted: dict[str, Any] = {name: {} for name in _ATTRIBUTES}
        for text in itertools.cycle(self.texts):
            request = {"comment": {"text": text}, "languages": ["en"], "requestedAttributes": wanted}
            yield post(url, json.dumps(request).encode())

    # Output

    def _print(self, runs: int) -> None:
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        self.stdout.write(f"{machine()}; Python {platform.python_version()}; {versions}; {runs} runs")
        for name, values in self.measurements.items():
            low, high = min(values), max(values)
            self.stdout.write(f"{name:48} {self._median(name):12.4g}   {low:10.4g} to {high:.4g}")
        self.stdout.write("")
        for name, one, other, target in self._ratios():
            self.stdout.write(f"{name:76} {self._median(one) / self._median(other):8.3g}   target {target}")

    def _median(self, name: str) -> float:
        return float(np.median(self.measurements[name]))

    def _ratios(self) -> Iterator[tuple[str, str, str, str]]:
        reference = "original"
        for name in ("alt-profanity-check", "BERT-base graph, random weights"):
            yield f"one comment in the process: {name} takes times as long", f"{name}, µs", "score, µs", "–"
        for database in DATABASES:
            product = f"{database} analyze"
            yield (
                f"{product}: times the original's requests/s",
                f"{product}, /s",
                f"{reference}, /s",
                "10, aim 18",
            )
            for other in ("without labels", "loading"):
                yield (
                    f"{product}: times the original's, {other}",
                    f"{product}, /s",
                    f"{reference}, {other}, /s",
                    "–",
                )
            yield f"{product}: share of the bare ceiling", f"{product}, /s", "constant, /s", "–"
            p99 = f"{product}, p99 ms"
            yield f"{product}: the original's p99 is times as long", f"{reference}, p99 ms", p99, "7"
            batches = f"{database} batches, comments/s"
            yield f"{batches}: times the original's rate", batches, f"{reference}, /s", "80, aim 200"
        rows = [name for name in self.measurements if name.startswith("file of")]
        for name in (rows[2], "file, comments/s once started"):
            yield f"{name}: share of the scorer's rate on all cores", name, "score_many, all cores", "0.8"
        yield f"memory: {rows[3]} over {rows[1]}", rows[3], rows[1], "1"


@contextmanager
def _on_first_core() -> Iterator[None]:
    """Run this process, and the child processes that it starts, on the first core."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[:1])
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


@contextmanager
def _served(command: Sequence[Any], port: int, path: str, env: dict[str, str]) -> Iterator[str]:
    cores = sorted(os.sched_getaffinity(0))
    with _on_first_core():
        process = subprocess.Popen(
            command, cwd=FOLDER, env=os.environ | env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until_answered(process, url + path)
        os.sched_setaffinity(0, cores[1:])
        yield url
    finally:
        os.sched_setaffinity(0, cores)
        process.terminate()
        process.wait()


def _kilobytes(pid: str, name: str) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))
