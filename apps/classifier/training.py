"""Fits a model on texts and labels. The app `training` and the benchmark call `fit`."""

import platform
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import numpy as np
from scipy.special import expit

from .artifact import Artifact, build_lookup, pack_nodes
from .augmentation import AugmentedRows, augment
from .baselines import Baseline, fit_baseline
from .bias_audit import GROUPS, IDENTITIES
from .config import TrainingConfig
from .evaluation import choose_thresholds
from .features import HashedNgrams
from .kernels.layout import LABEL_COUNT, STACKING_NAMES, ScorerArrays, Stacking
from .labels import LABELS
from .linear import fit_logistic, naive_bayes_log_ratios
from .normalise import normalise
from .reading import Head, Readings, fit_head
from .second_stage import Trees, fit_calibration, fit_trees, stacking_matrix, with_trees

Progress = Callable[[str, float], None]
MIN_TEXTS = 100


@dataclass(frozen=True)
class TwoLevelModel:
    """The fitted model of the recipe `two_level`, and the scikit-learn parts it was made from."""

    arrays: ScorerArrays
    thresholds: np.ndarray  # (labels,)
    threshold_rules: list[str]  # how each threshold was chosen
    ngrams: HashedNgrams
    trees: Trees
    config: TrainingConfig
    rows: int
    head: Head | None = None  # None if no encoder reads

    def predict_proba(self, texts: Sequence[str]) -> np.ndarray:
        """Return the first level's (n, labels) probabilities by sparse matrix and scikit-learn.

        Tests compare the scorer with it.
        """
        inputs = stacking_matrix(self.arrays, texts)
        weights = self.arrays.weights[:, :LABEL_COUNT] * self.arrays.scale
        inputs[:, :LABEL_COUNT] = self.ngrams.transform(texts) @ weights + self.arrays.intercept
        return expit(self.trees.logits(inputs) * self.arrays.slope + self.arrays.offset)

    def artifact(self, **metadata: Any) -> Artifact:
        """Return the model as an artifact.

        Args:
            metadata: Further entries of the manifest: name, dataset_sha256, git_commit, metrics.
        """
        environment = {
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "libraries": {name: version(name) for name in ("numpy", "numba", "scipy", "scikit-learn")},
            "python": platform.python_version(),
            "settings": asdict(self.config) | {"min_df": self.ngrams.min_df, "rows": self.rows},
            "threshold_rules": dict(zip(LABELS, self.threshold_rules, strict=True)),
        }
        if self.head:
            environment["encoder"] = self.head.describe()
        return Artifact.build(self.arrays, self.thresholds, environment | metadata)


def fit(
    texts: Sequence[str],
    labels: np.ndarray,
    config: TrainingConfig | None = None,
    *,
    sample_weight: np.ndarray | None = None,
    readings: Readings | None = None,
    progress: Progress | None = None,
) -> TwoLevelModel | Baseline:
    """Fit a recipe.

    Args:
        labels: (n, labels) of 0 or 1.
        config: The defaults of `TrainingConfig` if None.
        sample_weight: (n,) weight of each row; `evaluation.natural_weights` give calibration and thresholds
            for the natural rate of labels.
        readings: The encoder's logits; without them, the model scores by words only.
        progress: Called with each stage's name and the completed fraction.

    Raises:
        ValueError: An input has the wrong shape, or there are fewer than 100 texts.
    """
    config = config or TrainingConfig()
    labels = np.ascontiguousarray(labels, dtype=np.int8)
    if labels.shape != (len(texts), LABEL_COUNT) or np.any((labels != 0) & (labels != 1)):
        raise ValueError(f"labels must be 0 or 1 in shape ({len(texts)}, {LABEL_COUNT}), not {labels.shape}")
    if len(texts) < MIN_TEXTS:
        raise ValueError(f"{len(texts)} texts are too few to train on: give at least {MIN_TEXTS}")
    weight = np.ones(len(texts)) if sample_weight is None else np.asarray(sample_weight, float)
    if weight.shape != (len(texts),) or not np.all(weight >= 0):
        raise ValueError(f"sample_weight must be {len(texts)} numbers of at least 0")
    report = progress or (lambda stage, fraction: None)
    if config.recipe == "two_level":
        return _fit_two_level(list(texts), labels, weight, config, readings, report)
    report("fit", 0.0)
    return fit_baseline(config.recipe, texts, labels)


def _fit_two_level(
    texts: list[str],
    labels: np.ndarray,
    weight: np.ndarray,
    config: TrainingConfig,
    readings: Readings | None,
    report: Progress,
) -> TwoLevelModel:
    report("features", 0.0)
    rows = augment(texts, labels, weight, config)
    min_df = np.clip(len(texts) / config.texts_per_min_df, config.smallest_min_df, config.largest_min_df)
    ngrams = HashedNgrams(min_df=int(min_df)).fit(rows.texts)
    arrays, inputs = _fit_first_stage(rows, ngrams, config, report)
    out_of_fold = np.empty((len(texts), LABEL_COUNT))
    half = rows.folds % 2 == 0
    for k, part in enumerate((half, ~half)):
        report("second stage", 0.6 + 0.1 * k)
        trees = fit_trees(inputs[~part], rows, ~part, config)
        held_out = part[: len(texts)]
        out_of_fold[held_out] = trees.logits(inputs[: len(texts)][held_out])
    report("second stage", 0.8)
    trees = fit_trees(inputs, rows, np.ones(len(inputs), bool), config)
    slope, offset = fit_calibration(out_of_fold, labels, weight, config)
    arrays = with_trees(arrays, trees)._replace(slope=slope, offset=offset)
    logits, head = out_of_fold * slope + offset, None
    thresholds, rules = _choose_thresholds(logits, labels, weight, config)
    if readings:
        report("reading", 0.85)
        head, rows_read, read = _fit_head(texts, labels, weight, logits, readings, config)
        of_read = _choose_thresholds(read, labels[rows_read], weight[rows_read], config)
        for label in np.flatnonzero(labels[rows_read].sum(axis=0) >= config.min_read_positives):
            thresholds[label], rules[label] = of_read[0][label], of_read[1][label]
    report("done", 1.0)
    return TwoLevelModel(arrays, thresholds, rules, ngrams, trees, config, len(texts), head)


