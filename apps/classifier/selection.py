"""Which comments a person should label next, so that the next model learns most from each answer.

Three ideas: ask where the model is least sure (Lewis and Gale, "A sequential algorithm for training text
classifiers", SIGIR 1994), where two models disagree (Seung et al., "Query by committee", COLT 1992), and
never the same thing twice. A share is drawn at random: from what was chosen, no rate can be estimated.
"""

from enum import StrEnum
from typing import NamedTuple

import numpy as np

RANDOM_SHARE = 0.1
LEAST_DIFFERENCE = 0.1  # of two models' probabilities, to call it a disagreement
_CERTAIN = 1e-6


class Reason(StrEnum):
    """Why a comment was chosen."""

    RANDOM = "random"
    DISAGREEMENT = "disagreement"
    UNCERTAINTY = "uncertainty"


class Choice(NamedTuple):
    """A chosen comment: its row, why, and how likely it was to be chosen for that reason."""

    row: int
    reason: Reason
    chance: float


def uncertainty(probabilities: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """(n,) how near the nearest label is to its threshold: 0 on it, else minus the distance in log-odds."""
    bounded = np.clip(probabilities, _CERTAIN, 1 - _CERTAIN)
    return -np.abs(_log_odds(bounded) - _log_odds(thresholds)).min(axis=1)


def _log_odds(probabilities: np.ndarray) -> np.ndarray:
    # Not scipy's `logit`: the web processes would take 0.3 s longer to start.
    return np.log(probabilities) - np.log1p(-probabilities)


def disagreement(probabilities: np.ndarray, rival: np.ndarray) -> np.ndarray:
    """(n,) the largest difference of two models' probabilities (n, labels)."""
    return np.abs(probabilities - rival).max(axis=1)


def choose(
    probabilities: np.ndarray,
    thresholds: np.ndarray,
    *,
    count: int,
    keys: np.ndarray,
    rival: np.ndarray | None = None,
    random_share: float = RANDOM_SHARE,
    seed: int = 0,
) -> list[Choice]:
    """Choose at most `count` of n comments to label.

    First `random_share` of them by chance, each row as likely as any other. Then by turns the rows that
    `rival` scores most differently, while there are such, and those that are least certain; none that shares
    a key with one chosen before.

    Args:
        probabilities: (n, labels) of the model in service.
        thresholds: (labels,) each strictly between 0 and 1.
        keys: (n, k) integers; rows that are equal in a column are alike.
        rival: (n, labels) probabilities of a second model.

    Returns:
        The chosen in the order of choice. `chance` is what the draw gave each of the n rows; what was not
        drawn was sure to be chosen.
    """
    n = len(probabilities)
    drawn = min(round(count * random_share), n)
    taken = _Taken(keys)
    chosen = []
    for row in np.random.default_rng(seed).permutation(n)[:drawn].tolist():
        taken.add(row)
        chosen.append(Choice(row, Reason.RANDOM, drawn / n))
    unsure = iter(np.argsort(-uncertainty(probabilities, thresholds), kind="stable").tolist())
    orders = {Reason.UNCERTAINTY: unsure}
    if rival is not None:
        differences = disagreement(probabilities, rival)
        order = np.argsort(-differences, kind="stable")
        differing = order[differences[order] >= LEAST_DIFFERENCE]
        orders = {Reason.DISAGREEMENT: iter(differing.tolist()), **orders}
    while orders and len(chosen) < count:
        for reason, order in list(orders.items()):
            row = next((row for row in order if taken.is_fresh(row)), None)
            if row is None:
                del orders[reason]
            elif len(chosen) < count:
                taken.add(row)
                chosen.append(Choice(row, reason, 1.0))
    return chosen


class _Taken:
    """The keys of the rows that were chosen, by column, and the rows themselves."""

    def __init__(self, keys: np.ndarray) -> None:
        self.keys = keys.tolist()
        self.rows: set[int] = set()
        self.seen: set[tuple[int, int]] = set()

    def add(self, row: int) -> None:
        self.rows.add(row)
        self.seen.update(enumerate(self.keys[row]))

    def is_fresh(self, row: int) -> bool:
        return row not in self.rows and self.seen.isdisjoint(enumerate(self.keys[row]))
