"""Fits how much the encoder's logits count beside those of the first level. `training` calls it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from .config import TrainingConfig
from .encoder import HIGHEST_FIRST, length_factor
from .kernels.layout import LABEL_COUNT
from .labels import LABELS


class Readings(Protocol):
    """The encoder's logits of a data set's texts, as `apps.training` caches them."""

    sha256: str  # of the encoder's manifest

    def unseen(self, texts: Sequence[str]) -> np.ndarray:
        """Return the rows that the encoder was not trained on, so that its logits are not too good."""

    def logits(self, texts: Sequence[str]) -> np.ndarray:
        """Return the (n, labels) logits."""


@dataclass(frozen=True)
class Head:
    """How both levels are combined, for one encoder.

    Attributes:
        weights: (labels, 3): the weight of the first level's logit, that of the encoder's, and an offset.
        read_from: texts are read if the first level's probability of any label is at least this, times
            `length_factor`.
    """

    encoder_sha256: str
    weights: np.ndarray
    read_from: float

    def combine(self, first: np.ndarray, encoder: np.ndarray, characters: np.ndarray) -> np.ndarray:
        """Return the (n, labels) logits of English texts, each of which is read if necessary.

        Args:
            characters: (n,) the lengths of the texts.
        """
        is_read = expit(first).max(axis=1) >= self.read_from * length_factor(characters)
        first_weight, encoder_weight, offset = self.weights.T
        combined = first_weight * np.minimum(first, HIGHEST_FIRST) + encoder_weight * encoder + offset
        return np.where(is_read[:, None], combined, first)

    def describe(self) -> dict[str, Any]:
        """Return the head as manifests contain it."""
        return {
            "sha256": self.encoder_sha256,
            "head": dict(zip(LABELS, self.weights.tolist(), strict=True)),
            "read_from": self.read_from,
        }


def fit_head(
    sha256: str,
    first: np.ndarray,
    encoder: np.ndarray,
    labels: np.ndarray,
    weight: np.ndarray,
    characters: np.ndarray,
    config: TrainingConfig,
) -> Head:
    """Fit the weights of both levels by logistic regression, for each label.

    Without data, both levels count half: the weights have a normal prior around it, which decides for labels
    with few positives. Trees over all logits and the surface counts were no better on held-out rows.

    Args:
        first: (n, labels) logits of the first level, each by a model that was not fitted on the row.
        encoder: (n, labels) logits of texts that the encoder was not trained on.
        labels: (n, labels) of 0 or 1.
        weight: (n,) which gives the rows the natural rate of labels.
        characters: (n,) the lengths of the texts.
    """
    prior = np.array([0.5, 0.5, 0.0])
    precision = np.array([1.0, 1.0, 0.0]) / config.head_variance
    weights = np.tile(prior, (LABEL_COUNT, 1))
    for label in range(LABEL_COUNT):
        y = labels[:, label]
        if min(y.sum(), len(y) - y.sum()) < config.min_positives:
            continue
        inputs = np.column_stack(
            [np.minimum(first[:, label], HIGHEST_FIRST), encoder[:, label], np.ones(len(y))]
        )

        def loss(
            parameters: np.ndarray, inputs: np.ndarray = inputs, y: np.ndarray = y
        ) -> tuple[float, np.ndarray]:
            logits, change = inputs @ parameters, parameters - prior
            value = weight @ (np.logaddexp(0, logits) - y * logits) + precision @ change**2 / 2
            return value, inputs.T @ (weight * (expit(logits) - y)) + precision * change

        weights[label] = minimize(loss, prior, jac=True, method="L-BFGS-B").x
    read_from = config.max_read_from
    if len(first):
        highest = expit(first).max(axis=1) / length_factor(characters)
        order = np.argsort(highest)
        cumulative = np.cumsum(weight[order])
        limit = np.searchsorted(cumulative, (1 - config.read_share) * cumulative[-1])
        # In data with many toxic rows, the share would leave comments unread that may be toxic.
        read_from = min(read_from, float(highest[order[min(limit, len(order) - 1)]]))
    return Head(sha256, weights, read_from)
