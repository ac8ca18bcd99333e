"""Tests of `manage.py seed_benchmark` and `manage.py bench_moderation`."""

import gzip
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command
from django.db import connection

from apps.moderation.exceptions import ModerationError
from apps.moderation.models import Policy, QueueItem, Submission
from apps.predictions.models import Prediction
from apps.registry.models import ModelVersion
from toxicmod.benchmarks import seeding

pytestmark = [pytest.mark.django_db, pytest.mark.database]


def test_bench_moderation_prints_a_table_after_seed_benchmark(
    model: ModelVersion, policy: Policy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "comments.csv.gz"
    with gzip.open(path, "wt") as file:
        file.write(
            "id,comment_text\n" + "".join(f"{n},insult={n / 50} threat={n / 100}\n" for n in range(50))
        )
    if connection.vendor != "postgresql":
        with pytest.raises(CommandError, match="PostgreSQL"):
            call_command("seed_benchmark", str(path), predictions=200, items=50)
        return
    seeding.seed(path=path, predictions=200, items=50)
    assert (Prediction.objects.count(), QueueItem.objects.count(), Submission.objects.count()) == (
        200,
        50,
        100,
    )
    call_command("bench_moderation", runs=2)
    printed = capsys.readouterr().out
    assert "200 predictions, 50 queue items" in printed
    assert "| decide | 2 |" in printed
    assert QueueItem.objects.filter(status="open").exists()


def test_bench_moderation_without_seeded_data(db: None) -> None:
    with pytest.raises(CommandError, match="seed_benchmark"):
        call_command("bench_moderation", runs=1)


def test_read_comments(tmp_path: Path) -> None:
    path = tmp_path / "comments.csv"
    path.write_text('comment_text\n"one\ntwo"\nthree\n')
    assert seeding.read_comments(path, 1) == ["one\ntwo"]
    path.write_text("text\na\n")
    with pytest.raises(ModerationError, match="comment_text"):
        seeding.read_comments(path, 1)
    path.write_text("comment_text\n")
    with pytest.raises(ModerationError, match="no comments"):
        seeding.read_comments(path, 1)
