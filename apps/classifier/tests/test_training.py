import numpy as np
import pytest
from scipy.sparse import csr_matrix
from sklearn.linear_model import LogisticRegression

from apps.classifier.config import TrainingConfig
from apps.classifier.evaluation import evaluate
from apps.classifier.labels import LABELS
from apps.classifier.linear import fit_logistic
from apps.classifier.scorer import Scorer
from apps.classifier.training import TwoLevelModel, fit, top_features

pytestmark = pytest.mark.slow


def test_fit_logistic_agrees_with_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    rows = [np.sort(rng.choice(60, size=rng.integers(1, 12), replace=False)) for _ in range(800)]
    indptr = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
    indices = np.concatenate(rows).astype(np.int32)
    data = np.concatenate([np.full(len(row), len(row) ** -0.5) for row in rows])
    matrix = csr_matrix((data, indices, indptr), (800, 60))
    y = (matrix @ rng.normal(0, 2, (60, 2)) + rng.normal(0, 1, (800, 2)) > 0.5).astype(np.int8)
    cost = np.full((800, 2), 2, np.float32)
    prior = rng.uniform(0.2, 3, (60, 2)).astype(np.float32)
    weights, intercept = fit_logistic(
        indices, indptr, np.arange(800), y, cost, prior, passes=500, tolerance=1e-5
    )
    for label in range(2):
        # liblinear regularises its intercept as this solver does; scaled columns give each weight its prior.
        scaled = matrix.multiply(np.sqrt(prior[:, label])).tocsr()
        model = LogisticRegression(C=2, solver="liblinear", tol=1e-8).fit(scaled, y[:, label])
        assert np.allclose(model.coef_[0] * np.sqrt(prior[:, label]), weights[:, label], atol=0.03)
        assert np.isclose(model.intercept_[0], intercept[label], atol=0.03)


def test_score_many_separates_labels(scorer: Scorer, comments) -> None:
    texts, labels = comments
    result = evaluate(labels[4000:], scorer.score_many(texts[4000:]), scorer.thresholds)
    assert result["toxic"]["roc_auc"] > 0.9
    assert result["obscene"]["roc_auc"] > 0.9


def test_top_features(fitted: TwoLevelModel, comments) -> None:
    words = top_features(fitted.arrays, comments[0], count=30, min_df=10)
    assert set(words) == set(LABELS)
    assert "idiot" in [word for word, _ in words["toxic"]]
    assert top_features(fitted.arrays, [])["threat"] == []


def test_fit_same_seed_gives_same_model(comments) -> None:
    texts, labels = comments[0][:600], comments[1][:600]
    stages: list[str] = []
    one = fit(texts, labels, progress=lambda stage, share: stages.append(stage))
    two = fit(texts, labels)
    assert isinstance(one, TwoLevelModel)
    assert isinstance(two, TwoLevelModel)
    assert one.artifact(created="").sha256 == two.artifact(created="").sha256
    assert stages[-1] == "done"


@pytest.mark.parametrize(
    "recipe", ["tfidf_baseline", pytest.param("tfidf_char_baseline", marks=pytest.mark.slow)]
)
def test_fit_baseline(comments, recipe: str) -> None:
    texts, labels = comments
    baseline = fit(texts[:2000], labels[:2000], TrainingConfig(recipe=recipe))
    result = evaluate(labels[4000:], baseline.predict_proba(texts[4000:]), np.full(6, 0.5))
    assert result["toxic"]["roc_auc"] > 0.85


def test_fit_label_without_positives_has_low_probability(comments) -> None:
    texts, labels = comments[0][:500], comments[1][:500].copy()
    labels[:, 3] = 0
    scores = Scorer.load(fit(texts, labels).artifact()).score_many(texts)
    assert scores[:, 3].max() < 0.01


@pytest.mark.parametrize(
    ("texts", "labels", "options", "message"),
    [
        (["a"] * 200, np.zeros((199, 6)), {}, "labels must be"),
        (["a"] * 200, np.full((200, 6), 2), {}, "labels must be"),
        (["a"] * 20, np.zeros((20, 6)), {}, "too few"),
        (["a"] * 200, np.zeros((200, 6)), {"sample_weight": np.ones(3)}, "sample_weight"),
    ],
)
def test_fit_invalid_input(texts, labels, options, message) -> None:
    with pytest.raises(ValueError, match=message):
        fit(texts, labels, **options)


def test_training_config_unknown_recipe() -> None:
    with pytest.raises(ValueError, match="choose from two_level, tfidf_baseline, tfidf_char_baseline"):
        TrainingConfig(recipe="magic")
