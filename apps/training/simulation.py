"""How many labels the loop's choice of comments saves: a simulated moderator on labelled comments."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from apps.classifier.evaluation import evaluate, natural_weights
from apps.classifier.features import HashedNgrams
from apps.classifier.labels import LABELS
from apps.classifier.linear import fit_logistic, naive_bayes_log_ratios
from apps.classifier.selection import select
from apps.moderation import triage

HELD_OUT = 10_000
POOL = 30_000
FEWEST = 20  # comments that an n-gram must be in
THRESHOLDS = np.full(len(LABELS), 0.5)

Progress = Callable[[str, int, float], None]


@dataclass(frozen=True)
class Plan:
    """A simulation's size: labels to start from, labels a round, rounds, and repetitions."""

    start: int = 2_000
    per_round: int = 500
    rounds: int = 10
    seeds: int = 3

    @property
    def labels(self) -> np.ndarray:
        """(rounds + 1,) how many labels there are after each round."""
        return self.start + self.per_round * np.arange(self.rounds + 1)


@dataclass(frozen=True)
class Outcome:
    """Mean PR-AUC on held-out comments, (seeds, rounds + 1), by the loop's choice and by random choice."""

    plan: Plan
    loop: np.ndarray
    chance: np.ndarray

    def needed(self) -> float | None:
        """How many labels the loop needs for what chance reaches in the end, or None if it never does."""
        return reached(self.plan.labels, self.loop.mean(axis=0), float(self.chance.mean(axis=0)[-1]))


def reached(labels: np.ndarray, curve: np.ndarray, level: float) -> float | None:
    """Return at how many labels a curve first reaches a level, between its points by a straight line."""
    above = np.flatnonzero(curve >= level)
    if not len(above):
        return None
    k = int(above[0])
    if k == 0:
        return float(labels[0])
    share = (level - curve[k - 1]) / (curve[k] - curve[k - 1])
    return float(labels[k - 1] + share * (labels[k] - labels[k - 1]))


class Comments:
    """Labelled comments as features, made once for all rounds."""

    def __init__(self, texts: Sequence[str], labels: np.ndarray) -> None:
        self.labels = np.ascontiguousarray(labels, np.int8)
        ngrams = HashedNgrams(min_df=FEWEST).fit(texts)
        self.matrix = ngrams.transform(texts)
        self.keys = np.array([triage.minhash(text.lower()) for text in texts], np.int64)

    def __len__(self) -> int:
        return len(self.labels)

    def fit(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Fit the base recipe's first level, without its template sentences and disguised copies."""
        indices, indptr = self.matrix.indices, self.matrix.indptr
        y = self.labels[rows]
        cost = np.ones(y.shape, np.float32)
        prior = naive_bayes_log_ratios(indices, indptr, rows, y, cost, self.matrix.shape[1]) ** 2
        return fit_logistic(indices, indptr, rows, y, 2 * cost, prior)

    def score(self, model: tuple[np.ndarray, np.ndarray], rows: np.ndarray) -> np.ndarray:
        """Return the probabilities (n, 6) of rows."""
        weights, intercept = model
        return expit(self.matrix[rows] @ weights + intercept)


def simulate(comments: Comments, plan: Plan, progress: Progress) -> Outcome:
    """Let a simulated moderator answer what is asked, once as the loop asks and once at random.

    For each seed 10,000 comments are held out and up to 30,000 others, at the natural rate, are the traffic;
    both ways start from the same labels. PR-AUC is weighted to the natural rate.

    Args:
        progress: is told the way, the seed and the PR-AUC of each round.

    Raises:
        ValueError: there are too few comments for the plan.
    """
    if len(comments) < HELD_OUT + 2 * plan.labels[-1]:
        raise ValueError(f"{len(comments)} comments are too few: give {HELD_OUT + 2 * plan.labels[-1]:,}.")
    curves = {
        way: np.array([_run(comments, plan, seed, way == "loop", progress) for seed in range(plan.seeds)])
        for way in ("loop", "chance")
    }
    return Outcome(plan, **curves)


def _run(comments: Comments, plan: Plan, seed: int, by_loop: bool, progress: Progress) -> list[float]:
    rng = np.random.default_rng(seed)
    rows = rng.permutation(len(comments))
    tested, rest = rows[:HELD_OUT], rows[HELD_OUT:]
    weights = natural_weights(comments.labels)
    pool = rest[rng.random(len(rest)) < weights[rest] / weights.max()][:POOL]
    known, unseen = pool[: plan.start], pool[plan.start :]
    curve = []
    for number in range(plan.rounds + 1):
        model = comments.fit(known)
        found = evaluate(comments.labels[tested], comments.score(model, tested), THRESHOLDS, weights[tested])[
            "mean"
        ]["pr_auc"]
        assert found is not None
        curve.append(found)
        progress("loop" if by_loop else "random", seed, found)
        if number == plan.rounds:
            break
        chosen = rng.permutation(len(unseen))[: plan.per_round]
        if by_loop:
            asked = select(
                comments.score(model, unseen),
                THRESHOLDS,
                count=plan.per_round,
                keys=comments.keys[unseen],
                seed=seed * plan.rounds + number,
            )
            chosen = np.array([choice.row for choice in asked])
        known = np.concatenate([known, unseen[chosen]])
        unseen = np.delete(unseen, chosen)
    return curve
