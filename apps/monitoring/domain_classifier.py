"""A classifier that distinguishes two samples of texts, and the phrases in which they differ.

Only the worker imports this module, because it loads scikit-learn.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import rel_entr
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, cross_val_predict

from apps.core.statistics import Z_95
from apps.monitoring.drift import Estimate

MIN_TEXTS = 50
MIN_COMMENTS = 5  # an n-gram in fewer comments is not a trend and may be a person's name


@dataclass(frozen=True)
class Phrase:
    """An n-gram, the fraction of comments that contain it before and after, and the change's strength."""

    text: str
    before: float
    after: float
    strength: float


@dataclass(frozen=True)
class DomainComparison:
    """How well a classifier distinguishes two samples of texts: an AUC of 0.5 means not at all, 1 always."""

    auc: Estimate
    phrases: list[Phrase]


def _vectorizer() -> HashingVectorizer:
    return HashingVectorizer(
        n_features=1 << 18, ngram_range=(1, 2), alternate_sign=False, binary=True, dtype=np.float32
    )


def compare_domains(
    before: Sequence[str], after: Sequence[str], *, phrases: int = 20
) -> DomainComparison | None:
    """Train a classifier to distinguish two samples of texts; return None with fewer than 50 in one of them.

    It is a logistic regression on hashed words and pairs of words, with five-fold cross-validation in which
    equal texts are in the same fold. The interval of ROC-AUC is that of Hanley and McNeil ("The meaning and
    use of the area under a ROC curve", 1982).

    Args:
        phrases: the number of changed phrases to return.
    """
    if min(len(before), len(after)) < MIN_TEXTS:
        return None
    texts = [*before, *after]
    y = np.repeat([0, 1], [len(before), len(after)])
    scores = cross_val_predict(
        LogisticRegression(class_weight="balanced", solver="liblinear", dual=True, random_state=0),
        _vectorizer().transform(texts),
        y,
        cv=GroupKFold(5),
        groups=np.unique(texts, return_inverse=True)[1],
        method="decision_function",
    )
    return DomainComparison(
        _auc_interval(float(roc_auc_score(y, scores)), len(before), len(after)),
        changed_phrases(before, after, limit=phrases),
    )


def _auc_interval(auc: float, negatives: int, positives: int) -> Estimate:
    q1, q2 = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    variance = (auc * (1 - auc) + (positives - 1) * (q1 - auc**2) + (negatives - 1) * (q2 - auc**2)) / (
        positives * negatives
    )
    half = Z_95 * np.sqrt(variance)
    return Estimate(auc, max(0.0, float(auc - half)), min(1.0, float(auc + half)))


def changed_phrases(before: Sequence[str], after: Sequence[str], *, limit: int = 20) -> list[Phrase]:
    """Return the words and pairs of words whose frequency changed most, the most significant change first.

    They are ranked by the signed root of the likelihood ratio (Dunning, "Accurate methods for the statistics
    of surprise and coincidence", 1993).
    """
    analyze = _vectorizer().build_analyzer()
    counts: list[Counter[Any]] = [
        Counter(phrase for text in texts for phrase in set(analyze(text))) for texts in (before, after)
    ]
    totals = counts[0] + counts[1]
    names = [phrase for phrase, count in totals.items() if count >= MIN_COMMENTS]
    old, new = (np.array([count[name] for name in names], float) for count in counts)
    sizes = np.array([len(before), len(after)], float)
    pooled = (old + new) / sizes.sum()
    ratio = sum(
        rel_entr(count, size * pooled) + rel_entr(size - count, size * (1 - pooled))
        for count, size in zip((old, new), sizes, strict=True)
    )
    old, new = old / sizes[0], new / sizes[1]
    strength = np.sign(new - old) * np.sqrt(np.maximum(2 * ratio, 0))
    return [
        Phrase(names[row], float(old[row]), float(new[row]), float(strength[row]))
        for row in np.argsort(-np.abs(strength), kind="stable")[:limit]
    ]
