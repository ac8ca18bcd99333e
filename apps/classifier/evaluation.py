"""Quality metrics of probabilities, per label and on average, and the choice of thresholds."""

from typing import Any

import numpy as np

from .labels import LABELS

METRICS = ("roc_auc", "pr_auc", "precision", "recall", "f1", "brier", "ece")
# Weight of a row without labels: the Jigsaw sample of this project has too few such rows by this factor.
CLEAN_WEIGHT = 1.87


def natural_weights(labels: np.ndarray, clean: float = CLEAN_WEIGHT) -> np.ndarray:
    """Return (n,) float64 weights that give rows without any label their share in the whole Jigsaw set."""
    return np.where(np.asarray(labels).any(axis=1), 1.0, clean)


def evaluate(
    labels: np.ndarray, probabilities: np.ndarray, thresholds: np.ndarray, weights: np.ndarray | None = None
) -> dict[str, dict[str, float | None]]:
    """Return the metrics by label, and their means under "mean".

    Args:
        labels: (n, labels) of 0 or 1.
        probabilities: (n, labels).
        thresholds: (labels,).
        weights: (n,), for all metrics except ROC-AUC, which does not depend on the rate of a label.

    Returns:
        For each label and metric its value, or None if it is undefined because the label has no positives or
        no negatives. Undefined values are not part of the mean.
    """
    weights = np.ones(len(labels)) if weights is None else np.asarray(weights, float)
    result: dict[str, dict[str, float | None]] = {
        label: _evaluate_label(labels[:, k], probabilities[:, k], float(thresholds[k]), weights)
        for k, label in enumerate(LABELS)
    }
    rows = list(result.values())
    result["mean"] = {}
    for metric in METRICS:
        values = [value for row in rows if (value := row[metric]) is not None]
        result["mean"][metric] = float(np.mean(values)) if values else None
    return result


def _evaluate_label(
    y: np.ndarray, p: np.ndarray, threshold: float, weights: np.ndarray
) -> dict[str, float | None]:
    # Serving imports this module without scikit-learn.
    from sklearn.metrics import average_precision_score, roc_auc_score

    y = np.asarray(y, bool)
    has_both = len(np.unique(y)) == 2
    predicted = p >= threshold
    hits, flagged, positive = weights[y & predicted].sum(), weights[predicted].sum(), weights[y].sum()
    return {
        "roc_auc": float(roc_auc_score(y, p)) if has_both else None,
        "pr_auc": float(average_precision_score(y, p, sample_weight=weights)) if has_both else None,
        "precision": float(hits / flagged) if flagged else None,
        "recall": float(hits / positive) if positive else None,
        "f1": float(2 * hits / (flagged + positive)) if flagged + positive else None,
        "brier": float(np.average((p - y) ** 2, weights=weights)) if len(y) else None,
        "ece": calibration_error(y, p, weights) if len(y) else None,
    }


def calibration_error(y: np.ndarray, p: np.ndarray, weights: np.ndarray, bins: int = 15) -> float:
    """Return the expected calibration error: the mean gap of predicted and observed rate over equal bins.

    Source: Naeini et al., "Obtaining well calibrated probabilities using Bayesian binning", AAAI 2015.
    """
    bin_of = np.minimum((p * bins).astype(int), bins - 1)
    gap = np.bincount(bin_of, weights * (p - y), bins)
    return float(np.abs(gap).sum() / weights.sum())


def choose_thresholds(
    labels: np.ndarray,
    probabilities: np.ndarray,
    weights: np.ndarray,
    precision: float = 0.75,
    min_recall: float = 0.25,
    min_positives: int = 1,
) -> tuple[np.ndarray, list[str]]:
    """Choose for each label the threshold of the highest recall at the wanted precision.

    Of thresholds with the same recall the most precise one is chosen. If the recall is below `min_recall`,
    the threshold with the best F1 is chosen instead. Labels with fewer than `min_positives` positives get
    0.5.

    Returns:
        The (labels,) thresholds, and the rule that each comes from.
    """
    thresholds, rules = np.full(len(LABELS), 0.5), ["default"] * len(LABELS)
    for k in range(len(LABELS)):
        order = np.argsort(-probabilities[:, k], kind="stable")
        p, y, w = probabilities[order, k], labels[order, k].astype(bool), weights[order]
        if y.sum() < min_positives:
            continue
        is_last_of_tie = np.append(p[1:] != p[:-1], True)
        hits, flagged = np.cumsum(w * y), np.cumsum(w)
        recall, precisions = hits / hits[-1], hits / flagged
        f1 = np.where(is_last_of_tie, 2 * hits / (flagged + hits[-1]), 0)
        valid = np.flatnonzero(is_last_of_tie & (precisions >= precision) & (recall >= min_recall))
        # `argmax` takes the first of equal recall: lower thresholds would only add false positives.
        best = valid[np.argmax(hits[valid])] if len(valid) else int(np.argmax(f1))
        rules[k] = f"recall at precision >= {precision}" if len(valid) else "best F1"
        next_lower = p[best + 1] if best + 1 < len(p) else 0.0
        thresholds[k] = (p[best] + next_lower) / 2
    return thresholds, rules


