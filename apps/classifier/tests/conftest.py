"""A small model fitted on real comments, shared by the tests of this package."""

import csv
import gzip
import os
from pathlib import Path

import numpy as np
import pytest

from apps.classifier.evaluation import natural_weights
from apps.classifier.labels import LABELS
from apps.classifier.scorer import Scorer
from apps.classifier.training import TwoLevelModel, fit

_DEFAULT = Path(__file__).resolve().parents[4] / "shared" / "data" / "jigsaw" / "train.csv.gz"


@pytest.fixture(scope="session")
def comments() -> tuple[list[str], np.ndarray]:
    """5,000 real comments and their labels (5000, 6)."""
    path = Path(os.environ.get("JIGSAW_CSV", _DEFAULT))
    if not path.exists():
        pytest.skip(f"no real comments: set JIGSAW_CSV to the Jigsaw train.csv.gz ({path} does not exist)")
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8", newline="") as file:
        rows = [row for _, row in zip(range(5000), csv.DictReader(file), strict=False)]
    labels = np.array([[int(row[label]) for label in LABELS] for row in rows], np.int8)
    return [row["comment_text"] for row in rows], labels


@pytest.fixture(scope="session")
def fitted(comments: tuple[list[str], np.ndarray]) -> TwoLevelModel:
    """A model fitted on the first 4,000 of them."""
    texts, labels = comments
    result = fit(texts[:4000], labels[:4000], sample_weight=natural_weights(labels[:4000]))
    assert isinstance(result, TwoLevelModel)
    return result


@pytest.fixture(scope="session")
def scorer(fitted: TwoLevelModel) -> Scorer:
    """The same model, as it is served."""
    return Scorer.load(fitted.artifact(name="test"))
