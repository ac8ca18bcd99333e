"""What a version must show before it may become champion, on rows that neither of them has learned."""

import statistics
import time
from collections.abc import Sequence
from typing import TypedDict

import numpy as np
from tqdm import tqdm

from apps.classifier.evaluation import calibration_error, evaluate
from apps.classifier.labels import LABELS
from apps.classifier.scorer import Scorer
from apps.registry.models import Alias, EvaluationArtifact, ModelVersion
from apps.training import datasets
from apps.training.datasets import Rows
from apps.training.models import Dataset

MAX_AUC_LOSS = 0.001
MAX_CALIBRATION_ERROR = 0.02
MAX_LATENCY_US = 500.0
LATENCY_TEXTS = 500
DRAWS = 200
CHUNK = 2_048
Figures = dict[str, dict[str, float | None]]


class Gate(TypedDict):
    """One demand: the figure measured, the bound it is held to, and the verdict."""

    name: str
    figure: float | None
    bound: float | None
    passed: bool


def twin(version: ModelVersion) -> Scorer:
    """Return the version's twin that has not learned the held-out rows, or the version itself if it has none.

    Raises:
        ArtifactError: the stored bytes are damaged.
    """
    stored = EvaluationArtifact.objects.filter(version=version).first() or version.modelartifact
    return Scorer.load(stored.artifact())


def score_all(scorer: Scorer, texts: Sequence[str]) -> np.ndarray:
    """Return (n, 6) probabilities, showing progress."""
    chunks = [texts[first : first + CHUNK] for first in range(0, max(len(texts), 1), CHUNK)]
    bar = tqdm(chunks, desc="Scoring", leave=False, disable=None)
    return np.concatenate([scorer.score_many(chunk) for chunk in bar])


def verdicts(version: ModelVersion) -> list[Gate]:
    """Judge a version against the champion on the held-out rows of the data set imported last.

    Without a data set, or with its file missing, the only gate is that there are rows, and it is not passed.
    Without a champion the ROC-AUC has no bound.

    Raises:
        ArtifactError: a stored artifact is damaged.
    """
    dataset = Dataset.objects.newest()
    if dataset is None or not dataset.path.is_file():
        return [Gate(name="rows to judge on: import a data set", figure=0, bound=1, passed=False)]
    rows = datasets.read(dataset.path, clean_weight=dataset.clean_weight)
    rows = rows.take(rows.parts()[1])
    served = Scorer.load(version.modelartifact.artifact(), expected_sha256=version.sha256)

    def figures(scorer: Scorer, probabilities: np.ndarray) -> Figures:
        return evaluate(rows.labels, probabilities, scorer.thresholds, rows.weights)

    challenger = twin(version)
    probabilities = score_all(challenger, rows.texts)
    own = figures(challenger, probabilities)
    best = None
    if champion := ModelVersion.objects.with_alias(Alias.CHAMPION):
        scorer = twin(champion)
        best = figures(scorer, score_all(scorer, rows.texts))["mean"]["roc_auc"]
    return [
        _at_least("mean ROC-AUC", own["mean"]["roc_auc"], best and best - MAX_AUC_LOSS),
        _calibration(own, rows, probabilities),
        _at_most("median µs per comment", latency_us(served, rows.texts[:LATENCY_TEXTS]), MAX_LATENCY_US),
    ]


def _calibration(figures: Figures, rows: Rows, probabilities: np.ndarray) -> Gate:
    """Judge the label that is furthest above its bound, which on few rows allows for chance.

    The bound is what a perfectly calibrated model would exceed on these rows once in a hundred times, if that
    is more than `MAX_CALIBRATION_ERROR`.
    """
    weights = np.ones(len(rows)) if rows.weights is None else rows.weights
    chance = np.random.default_rng(0)
    gates = []
    for column, label in enumerate(LABELS):
        p = probabilities[:, column]
        drawn = [calibration_error(chance.random(len(p)) < p, p, weights) for _ in range(DRAWS)]
        bound = max(MAX_CALIBRATION_ERROR, float(np.quantile(drawn, 0.99)))
        gates.append(_at_most(f"calibration error ({label})", figures[label]["ece"], bound))
    return max(gates, key=lambda gate: (gate["figure"] or 0.0) - (gate["bound"] or 0.0))


def latency_us(scorer: Scorer, texts: Sequence[str]) -> float | None:
    """Return the median microseconds of scoring one comment, or None without comments."""
    seconds = []
    for text in texts:
        start = time.perf_counter()
        scorer.score(text)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds) * 1e6 if seconds else None


def _at_least(name: str, figure: float | None, bound: float | None) -> Gate:
    return Gate(
        name=name,
        figure=figure,
        bound=bound,
        passed=figure is not None and (bound is None or figure >= bound),
    )


def _at_most(name: str, figure: float | None, bound: float) -> Gate:
    return Gate(name=name, figure=figure, bound=bound, passed=figure is not None and figure <= bound)
