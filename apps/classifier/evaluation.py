"""How good the probabilities are, per label and on average."""

from typing import Any

import numpy as np

from .labels import LABELS

METRICS = ("roc_auc", "pr_auc", "precision", "recall", "f1", "brier", "ece")
# The Jigsaw sample of this project holds too few clean rows by this factor; see its README.
CLEAN_WEIGHT = 1.87


def natural_weights(labels: np.ndarray, clean: float = CLEAN_WEIGHT) -> np.ndarray:
    """(n,) float64 weights that give rows without any label their share in the whole Jigsaw set."""
    return np.where(np.asarray(labels).any(axis=1), 1.0, clean)


def evaluate(
    labels: np.ndarray, probabilities: np.ndarray, thresholds: np.ndarray, weights: np.ndarray | None = None
) -> dict[str, dict[str, float | None]]:
    """Metrics by label, and their mean under "mean".

    `labels` (n, 6) 0/1, `probabilities` (n, 6), `thresholds` (6,), `weights` (n,) or None. The weights
    concern all metrics but ROC-AUC, which is comparable between samples as it is. A metric that is not
    defined (a label without positives or negatives) is None and left out of the mean.
    """
    weights = np.ones(len(labels)) if weights is None else np.asarray(weights, float)
    result: dict[str, dict[str, float | None]] = {
        label: _one(labels[:, k], probabilities[:, k], float(thresholds[k]), weights)
        for k, label in enumerate(LABELS)
    }
    rows = list(result.values())
    result["mean"] = {}
    for metric in METRICS:
        values = [value for row in rows if (value := row[metric]) is not None]
        result["mean"][metric] = float(np.mean(values)) if values else None
    return result


def _one(y: np.ndarray, p: np.ndarray, threshold: float, weights: np.ndarray) -> dict[str, float | None]:
    # Loaded on first use: only evaluation needs scikit-learn, serving does not.
    from sklearn.metrics import average_precision_score, roc_auc_score

    y = np.asarray(y, bool)
    both = len(np.unique(y)) == 2
    chosen = p >= threshold
    hits, flagged, positive = weights[y & chosen].sum(), weights[chosen].sum(), weights[y].sum()
    return {
        "roc_auc": float(roc_auc_score(y, p)) if both else None,
        "pr_auc": float(average_precision_score(y, p, sample_weight=weights)) if both else None,
        "precision": float(hits / flagged) if flagged else None,
        "recall": float(hits / positive) if positive else None,
        "f1": float(2 * hits / (flagged + positive)) if flagged + positive else None,
        "brier": float(np.average((p - y) ** 2, weights=weights)) if len(y) else None,
        "ece": calibration_error(y, p, weights) if len(y) else None,
    }


def calibration_error(y: np.ndarray, p: np.ndarray, weights: np.ndarray, bins: int = 15) -> float:
    """Expected calibration error: mean distance of predicted and observed rate over equal-width bins.

    Source: Naeini et al., "Obtaining well calibrated probabilities using Bayesian binning", AAAI 2015.
    """
    which = np.minimum((p * bins).astype(int), bins - 1)
    gap = np.bincount(which, weights * (p - y), bins)
    return float(np.abs(gap).sum() / weights.sum())


def choose_thresholds(
    labels: np.ndarray,
    probabilities: np.ndarray,
    weights: np.ndarray,
    precision: float = 0.75,
    least_recall: float = 0.25,
) -> tuple[np.ndarray, list[str]]:
    """Per label the threshold of the highest recall whose precision is at least `precision`.

    Of thresholds with that recall it is the most precise; where that recall is below `least_recall`, the
    threshold of the best F1 instead. Returns (6,) thresholds and the rule each came from.
    """
    thresholds, rules = np.full(len(LABELS), 0.5), ["default"] * len(LABELS)
    for k in range(len(LABELS)):
        order = np.argsort(-probabilities[:, k], kind="stable")
        p, y, w = probabilities[order, k], labels[order, k].astype(bool), weights[order]
        if not y.any():
            continue
        last = np.append(p[1:] != p[:-1], True)
        hits, flagged = np.cumsum(w * y), np.cumsum(w)
        recall, exact = hits / hits[-1], hits / flagged
        f1 = np.where(last, 2 * hits / (flagged + hits[-1]), 0)
        reached = np.flatnonzero(last & (exact >= precision) & (recall >= least_recall))
        # Of equal recall the first, where a label is easy to tell: going on would only flag what is clean.
        best = reached[np.argmax(hits[reached])] if len(reached) else int(np.argmax(f1))
        rules[k] = f"recall at precision >= {precision}" if len(reached) else "best F1"
        below = p[best + 1] if best + 1 < len(p) else 0.0
        thresholds[k] = (p[best] + below) / 2
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
    """By label and metric ("roc_auc", "pr_auc"): how much `first` is above `second`, and its 95 % interval.

    `labels` (n, 6) 0/1, `first` and `second` (n, 6) probabilities of the same rows. Both are measured on the
    same resampled rows, so that what they share cancels out (Efron and Tibshirani 1993). As in `evaluate`,
    `weights` concern PR-AUC only. A label without positives or negatives is left out.
    """
    count = len(labels)
    weights = np.ones(count) if weights is None else np.asarray(weights, float)
    rng = np.random.default_rng(seed)
    # The first draw is the sample itself.
    drawn = [
        np.ones(count),
        *(np.bincount(rng.integers(count, size=count), minlength=count) for _ in range(draws)),
    ]
    result: dict[str, dict[str, tuple[float, float, float]]] = {}
    for column, label in enumerate(LABELS):
        y = np.asarray(labels[:, column], bool)
        if not y.any() or y.all():
            continue
        one, two = (_Ranked(p[:, column], y, weights) for p in (first, second))
        rows = np.array([np.subtract(one.areas(each), two.areas(each)) for each in drawn])
        low, high = np.nanquantile(rows, [0.025, 0.975], axis=0)
        result[label] = {
            metric: (float(rows[0, k]), float(low[k]), float(high[k]))
            for k, metric in enumerate(("roc_auc", "pr_auc"))
        }
    return result


class _Ranked:
    """Rows in the order of falling scores, ties together, to measure many resamples of them quickly."""

    def __init__(self, scores: np.ndarray, y: np.ndarray, weights: np.ndarray) -> None:
        self.order = np.argsort(-scores, kind="stable")
        ranked = scores[self.order]
        self.first = np.flatnonzero(np.append(True, ranked[1:] != ranked[:-1]))
        self.y, self.weights = y[self.order], weights[self.order]

    def areas(self, times: np.ndarray) -> tuple[float, float]:
        """ROC-AUC and PR-AUC (average precision) where each row counts `times` (n,); NaN if undefined."""
        times = times[self.order]
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


def summary(result: dict[str, dict[str, Any]]) -> str:
    """The result of `evaluate` as a plain-text table."""
    lines = [f"{'':14}" + "".join(f"{metric:>10}" for metric in METRICS)]
    for name, row in result.items():
        cells = (f"{row[m]:>10.4f}" if row[m] is not None else f"{'-':>10}" for m in METRICS)
        lines.append(f"{name:14}" + "".join(cells))
    return "\n".join(lines)
