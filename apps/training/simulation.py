"""Simulation of active learning: how many labels it saves, with labelled comments as the moderator."""

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
MIN_DF = 20
THRESHOLDS = np.full(len(LABELS), 0.5)

Progress = Callable[[str, int, float], None]


@dataclass(frozen=True)
class Plan:
    """The size of a simulation: initial labels, labels per round, rounds and repetitions."""

    start: int = 2_000
    per_round: int = 500
    rounds: int = 10
    seeds: int = 3

    @property
    def labels(self) -> np.ndarray:
        """The (rounds + 1,) numbers of labels after each round."""
        return self.start + self.per_round * np.arange(self.rounds + 1)


@dataclass(frozen=True)
class Outcome:
    """Mean PR-AUC on held-out comments, (seeds, rounds + 1), for both strategies."""

    plan: Plan
    active: np.ndarray
    random: np.ndarray

    def labels_needed(self) -> float | None:
        """Return with how many labels active learning reaches the result of random selection, or None."""
        return labels_to_reach(
            self.plan.labels, self.active.mean(axis=0), float(self.random.mean(axis=0)[-1])
        )


def labels_to_reach(labels: np.ndarray, curve: np.ndarray, level: float) -> float | None:
    """Return the number of labels at which a curve first reaches a level, by linear interpolation."""
    above = np.flatnonzero(curve >= level)
    if not len(above):
        return None
    k = int(above[0])
    if k == 0:
        return float(labels[0])
    fraction = (level - curve[k - 1]) / (curve[k] - curve[k - 1])
    return float(labels[k - 1] + fraction * (labels[k] - labels[k - 1]))


class Comments:
    """Labelled comments and their features, which are computed once for all rounds."""

    def __init__(self, texts: Sequence[str], labels: np.ndarray) -> None:
        self.labels = np.ascontiguousarray(labels, np.int8)
        ngrams = HashedNgrams(min_df=MIN_DF).fit(texts)
        self.matrix = ngrams.transform(texts)
        self.keys = np.array([triage.minhash(text.lower()) for text in texts], np.int64)

    def __len__(self) -> int:
        return len(self.labels)

    def fit(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Fit the first stage of `two_level` without augmentation."""
        indices, indptr = self.matrix.indices, self.matrix.indptr
        y = self.labels[rows]
        cost = np.ones(y.shape, np.float32)
        prior = naive_bayes_log_ratios(indices, indptr, rows, y, cost, self.matrix.shape[1]) ** 2
        return fit_logistic(indices, indptr, rows, y, 2 * cost, prior)

    def score(self, model: tuple[np.ndarray, np.ndarray], rows: np.ndarray) -> np.ndarray:
        """Return the (n, labels) probabilities of rows."""
        weights, intercept = model
        return expit(self.matrix[rows] @ weights + intercept)


def simulate(comments: Comments, plan: Plan, progress: Progress) -> Outcome:
    """Label comments in rounds, with active learning and with random selection.

    For each seed 10,000 comments are held out, and up to 30,000 others at the natural rate are the traffic.
    Both strategies start from the same labels. PR-AUC is weighted to the natural rate.

    Args:
        progress: is called with the strategy, the seed and the PR-AUC of each round.

    Raises:
        ValueError: there are too few comments for the plan.
    """
    if len(comments) < HELD_OUT + 2 * plan.labels[-1]:
        raise ValueError(f"{len(comments)} comments are too few: give {HELD_OUT + 2 * plan.labels[-1]:,}.")
    curves = {
        strategy: np.array([_run(comments, plan, seed, strategy, progress) for seed in range(plan.seeds)])
        for strategy in ("active", "random")
    }
    return Outcome(plan, **curves)


def _run(comments: Comments, plan: Plan, seed: int, strategy: str, progress: Progress) -> list[float]:
    rng = np.random.default_rng(seed)
    rows = rng.permutation(len(comments))
    held_out, rest = rows[:HELD_OUT], rows[HELD_OUT:]
    weights = natural_weights(comments.labels)
    pool = rest[rng.random(len(rest)) < weights[rest] / weights.max()][:POOL]
    labelled, unlabelled = pool[: plan.start], pool[plan.start :]
    curve = []
    for number in range(plan.rounds + 1):
        model = comments.fit(labelled)
        metrics = evaluate(
            comments.labels[held_out], comments.score(model, held_out), THRESHOLDS, weights[held_out]
        )
        pr_auc = metrics["mean"]["pr_auc"]
        assert pr_auc is not None
        curve.append(pr_auc)
        progress(strategy, seed, pr_auc)
        if number == plan.rounds:
            break
        selected = rng.permutation(len(unlabelled))[: plan.per_round]
        if strategy == "active":
            selections = select(
                comments.score(model, unlabelled),
                THRESHOLDS,
                count=plan.per_round,
                keys=comments.keys[unlabelled].tolist().__getitem__,
                seed=seed * plan.rounds + number,
            )
            selected = np.array([selection.row for selection in selections])
        labelled = np.concatenate([labelled, unlabelled[selected]])
        unlabelled = np.delete(unlabelled, selected)
    return curve
