"""Scoring of files."""

import csv
import gzip
import io
import json
import re
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from django.core.management import CommandError, call_command

from apps.classifier.labels import LABELS
from apps.classifier.scorer import Scorer
from apps.registry.models import ModelVersion
from apps.training import scoring
from toxicmod.testing.factories import csv_bytes, labeled_rows

pytestmark = pytest.mark.django_db

ROWS = labeled_rows(300)


@pytest.fixture
def scorer(champion: ModelVersion) -> Scorer:
    return Scorer.load(champion.modelartifact.artifact())


def expected(scorer: Scorer) -> np.ndarray:
    return scorer.score_many([row[1] for row in ROWS])


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_score_csv_to_csv(scorer: Scorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pack: Any) -> None:
    monkeypatch.setattr(scoring, "COMMENTS_PER_TASK", 7)
    source, output = tmp_path / "in.csv", tmp_path / "out.csv"
    source.write_bytes(pack(csv_bytes(ROWS)))
    call_command("score", source, output=output)
    header, *rows = csv.reader(output.read_text().splitlines())
    assert header == ["id", *LABELS, "labels"]
    assert [row[0] for row in rows] == [row[0] for row in ROWS]
    scores = np.array([row[1:7] for row in rows], float)
    np.testing.assert_allclose(scores, expected(scorer), atol=1e-6)
    assert all(re.fullmatch(r"[01]\.\d{6}", cell) for row in rows for cell in row[1:7])
    assert [row[7].split() for row in rows] == [
        [
            label
            for label, score, threshold in zip(LABELS, row, scorer.thresholds, strict=True)
            if score >= threshold
        ]
        for row in expected(scorer)
    ]
    assert [path.name for path in tmp_path.glob("out*")] == ["out.csv"]


def test_score_text_to_json_lines(scorer: Scorer, tmp_path: Path) -> None:
    source, output = tmp_path / "in.txt", tmp_path / "out.jsonl"
    source.write_text("\n".join(row[1] for row in ROWS))
    call_command("score", source, output=output)
    answers = [json.loads(line) for line in output.read_text().splitlines()]
    assert [answer["id"] for answer in answers] == [str(number) for number in range(1, 301)]
    scores = [[answer["probabilities"][label] for label in LABELS] for answer in answers]
    np.testing.assert_allclose(scores, expected(scorer), atol=1e-6)


def test_score_escapes_ids_and_omits_texts(champion: ModelVersion, tmp_path: Path, capsys: Any) -> None:
    source = tmp_path / "in.csv"
    ids = ["=cmd|' /C calc'!A0", "-1", "", "é-1", 'a "b", c', "two\r\nlines", '="x"', "＝1+1"]
    source.write_bytes(csv_bytes([[row_id, "a secret"] for row_id in ids], header=["id", "body"]))
    call_command("score", source, column="body")
    out = capsys.readouterr().out
    rows = list(csv.reader(io.StringIO(out, newline=""), strict=True))
    assert [row[0] for row in rows] == ["id", "'=cmd|' /C calc'!A0", "'-1", *ids[2:-2], '\'="x"', "'＝1+1"]
    assert {len(row) for row in rows} == {8}
    assert "secret" not in out


def test_score_invalid_bytes(champion: ModelVersion, tmp_path: Path) -> None:
    source, output = tmp_path / "in.txt", tmp_path / "out.csv"
    source.write_bytes(b"\0\n\n\xf0\x9f\x96\x95\n")
    call_command("score", source, output=output)
    assert len(output.read_text().splitlines()) == 4
    source.write_bytes(b"fine\n\xf0\x9f\x96\x95\n\xff broken\n")
    with pytest.raises(CommandError, match="Line 3 has a byte that the file's encoding does not allow"):
        call_command("score", source, output=output)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("in.csv", b"a,b\n1,2\n", "There is no column comment_text or text or comment or .*; there are a, b"),
        ("in.csv", b"id,text\n1,fine\n2\n", "Line 3: wrong number of columns"),
        ("in.csv", b'id,text\n1,"' + b"x" * 140_000 + b'"\n', "Line 2: not valid CSV"),
        ("in.csv", gzip.compress(csv_bytes(ROWS))[:-30], "damaged or unreadable archive"),
        ("in.txt", b"x" * 200_000, "Line 1 is longer than"),
    ],
)
def test_score_invalid_file_leaves_no_output(
    champion: ModelVersion, tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    source, output = tmp_path / name, tmp_path / "out.csv"
    source.write_bytes(content)
    with pytest.raises(CommandError, match=message):
        call_command("score", source, output=output)
    assert not list(tmp_path.glob("out*"))


def test_score_missing_files_and_folders(champion: ModelVersion, tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="There is no file"):
        call_command("score", tmp_path / "none.csv")
    source = tmp_path / "in.txt"
    source.write_text("hello\n")
    with pytest.raises(CommandError, match="can't be written: No such file or directory"):
        call_command("score", source, output=tmp_path / "none/out.csv")


def test_score_file_memory_is_constant(
    scorer: Scorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "MAX_PENDING_COMMENTS", 512)
    monkeypatch.setattr(scoring, "COMMENTS_PER_TASK", 64)

    def peak(copies: int) -> int:
        source = tmp_path / f"{copies}.txt"
        source.write_text("a comment like any other\n" * scoring.MAX_PENDING_COMMENTS * copies)
        tracemalloc.start()
        # With several threads the memory depends on how many of them the pool starts.
        scoring.score_file(
            scorer=scorer, path=source, output=tmp_path / "out.csv", output_format="csv", threads=1
        )
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    peak(1)
    assert peak(6) < 1.3 * peak(2)


def test_score_exit_codes() -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "manage.py", "score", *arguments]
        return subprocess.run(command, capture_output=True, text=True)

    wrong = run("--nonsense")
    assert wrong.returncode == 1
    assert "Traceback" not in wrong.stderr
    helped = run("--help")
    assert helped.returncode == 0
    assert "examples:\n  manage.py score comments.csv --output scores.csv\n" in helped.stdout


def test_score_file_closed_standard_output(
    scorer: Scorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

        def fileno(self) -> int:
            return 99

    source = tmp_path / "in.txt"
    source.write_text("one\ntwo\n")
    monkeypatch.setattr(sys, "stdout", Closed())
    monkeypatch.setattr(scoring.os, "dup2", lambda *files: None)
    assert scoring.score_file(scorer=scorer, path=source, output=None, output_format="csv") == 0
