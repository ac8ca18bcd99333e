"""Active learning: selects the comments that a person should label next.

It combines uncertainty sampling (Lewis and Gale, "A sequential algorithm for training text classifiers",
SIGIR 1994) and query by committee (Seung et al., COLT 1992), and avoids near-duplicates. A fraction is drawn
at random, because rates cannot be estimated from selected comments.
"""

from collections.abc import Callable, Collection
from enum import StrEnum
from typing import NamedTuple

import numpy as np

RANDOM_FRACTION = 0.1
MIN_DISAGREEMENT = 0.1  # difference of two models' probabilities
_MIN_PROBABILITY = 1e-6


class Reason(StrEnum):
    """Why a comment was selected."""

    RANDOM = "random"
    DISAGREEMENT = "disagreement"
    UNCERTAINTY = "uncertainty"


class Selection(NamedTuple):
    """A selected comment: its row, the reason, and the probability of being selected for that reason."""

    row: int
    reason: Reason
    probability: float


def uncertainty(probabilities: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Return (n,) the negative distance in log-odds of the nearest label to its threshold."""
    bounded = np.clip(probabilities, _MIN_PROBABILITY, 1 - _MIN_PROBABILITY)
    return -np.abs(_log_odds(bounded) - _log_odds(thresholds)).min(axis=1)


def _log_odds(probabilities: np.ndarray) -> np.ndarray:
    # Serving imports this module without scipy.
    return np.log(probabilities) - np.log1p(-probabilities)


def disagreement(probabilities: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return (n,) the largest difference of two models' probabilities (n, labels)."""
    return np.abs(probabilities - other).max(axis=1)


def select(
    probabilities: np.ndarray,
    thresholds: np.ndarray,
    *,
    count: int,
    keys: Callable[[int], Collection[int]],
    other: np.ndarray | None = None,
    random_fraction: float = RANDOM_FRACTION,
    seed: int = 0,
) -> list[Selection]:
    """Select at most `count` of n comments to label.

    `random_fraction` of them are drawn uniformly. The rest are, in turns, the rows on which two models
    disagree most and the rows that are most uncertain, without those that share a key with an earlier
    selection.

    Args:
        probabilities: (n, labels) of the champion.
        thresholds: (labels,) each strictly between 0 and 1.
        keys: returns the keys of a row. Rows that have one in common are near-duplicates.
        other: (n, labels) probabilities of a second model.

    Returns:
        The selections in their order. Rows that were not drawn have probability 1.
    """
    n = len(probabilities)
    drawn = min(round(count * random_fraction), n)
    seen = _SeenRows(keys)
    selections = []
    for row in np.random.default_rng(seed).permutation(n)[:drawn].tolist():
        seen.add(row)
        selections.append(Selection(row, Reason.RANDOM, drawn / n))
    by_uncertainty = np.argsort(-uncertainty(probabilities, thresholds), kind="stable")
    orders = {Reason.UNCERTAINTY: iter(by_uncertainty.tolist())}
    if other is not None:
        differences = disagreement(probabilities, other)
        by_difference = np.argsort(-differences, kind="stable")
        by_difference = by_difference[differences[by_difference] >= MIN_DISAGREEMENT]
        orders = {Reason.DISAGREEMENT: iter(by_difference.tolist()), **orders}
    while orders and len(selections) < count:
        for reason, order in list(orders.items()):
            row = next((row for row in order if seen.is_new(row)), None)
            if row is None:
                del orders[reason]
            elif len(selections) < count:
                seen.add(row)
                selections.append(Selection(row, reason, 1.0))
    return selections


class _SeenRows:
    """The selected rows and their keys."""

    def __init__(self, keys: Callable[[int], Collection[int]]) -> None:
        self.keys = keys
        self.rows: set[int] = set()
        self.seen_keys: set[int] = set()

    def add(self, row: int) -> None:
        self.rows.add(row)
        self.seen_keys.update(self.keys(row))

    def is_new(self, row: int) -> bool:
        return row not in self.rows and self.seen_keys.isdisjoint(self.keys(row))