def paired_bootstrap(
    labels: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    weights: np.ndarray | None = None,
    *,
    draws: int = 200,
    seed: int = 0,
) -> dict[str, dict[str, tuple[float, float, float]]]:
    """Compare two models on the same resampled rows, so that the noise they share cancels out.

    Source: Efron and Tibshirani, "An introduction to the bootstrap", 1993.

    Args:
        labels: (n, labels) of 0 or 1.
        first: (n, labels) probabilities of one model.
        second: (n, labels) probabilities of the other.
        weights: (n,), for PR-AUC only, as in `evaluate`.

    Returns:
        For each label and metric ("roc_auc", "pr_auc") the difference first - second and the bounds of its 95
        % interval. Labels without positives or without negatives are missing.
    """
    count = len(labels)
    weights = np.ones(count) if weights is None else np.asarray(weights, float)
    rng = np.random.default_rng(seed)
    # The first element is the sample itself.
    multiplicities = [
        np.ones(count),
        *(np.bincount(rng.integers(count, size=count), minlength=count) for _ in range(draws)),
    ]
    result: dict[str, dict[str, tuple[float, float, float]]] = {}
    for column, label in enumerate(LABELS):
        y = np.asarray(labels[:, column], bool)
        if not y.any() or y.all():
            continue
        ranked_first, ranked_second = (_RankedRows(p[:, column], y, weights) for p in (first, second))
        differences = np.array(
            [np.subtract(ranked_first.areas(times), ranked_second.areas(times)) for times in multiplicities]
        )
        low, high = np.nanquantile(differences, [0.025, 0.975], axis=0)
        result[label] = {
            metric: (float(differences[0, k]), float(low[k]), float(high[k]))
            for k, metric in enumerate(("roc_auc", "pr_auc"))
        }
    return result


class _RankedRows:
    """Rows sorted by descending score, once for all resamples."""

    def __init__(self, scores: np.ndarray, y: np.ndarray, weights: np.ndarray) -> None:
        self.order = np.argsort(-scores, kind="stable")
        ranked = scores[self.order]
        self.first = np.flatnonzero(np.append(True, ranked[1:] != ranked[:-1]))
        self.y, self.weights = y[self.order], weights[self.order]

    def areas(self, multiplicity: np.ndarray) -> tuple[float, float]:
        """Return ROC-AUC and PR-AUC with each row counted `multiplicity` (n,) times; NaN if undefined."""
        times = multiplicity[self.order]
        hits = np.add.reduceat(times * self.y, self.first)
        misses = np.add.reduceat(times * ~self.y, self.first)
        if not hits.any() or not misses.any():
            return np.nan, np.nan
        before = np.cumsum(hits) - hits
        roc = float(np.sum(misses * (before + hits / 2)) / (hits.sum() * misses.sum()))
        weighted = times * self.weights
        hits = np.add.reduceat(weighted * self.y, self.first)
        flagged = np.maximum(np.cumsum(np.add.reduceat(weighted, self.first)), 1e-12)
        return roc, float(np.sum(hits * np.cumsum(hits) / flagged) / hits.sum())


def format_metrics(result: dict[str, dict[str, Any]]) -> str:
    """Return the result of `evaluate` as a plain-text table."""
    lines = [f"{'':14}" + "".join(f"{metric:>10}" for metric in METRICS)]
    for name, row in result.items():
        cells = (f"{row[m]:>10.4f}" if row[m] is not None else f"{'-':>10}" for m in METRICS)
        lines.append(f"{name:14}" + "".join(cells))
    return "\n".join(lines)
