"""Logistic regression for all labels at once by dual coordinate descent, on rows of binary features.

Method: Yu, Huang and Lin, "Dual coordinate descent methods for logistic regression and maximum entropy
models", Machine Learning 85 (2011).
"""

import numpy as np
from numba import njit


@njit(nogil=True, cache=True, fastmath=False)
def _descend(
    indices: np.ndarray,
    indptr: np.ndarray,
    rows: np.ndarray,
    order: np.ndarray,
    y: np.ndarray,
    cost: np.ndarray,
    prior: np.ndarray,
    norm: np.ndarray,
    alpha: np.ndarray,
    weights: np.ndarray,
    intercept: np.ndarray,
    change_of: np.ndarray,
) -> None:
    """Update the weights by one pass over the rows in `order`.

    Sets `change_of` of each row to its largest change of a dual variable, as a fraction of the variable's
    bound.
    """
    labels = y.shape[1]
    width = weights.shape[1]
    margin = np.zeros(width, np.float32)
    step = np.zeros(width, np.float32)
    for position in range(len(order)):
        i = order[position]
        row = rows[i]
        begin, end = indptr[row], indptr[row + 1]
        count = end - begin
        if count == 0:
            continue
        scale = np.float32(1 / np.sqrt(count))
        margin[:] = 0
        for j in range(begin, end):
            f = indices[j]
            for label in range(width):
                margin[label] += weights[f, label]
        moved = False
        change_of[i] = 0
        for label in range(labels):
            bound = cost[i, label]
            if bound == 0:
                step[label] = 0
                continue
            sign = 1.0 if y[i, label] else -1.0
            a = np.float64(norm[i, label])
            z = sign * (np.float64(margin[label] * scale) + intercept[label])
            old = alpha[i, label]
            low, high = z - a * old, z + a * (bound - old)
            u = z
            for _ in range(12):
                p = 1.0 / (1.0 + np.exp(u))
                g = u - z - a * (bound * p - old)
                if abs(g) < 1e-4:
                    break
                if g > 0:
                    high = u
                else:
                    low = u
                u -= g / (1.0 + a * bound * p * (1.0 - p))
                if not low < u < high:
                    u = (low + high) / 2
            new = min(max(old + (u - z) / a, 0.0), bound)
            change = new - old
            if abs(change) < 1e-5 * bound:
                step[label] = 0
                continue
            moved = True
            change_of[i] = max(change_of[i], abs(change) / bound)
            alpha[i, label] = new
            intercept[label] += sign * change
            step[label] = np.float32(sign * change) * scale
        if moved:
            for j in range(begin, end):
                f = indices[j]
                for label in range(width):
                    weights[f, label] += prior[f, label] * step[label]


@njit(nogil=True, cache=True)
def _compute_norms(
    indices: np.ndarray, indptr: np.ndarray, rows: np.ndarray, prior: np.ndarray, norm: np.ndarray
) -> None:
    """Set `norm` (n, labels) to each row's squared norm under the prior, plus one for the intercept."""
    for i in range(len(rows)):
        begin, end = indptr[rows[i]], indptr[rows[i] + 1]
        norm[i] = 1.0
        for j in range(begin, end):
            for label in range(norm.shape[1]):
                norm[i, label] += prior[indices[j], label] / (end - begin)


def fit_logistic(
    indices: np.ndarray,
    indptr: np.ndarray,
    rows: np.ndarray,
    y: np.ndarray,
    cost: np.ndarray,
    prior: np.ndarray,
    *,
    passes: int = 6,
    tolerance: float = 0.02,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Fit weights for every label: minimise the sum of w**2 / (2 prior), b**2 / 2 and cost * loss.

    Args:
        indices: Features of all rows, one row after the other; each has the value 1 / sqrt(features of the
            row).
        indptr: Begin of each row's features, and the end of the last.
        rows: (n,) rows to fit on.
        y: (n, labels) 0 or 1.
        cost: (n, labels) float32 weight of the loss.
        prior: (features, labels) float32 prior variance of each weight.
        passes: Largest number of passes over the rows.
        tolerance: Stop when no dual variable moves by more than this fraction of its bound.

    Returns:
        Weights (features, labels) float32 and intercepts (labels,).
    """
    n, labels = y.shape
    width = -(-labels // 8) * 8
    padded_prior = np.zeros((len(prior), width), np.float32)
    padded_prior[:, :labels] = prior
    norm = np.zeros((n, labels), np.float32)
    _compute_norms(indices, indptr, rows, padded_prior, norm)
    alpha = np.zeros((n, labels), np.float32)
    weights = np.zeros((len(prior), width), np.float32)
    intercept = np.zeros(labels)
    rng = np.random.default_rng(seed)
    change = np.ones(n, np.float32)
    for step in range(passes):
        # Skip the rows that have converged, except in the first two passes and the last.
        active = np.flatnonzero(change > tolerance / 2) if 1 < step < passes - 1 else np.arange(n)
        order = rng.permutation(active)
        _descend(indices, indptr, rows, order, y, cost, padded_prior, norm, alpha, weights, intercept, change)
        if change.max() < tolerance:
            break
    return weights[:, :labels].copy(), intercept


@njit(nogil=True, cache=True)
def _count_labels(
    indices: np.ndarray,
    indptr: np.ndarray,
    rows: np.ndarray,
    y: np.ndarray,
    cost: np.ndarray,
    positive: np.ndarray,
    negative: np.ndarray,
) -> None:
    for i in range(len(rows)):
        for j in range(indptr[rows[i]], indptr[rows[i] + 1]):
            for label in range(y.shape[1]):
                if y[i, label]:
                    positive[indices[j], label] += cost[i, label]
                else:
                    negative[indices[j], label] += cost[i, label]


def naive_bayes_log_ratios(
    indices: np.ndarray, indptr: np.ndarray, rows: np.ndarray, y: np.ndarray, cost: np.ndarray, features: int
) -> np.ndarray:
    """Return the log ratio of each feature's smoothed share among positive and negative rows.

    Source: Wang and Manning, "Baselines and bigrams: simple, good sentiment and topic classification", ACL
    2012.

    Args:
        indices, indptr, rows, y: As in `fit_logistic`.
        cost: (n, labels) weight of each row.
        features: Number of features.

    Returns:
        (features, labels) float32.
    """
    positive = np.ones((features, y.shape[1]), np.float32)
    negative = np.ones((features, y.shape[1]), np.float32)
    _count_labels(indices, indptr, rows, y, cost, positive, negative)
    return np.log(positive / positive.sum(axis=0)) - np.log(negative / negative.sum(axis=0))