def _choose_thresholds(
    logits: np.ndarray, labels: np.ndarray, weight: np.ndarray, config: TrainingConfig
) -> tuple[np.ndarray, list[str]]:
    return choose_thresholds(
        labels,
        expit(logits),
        weight,
        precision=config.target_precision,
        min_recall=config.min_recall,
        min_positives=config.min_positives,
    )


def _fit_head(
    texts: list[str],
    labels: np.ndarray,
    weight: np.ndarray,
    first: np.ndarray,
    readings: Readings,
    config: TrainingConfig,
) -> tuple[Head, np.ndarray, np.ndarray]:
    """Return the head, the rows that the encoder was not trained on, and their combined logits."""
    rows = readings.unseen(texts)
    logits = readings.logits([texts[row] for row in rows])
    characters = np.array([len(texts[row]) for row in rows])
    head = fit_head(readings.sha256, first[rows], logits, labels[rows], weight[rows], characters, config)
    return head, rows, head.combine(first[rows], logits, characters)


def _fit_first_stage(
    rows: AugmentedRows, ngrams: HashedNgrams, config: TrainingConfig, report: Progress
) -> tuple[ScorerArrays, np.ndarray]:
    """Return the linear model of all rows, and the stacking features of each by a model of other folds."""
    indices, indptr = ngrams.indices(rows.texts)
    identities = np.unique(ngrams.indices(IDENTITIES + GROUPS)[0])
    label_cost = np.array(config.label_cost, np.float32)

    def fit_linear(part: np.ndarray) -> ScorerArrays:
        y, cost = rows.labels[part], rows.cost[part]
        prior = naive_bayes_log_ratios(indices, indptr, part, y, cost, len(ngrams.counts_)) ** 2
        prior[identities, 0] *= config.identity_prior
        weights, intercept = fit_logistic(
            indices,
            indptr,
            part,
            y,
            label_cost * cost,
            prior,
            passes=config.solver_passes,
            tolerance=config.solver_tolerance,
            seed=config.seed,
        )
        return _linear_arrays(ngrams.bits_, weights, intercept)

    inputs = np.empty((len(rows.texts), len(STACKING_NAMES)), np.float32)
    for fold in range(config.folds):
        report("first stage", 0.1 + 0.1 * fold)
        held_out = np.flatnonzero(rows.folds == fold)
        arrays = fit_linear(np.flatnonzero(rows.folds != fold))
        inputs[held_out] = stacking_matrix(arrays, [rows.texts[i] for i in held_out])
    report("first stage", 0.1 + 0.1 * config.folds)
    return fit_linear(np.arange(len(rows.texts))), inputs


def _linear_arrays(bits: np.ndarray, weights: np.ndarray, intercept: np.ndarray) -> ScorerArrays:
    """Return a model of the first stage only, with weights rounded to 16 bits."""
    scale = np.maximum(np.abs(weights).max(axis=0, initial=0), 1e-9).astype(np.float64) / 32767
    rounded = np.zeros((len(weights), 8), np.int16)
    rounded[:, :LABEL_COUNT] = np.rint(weights / scale)
    empty, zeros = np.zeros(0, np.int32), np.zeros(LABEL_COUNT)
    return ScorerArrays(
        lookup=build_lookup(bits),
        weights=rounded,
        scale=scale,
        intercept=intercept,
        roots=empty,
        tree_end=zeros.astype(np.int32),
        nodes=pack_nodes(empty, empty, empty),
        node_value=empty.astype(np.float64),
        base=zeros,
        slope=np.ones(LABEL_COUNT),
        offset=zeros,
    )


def top_features(
    arrays: ScorerArrays, texts: Sequence[str], *, count: int = 20, min_df: int = 20
) -> dict[str, list[tuple[str, float]]]:
    """Return for each label the `count` words with the highest sum of n-gram weights, and the sums.

    Only words that occur in at least `min_df` of the texts are considered.
    """
    frequencies = Counter(word for text in texts for word in set(normalise(text)[0].split()))
    words = sorted(word for word, frequency in frequencies.items() if frequency >= min_df)
    sums = stacking_matrix(arrays, words)[:, Stacking.WORD :] if words else np.empty((0, LABEL_COUNT))
    return {
        label: [(words[i], float(sums[i, k])) for i in np.argsort(-sums[:, k], kind="stable")[:count]]
        for k, label in enumerate(LABELS)
    }
