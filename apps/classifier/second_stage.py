"""The second stage of the model: boosted trees over the stacking features, and their calibration."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import logit
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression

from .artifact import pack_nodes
from .augmentation import AugmentedRows
from .config import TrainingConfig
from .features import batches
from .kernels.layout import LABEL_COUNT, STACKING_NAMES, ScorerArrays
from .kernels.scoring import MAX_DEPTH, stacking_features_of_texts
from .normalise import table

# The other labels recognize groups by their names. The trees of `toxic` do not use their logits, so that the
# name of a group does not make a comment toxic.
_OTHER_LABELS = [k for k, name in enumerate(STACKING_NAMES) if name[-2:] in ("_1", "_2", "_3", "_4", "_5")]


@dataclass(frozen=True)
class Trees:
    """The fitted trees of every label. Inputs are binned once for all labels."""

    boosters: list[
        HistGradientBoostingClassifier | None
    ]  # None for a label with too few positives or negatives
    base: np.ndarray  # (labels,) logit to which the trees' values are added
    edges: np.ndarray  # (inputs, bins - 2) float32

    def logits(self, inputs: np.ndarray) -> np.ndarray:
        """Return the (n, labels) uncalibrated logits."""
        bins = _bin(inputs, self.edges)
        return np.column_stack(
            [
                np.full(len(inputs), base) if booster is None else booster.decision_function(bins)
                for booster, base in zip(self.boosters, self.base, strict=True)
            ]
        )


def stacking_matrix(model: ScorerArrays, texts: Sequence[str]) -> np.ndarray:
    """Return the (n, inputs) float32 inputs of the second stage, computed by the scorer's own kernel."""
    inputs = np.empty((len(texts), len(STACKING_NAMES)), np.float32)
    last_seen = np.zeros(len(model.weights), np.uint32)
    stamp = 0
    for first, codes, ends, workspace in batches(texts):
        if stamp + len(codes) + len(ends) >= 1 << 32:
            last_seen[:], stamp = 0, 0
        rows = inputs[first : first + len(ends)]
        stamp = stacking_features_of_texts(codes, ends, table(), workspace, model, last_seen, stamp, rows)
    return inputs


def _bin(inputs: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Return, for each input (n, inputs), how many edges of its column are below it."""
    columns = [np.searchsorted(edges[k], inputs[:, k]) for k in range(len(edges))]
    return np.column_stack(columns).astype(np.float32)


def fit_trees(inputs: np.ndarray, rows: AugmentedRows, part: np.ndarray, config: TrainingConfig) -> Trees:
    """Fit the trees of every label.

    Args:
        inputs: (m, inputs) stacking features of the rows in `part`.
        part: (n,) bool, which of the rows to fit on.
    """
    boosters: list[HistGradientBoostingClassifier | None] = []
    base = np.empty(LABEL_COUNT)
    size_limit = max(20, len(inputs) // 200)
    highest = inputs[:, :LABEL_COUNT].max(axis=1)
    is_unlikely = (highest < np.quantile(highest, config.unlikely_quantile)) & ~rows.labels[part].any(axis=1)
    is_selected = ~is_unlikely | (np.arange(len(inputs)) % config.unlikely_interval == 0)
    factors = np.where(is_unlikely, config.unlikely_interval, 1)
    quantiles = np.linspace(0, 1, config.max_bins)[1:-1]
    edges = np.quantile(inputs[is_selected], quantiles, axis=0).T.astype(np.float32).copy()
    bins = _bin(inputs, edges)
    for label in range(LABEL_COUNT):
        rows_used = is_selected & (rows.weight[part, label] > 0)
        y, weight = rows.labels[part, label][rows_used], (rows.weight[part, label] * factors)[rows_used]
        if min(y.sum(), len(y) - y.sum()) < config.min_positives:
            boosters.append(None)
            base[label] = logit((np.sum(weight * y) + 0.5) / (weight.sum() + 1))
            continue
        is_rare = y.sum() < config.rare_positives
        booster = HistGradientBoostingClassifier(
            learning_rate=config.learning_rate,
            max_iter=min(size_limit, config.max_trees_rare if is_rare else config.max_trees),
            max_leaf_nodes=config.max_leaves_rare if is_rare else config.max_leaves,
            max_depth=MAX_DEPTH,
            max_features=config.max_features,
            min_samples_leaf=config.min_samples_leaf,
            l2_regularization=config.l2_regularization,
            max_bins=config.max_bins,
            early_stopping=False,
            random_state=config.seed,
        )
        x = bins[rows_used]
        if label == 0:
            x[:, _OTHER_LABELS] = 0
        booster.fit(x, y, sample_weight=weight)
        boosters.append(booster)
        base[label] = booster._baseline_prediction.item()
    return Trees(boosters, base, edges)


def fit_calibration(
    logits: np.ndarray, labels: np.ndarray, weight: np.ndarray, config: TrainingConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Return slope and offset per label (Platt scaling).

    The logits are those of rows on which the trees were not fitted.

    Source: Platt, "Probabilistic outputs for support vector machines", 1999.
    """
    slope, offset = np.ones(LABEL_COUNT), np.zeros(LABEL_COUNT)
    for label in range(LABEL_COUNT):
        y = labels[:, label]
        if min(y.sum(), len(y) - y.sum()) < config.min_positives:
            continue
        regression = LogisticRegression(C=1e6).fit(logits[:, [label]], y, sample_weight=weight)
        slope[label], offset[label] = regression.coef_.item(), regression.intercept_.item()
    return slope, offset


def with_trees(model: ScorerArrays, trees: Trees) -> ScorerArrays:
    """Add fitted trees to a model, breadth first: siblings are neighbours, a leaf is its own left child."""
    roots, tree_end = [], []
    columns: list[int] = []
    thresholds: list[float] = []
    left: list[int] = []
    values: list[float] = []
    for booster in trees.boosters:
        for (predictor,) in booster._predictors if booster is not None else []:
            roots.append(len(columns))
            queue = [0]
            for position, index in enumerate(queue):
                node = predictor.nodes[index]
                if node["is_leaf"]:
                    columns.append(0)
                    thresholds.append(np.inf)
                    left.append(roots[-1] + position)
                    values.append(float(node["value"]))
                else:
                    columns.append(int(node["feature_idx"]))
                    thresholds.append(trees.edges[node["feature_idx"], int(node["num_threshold"])])
                    left.append(roots[-1] + len(queue))
                    values.append(0.0)
                    queue += [int(node["left"]), int(node["right"])]
        tree_end.append(len(roots))
    return model._replace(
        roots=np.array(roots, np.int32),
        tree_end=np.array(tree_end, np.int32),
        base=trees.base,
        nodes=pack_nodes(np.array(columns), np.array(thresholds, np.float32), np.array(left)),
        node_value=np.array(values, np.float64),
    )
