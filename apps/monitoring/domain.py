"""What tells two samples of texts apart. A room of its own: only a worker loads scikit-learn."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.special import rel_entr
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, cross_val_predict

from apps.monitoring.drift import LEAST_COMMENTS, Domains, Estimate, Phrase, Z


def _vectorizer() -> HashingVectorizer:
    return HashingVectorizer(
        n_features=1 << 18, ngram_range=(1, 2), alternate_sign=False, binary=True, dtype=np.float32
    )


def domains(before: Sequence[str], after: Sequence[str], *, phrases: int = 20) -> Domains | None:
    """How well two samples of texts can be told apart, and by what; None with fewer than 50 of either.

    A logistic regression on hashed words and pairs of words, cross-validated five times with equal texts in
    the same part, so that none is known beforehand. The interval of ROC-AUC is Hanley and McNeil's ("The
    meaning and use of the area under a ROC curve", 1982).
    """
    if min(len(before), len(after)) < 50:
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
    return Domains(
        _interval_of_auc(float(roc_auc_score(y, scores)), len(before), len(after)),
        changed_phrases(before, after, most=phrases),
    )


def _interval_of_auc(auc: float, negatives: int, positives: int) -> Estimate:
    one, two = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    variance = (auc * (1 - auc) + (positives - 1) * (one - auc**2) + (negatives - 1) * (two - auc**2)) / (
        positives * negatives
    )
    half = Z * np.sqrt(variance)
    return Estimate(auc, max(0.0, float(auc - half)), min(1.0, float(auc + half)))


def changed_phrases(before: Sequence[str], after: Sequence[str], *, most: int = 20) -> list[Phrase]:
    """The words and pairs of words whose share of comments changed most, the surest change first.

    Ranked by the signed root of the likelihood ratio (Dunning, "Accurate methods for the statistics of
    surprise and coincidence", 1993). An n-gram must occur in several comments.
    """
    analyse = _vectorizer().build_analyzer()
    counts: list[Counter[Any]] = [
        Counter(phrase for text in texts for phrase in set(analyse(text))) for texts in (before, after)
    ]
    both = counts[0] + counts[1]
    names = [phrase for phrase, count in both.items() if count >= LEAST_COMMENTS]
    old, new = (np.array([count[name] for name in names], float) for count in counts)
    sizes = np.array([len(before), len(after)], float)
    share = (old + new) / sizes.sum()
    ratio = sum(
        rel_entr(count, size * share) + rel_entr(size - count, size * (1 - share))
        for count, size in zip((old, new), sizes, strict=True)
    )
    old, new = old / sizes[0], new / sizes[1]
    strength = np.sign(new - old) * np.sqrt(np.maximum(2 * ratio, 0))
    return [
        Phrase(names[row], float(old[row]), float(new[row]), float(strength[row]))
        for row in np.argsort(-np.abs(strength), kind="stable")[:most]
    ]
