"""The simulation of what the loop's choice is worth."""

from pathlib import Path

import numpy as np
import pytest
from django.core.management import CommandError, call_command

from apps.classifier.labels import LABELS
from apps.training import simulation
from apps.training.simulation import Comments, Outcome, Plan, reached, simulate


def comments(count: int) -> tuple[list[str], np.ndarray]:
    """Made-up comments of which few are toxic, each kind of toxic told by a word of its own."""
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


def test_where_a_curve_reaches_a_level() -> None:
    labels = np.array([100, 200, 300])
    assert reached(labels, np.array([0.1, 0.3, 0.5]), 0.2) == pytest.approx(150)
    assert reached(labels, np.array([0.1, 0.3, 0.5]), 0.05) == 100
    assert reached(labels, np.array([0.1, 0.3, 0.5]), 0.6) is None
    plan = Plan(start=100, per_round=100, rounds=2, seeds=1)
    outcome = Outcome(plan, loop=np.array([[0.1, 0.3, 0.4]]), chance=np.array([[0.1, 0.2, 0.3]]))
    assert outcome.needed() == 200


def test_the_loops_choice_learns_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulation, "HELD_OUT", 1_000)
    plan = Plan(start=200, per_round=100, rounds=3, seeds=2)
    heard: list[tuple[str, int]] = []
    outcome = simulate(Comments(*comments(4_000)), plan, lambda way, seed, found: heard.append((way, seed)))
    assert outcome.loop.shape == outcome.chance.shape == (2, 4)
    assert heard == [(way, seed) for way in ("loop", "random") for seed in (0, 1) for _ in range(4)]
    np.testing.assert_array_equal(outcome.loop[:, 0], outcome.chance[:, 0])
    assert outcome.loop[:, -1].mean() > outcome.chance[:, -1].mean()
    needed = outcome.needed()
    assert needed is not None
    assert needed < plan.labels[-1]


def test_the_command_prints_curves_and_draws_them(
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
    assert out.splitlines()[0].split()[:3] == ["labels", "loop", "random"]
    assert "of those beyond the start" in out or "does not reach" in out
    assert (tmp_path / "plot.svg").read_text().rstrip().endswith("</svg>")
    with pytest.raises(CommandError, match="too few"):
        call_command("simulate_learning", str(path))
