"""Tests of `manage.py bench_quality`."""

import json
from io import StringIO
from pathlib import Path

import pytest
from django.core.management import call_command

from apps.classifier import meaning
from apps.training import encoder_data
from toxicmod.benchmarks.management.commands import bench_quality
from toxicmod.testing.factories import csv_bytes, labeled_rows


@pytest.mark.slow
def test_bench_quality_measures_each_mode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("COMMON_WORDS", "COMMON_NAMES", "OBFUSCATED_TEXTS", "SPEED_TEXTS"):
        monkeypatch.setattr(bench_quality, name, 60)
    sentences = meaning.load("test")
    monkeypatch.setattr(meaning, "load", lambda part: sentences[::40])
    monkeypatch.setattr(encoder_data, "common_words", lambda language, count: ["house", "garden", "idiot"])
    monkeypatch.setattr(encoder_data, "common_names", lambda count, seed: ["Ann", "Harshit"])
    (tmp_path / "rows.csv").write_bytes(csv_bytes(labeled_rows(1_500)))
    comments = tmp_path / "de_small.jsonl"
    comments.write_text(
        "\n".join(json.dumps({"text": f"Satz Nummer {k}", "toxic": k % 2}) for k in range(200))
    )
    out = StringIO()
    call_command(
        "bench_quality",
        str(tmp_path / "rows.csv"),
        files=tmp_path / "de_small.jsonl",
        stdout=out,
        stderr=StringIO(),
    )
    lines = {line[:46].strip(): line[46:].split() for line in out.getvalue().splitlines()[1:]}
    assert lines[""] == ["never", "auto", "always"]
    read = [float(value) for value in lines["share of comments read, natural rate"]]
    assert read[0] == 0 < read[1] < read[2] == 1
    assert all(0 <= float(value) <= 1 for value in lines["ROC-AUC, toxic, de_small"])
