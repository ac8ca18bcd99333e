"""TF-IDF baselines of scikit-learn, to compare the product's model with. They are never served."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.multioutput import MultiOutputClassifier
from sklearn.pipeline import make_pipeline, make_union

from .normalise import normalise


@dataclass(frozen=True)
class Baseline:
    """A fitted scikit-learn pipeline."""

    pipeline: Any

    def predict_proba(self, texts: Sequence[str]) -> np.ndarray:
        """Return the (n, labels) probabilities."""
        return np.column_stack([p[:, 1] for p in self.pipeline.predict_proba(texts)])


def fit_baseline(recipe: str, texts: Sequence[str], labels: np.ndarray) -> Baseline:
    """Fit `tfidf_baseline` or `tfidf_char_baseline` on texts and their labels (n, labels)."""
    pipeline = _tfidf() if recipe == "tfidf_baseline" else _tfidf_char()
    return Baseline(pipeline.fit(texts, labels))


def _normalised(text: str) -> str:
    return normalise(text)[0]


def _tfidf() -> Any:
    words = TfidfVectorizer(
        max_features=10_000, ngram_range=(1, 2), stop_words="english", preprocessor=_normalised
    )
    return make_pipeline(words, MultiOutputClassifier(LogisticRegression(max_iter=1000)))


def _tfidf_char() -> Any:
    words = TfidfVectorizer(
        max_features=10_000, sublinear_tf=True, strip_accents="unicode", token_pattern=r"\w+"
    )
    chars = TfidfVectorizer(
        max_features=50_000, sublinear_tf=True, strip_accents="unicode", analyzer="char", ngram_range=(2, 6)
    )
    return make_pipeline(
        make_union(words, chars), MultiOutputClassifier(LogisticRegression(solver="liblinear", C=1.0))
    )
