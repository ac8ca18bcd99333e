"""Logistic regression for all labels at once by dual coordinate descent, on rows of equal binary values.

Method: Yu, Huang and Lin, "Dual coordinate descent methods for logistic regression and maximum entropy
models", Machine Learning 85 (2011). One pass over a row serves every label, and only one weight row is read
per feature.
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
    square: np.ndarray,
    alpha: np.ndarray,
    weights: np.ndarray,
    intercept: np.ndarray,
    change_of: np.ndarray,
) -> None:
    """One pass over the rows in `order`; sets `change_of` to their largest changes as shares of the bound."""
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
            a = np.float64(square[i, label])
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
def _squares(
    indices: np.ndarray, indptr: np.ndarray, rows: np.ndarray, prior: np.ndarray, square: np.ndarray
) -> None:
    for i in range(len(rows)):
        begin, end = indptr[rows[i]], indptr[rows[i] + 1]
        square[i] = 1.0
        for j in range(begin, end):
            for label in range(square.shape[1]):
                square[i, label] += prior[indices[j], label] / (end - begin)


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
    """Fit weights for every label.

    `indices`, `indptr`: the rows' features, each worth 1/sqrt(their number); `rows` (n,): the rows to fit on;
    `y` (n, labels) 0/1; `cost` (n, labels) float32: the loss's weight per row and label; `prior` (features,
    labels) float32: the prior variance of each weight. Minimises the sum of w**2 / (2 prior), b**2 / 2 and
    cost * loss.
    Stops after `passes`, or when no dual variable moves by more than `tolerance` of its bound.
    Returns weights (features, labels) float32 and intercepts (labels,).
    """
    n, labels = y.shape
    width = -(-labels // 8) * 8
    wide = np.zeros((len(prior), width), np.float32)
    wide[:, :labels] = prior
    square = np.zeros((n, labels), np.float32)
    _squares(indices, indptr, rows, wide, square)
    alpha = np.zeros((n, labels), np.float32)
    weights = np.zeros((len(prior), width), np.float32)
    intercept = np.zeros(labels)
    rng = np.random.default_rng(seed)
    change = np.ones(n, np.float32)
    for step in range(passes):
        # Rows that have settled are left alone; the last pass visits all once more.
        active = np.flatnonzero(change > tolerance / 2) if 1 < step < passes - 1 else np.arange(n)
        order = rng.permutation(active)
        _descend(indices, indptr, rows, order, y, cost, wide, square, alpha, weights, intercept, change)
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


def bayes_ratios(
    indices: np.ndarray, indptr: np.ndarray, rows: np.ndarray, y: np.ndarray, cost: np.ndarray, features: int
) -> np.ndarray:
    """(features, labels) float32 log ratio of each feature's smoothed share among positive and negative rows.

    Rows count by their `cost` (n, labels).

    Source: Wang and Manning, "Baselines and bigrams", ACL 2012.
    """
    positive = np.ones((features, y.shape[1]), np.float32)
    negative = np.ones((features, y.shape[1]), np.float32)
    _count_labels(indices, indptr, rows, y, cost, positive, negative)
    return np.log(positive / positive.sum(axis=0)) - np.log(negative / negative.sum(axis=0))
