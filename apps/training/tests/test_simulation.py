"""The simulation of active learning."""

from pathlib import Path

import numpy as np
import pytest
from django.core.management import CommandError, call_command

from apps.classifier.labels import LABELS
from apps.training import simulation
from apps.training.simulation import Comments, Outcome, Plan, labels_to_reach, simulate


def comments(count: int) -> tuple[list[str], np.ndarray]:
    """Return generated comments, of which few are toxic, with a word for each kind of toxicity."""
    rng = np.random.default_rng(0)
    labels = np.zeros((count, len(LABELS)), np.int8)
    texts = []
    for row in range(count):
        words = [f"w{number}" for number in rng.integers(300, size=12)]
        if rng.random() < 0.06:
            bad = int(rng.integers(40))
            labels[row, [0, bad % len(LABELS)]] = 1
            words[3] = f"bad{bad}"
        texts.append(" ".join(words))
    return texts, labels


def test_labels_to_reach_interpolates() -> None:
    labels = np.array([100, 200, 300])
    assert labels_to_reach(labels, np.array([0.1, 0.3, 0.5]), 0.2) == pytest.approx(150)
    assert labels_to_reach(labels, np.array([0.1, 0.3, 0.5]), 0.05) == 100
    assert labels_to_reach(labels, np.array([0.1, 0.3, 0.5]), 0.6) is None
    plan = Plan(start=100, per_round=100, rounds=2, seeds=1)
    outcome = Outcome(plan, active=np.array([[0.1, 0.3, 0.4]]), random=np.array([[0.1, 0.2, 0.3]]))
    assert outcome.labels_needed() == 200


def test_simulate_active_learning_needs_fewer_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulation, "HELD_OUT", 1_000)
    plan = Plan(start=200, per_round=100, rounds=3, seeds=2)
    reported: list[tuple[str, int]] = []
    outcome = simulate(
        Comments(*comments(4_000)), plan, lambda strategy, seed, pr_auc: reported.append((strategy, seed))
    )
    assert outcome.active.shape == outcome.random.shape == (2, 4)
    assert reported == [
        (strategy, seed) for strategy in ("active", "random") for seed in (0, 1) for _ in range(4)
    ]
    np.testing.assert_array_equal(outcome.active[:, 0], outcome.random[:, 0])
    assert outcome.active[:, -1].mean() > outcome.random[:, -1].mean()
    needed = outcome.labels_needed()
    assert needed is not None
    assert needed < plan.labels[-1]


def test_simulate_learning_prints_and_plots_curves(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(simulation, "HELD_OUT", 500)
    lines = ["id,comment_text," + ",".join(LABELS)]
    lines += [
        f"{k},{text},{','.join(map(str, y))}"
        for k, (text, y) in enumerate(zip(*comments(2_000), strict=True))
    ]
    path = tmp_path / "comments.csv"
    path.write_text("\n".join(lines))
    options = ("--start", "200", "--per-round", "100", "--rounds", "1", "--seeds", "1")
    call_command("simulate_learning", str(path), *options, "--plot", str(tmp_path / "plot.svg"))
    out = capsys.readouterr().out
    assert out.splitlines()[0].split()[:3] == ["labels", "active", "random"]
    assert "of those added to the initial ones" in out or "does not reach" in out
    assert (tmp_path / "plot.svg").read_text().rstrip().endswith("</svg>")
    with pytest.raises(CommandError, match="too few"):
        call_command("simulate_learning", str(path))
