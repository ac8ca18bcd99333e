"""Tests of `manage.py bench_references`."""

import csv
import io
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command

from apps.classifier.labels import LABELS
from toxicmod.benchmarks.management.commands.bench_references import PYTHON
from toxicmod.testing.site import ROOT


def test_bench_references_without_references(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=r"make \.venv/references"):
        call_command("bench_references", str(tmp_path / "a.csv"), "--python", str(tmp_path / "python"))


@pytest.mark.slow
@pytest.mark.skipif(
    not (ROOT / PYTHON).exists(), reason="`make .venv/references` installs what it measures, 1.3 GB"
)
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core for the server, one for its clients")
def test_bench_references_measures_real_servers(tmp_path: Path) -> None:
    with (tmp_path / "comments.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "comment_text", *LABELS])
        for number in range(300):
            toxic = number % 3 == 0
            text = f"Comment {number}: {'you stupid idiot' if toxic else 'thank you'}"
            writer.writerow([number, text, *[int(toxic)] * len(LABELS)])
    out = io.StringIO()
    arguments = [str(tmp_path / "comments.csv"), "--seconds", "0.3", "--runs", "1", "--rows", "5000"]
    # In a thread of its own: where browser tests ran before, this one has an event loop already.
    with ThreadPoolExecutor(1) as pool:
        pool.submit(call_command, "bench_references", *arguments, stdout=out).result()
    assert out.getvalue().count("times the original's requests/s") == 2
