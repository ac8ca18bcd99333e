"""`manage.py compare_perspective`."""

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from django.core.management import CommandError, call_command
from pytest_django.live_server_helper import LiveServer

from apps.accounts.actions import create_api_key
from apps.api.perspective import comparison
from apps.core.permissions import SYSTEM
from apps.predictions.models import Prediction
from apps.registry import serving
from apps.registry.models import ModelVersion
from apps.training.examples import COMMENTS

pytestmark = pytest.mark.django_db


def run(*args: Any) -> str:
    out = io.StringIO()
    call_command("compare_perspective", *map(str, args), stdout=out, stderr=out)
    return out.getvalue()


@pytest.fixture
def past(tmp_path: Path, champion: ModelVersion) -> Path:
    """Past scores that rank as ours do, on another scale, with a gap."""
    ours = serving.current().scorer.score_many(COMMENTS)
    path = tmp_path / "past.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "comment_text", "toxicity", "INSULT"])
        for number, (text, row) in enumerate(zip(COMMENTS, ours, strict=True)):
            writer.writerow([number, text, f"{row[0] ** 2:.9f}", "" if number == 3 else f"{row[4]:.9f}"])
    return path


def test_compare_same_ranking_correlates_fully(past: Path) -> None:
    output = run(past, "--threshold", "0.36")
    lines = {line.split()[0]: line.split() for line in output.splitlines()}
    assert lines["TOXICITY"][1:3] == [str(len(COMMENTS)), "1.000"]
    assert lines["TOXICITY"][3] == lines["TOXICITY"][5]
    assert lines["TOXICITY"][6] == "100.00%"
    assert lines["INSULT"][1:3] == [str(len(COMMENTS) - 1), "1.000"]
    assert past.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert not Prediction.objects.exists()


def test_read_saved_responses(tmp_path: Path, champion: ModelVersion) -> None:
    path = tmp_path / "saved.jsonl"
    answer = {"attributeScores": {"TOXICITY": {"summaryScore": {"value": 0.9}}, "FLIRTATION": {}}}
    lines = [
        json.dumps({"comment": {"text": "You idiot"}, "response": answer}),
        "",
        json.dumps({"text": "Thank you", **answer, "TOXICITY": 0.1, "FLIRTATION": 0.3}),
    ]
    path.write_text("\n".join(lines))
    rows = list(comparison.read(path))
    assert rows == [("You idiot", {"TOXICITY": 0.9}), ("Thank you", {"TOXICITY": 0.9})]
    assert "TOXICITY" in run(path, "--plot", tmp_path / "plot.png")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "nothing,TOXICITY\nx,0.5\n", "line 2 has no text in comment_text or text"),
        ("a.csv", "text,TOXICITY\nx,high\n", "line 2, TOXICITY: 'high' is not a score between 0 and 1"),
        ("a.csv", "text,TOXICITY\nx,0.5\ny,7\n", "line 3, TOXICITY: '7'"),
        ("a.csv", "text\nx\n", "has no scores. Name its columns like the attributes"),
        ("a.csv", "", "has no scores"),
        ("a.jsonl", "{\n", "line 1 is not JSON"),
        ("a.jsonl", "[]\n", "line 1 is not a JSON object"),
    ],
)
def test_compare_names_invalid_row(
    tmp_path: Path, champion: ModelVersion, name: str, content: str, message: str
) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(CommandError) as caught:
        run(path)
    assert message in str(caught.value)


def test_compare_rejects_invalid_options(tmp_path: Path, past: Path) -> None:
    for options in (["--threshold", "70"], ["--per-second", "0"], ["--plot", tmp_path / "no" / "plot.png"]):
        with pytest.raises(CommandError):
            run(past, *options)
    with pytest.raises(CommandError, match="can't be read"):
        run(tmp_path / "missing.csv")
    damaged = "text,TOXICITY\né,0.5\n".encode() + b"\xe9,0.5\n"
    (tmp_path / "damaged.csv").write_bytes(damaged)
    with pytest.raises(CommandError, match="line 3 has no text"):
        run(tmp_path / "damaged.csv")


def test_compare_flag_rate_of_none_or_all() -> None:
    scores = np.array([0.1, 0.2, 0.3])
    none = comparison._compare("TOXICITY", scores, scores, 0.9)
    assert (none.suggested, none.toxicmod_rate) == (1.0, 0.0)
    every = comparison._compare("TOXICITY", scores, scores, 0.05)
    assert (every.suggested, every.toxicmod_rate) == (0.1, 1.0)
    assert math.isnan(comparison._compare("TOXICITY", scores[:1], scores[:1], 0.5).correlation)


@pytest.mark.django_db(transaction=True)
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_compare_requests_missing_scores(
    live_server: LiveServer, champion: ModelVersion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, saved = tmp_path / "comments.csv", tmp_path / "saved.jsonl"
    path.write_text("text\n" + "".join(f'"{text}"\n' for text in [*COMMENTS[:5], ""]))
    _, secret = create_api_key(actor=SYSTEM, name="upstream")
    monkeypatch.setenv("PERSPECTIVE_API_KEY", secret)
    output = run(path, "--url", live_server.url, "--per-second", "1000", "--save", saved)
    assert "1 comments were rejected" in output
    assert [line.split()[2] for line in output.splitlines() if line.startswith("TOXICITY")] == ["1.000"]
    assert Prediction.objects.filter(text=None).count() == 5
    assert [row.text for row in comparison.read(saved)] == list(COMMENTS[:5])
    monkeypatch.setenv("PERSPECTIVE_API_KEY", "wrong")
    with pytest.raises(CommandError, match="API key not valid"):
        run(path, "--url", live_server.url)
