import numpy as np
import pytest
from sklearn.metrics import (
    average_precision_score,
    brier_score_loss,
    f1_score,
    precision_score,
    recall_score,
    roc_auc_score,
)

from apps.classifier.evaluation import (
    calibration_error,
    choose_thresholds,
    evaluate,
    format_metrics,
    natural_weights,
    paired_bootstrap,
)
from apps.classifier.labels import LABELS


@pytest.fixture
def scored() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    probabilities = rng.random((4000, 6)) ** 3
    return (rng.random((4000, 6)) < probabilities).astype(np.int8), probabilities, rng.random(4000) + 0.5


def test_evaluate_agrees_with_scikit_learn(scored) -> None:
    labels, probabilities, weights = scored
    thresholds = np.linspace(0.2, 0.7, 6)
    result = evaluate(labels, probabilities, thresholds, weights)
    for k, label in enumerate(LABELS):
        y, p, flag = labels[:, k], probabilities[:, k], probabilities[:, k] >= thresholds[k]
        assert result[label] == pytest.approx(
            {
                "roc_auc": roc_auc_score(y, p),
                "pr_auc": average_precision_score(y, p, sample_weight=weights),
                "precision": precision_score(y, flag, sample_weight=weights),
                "recall": recall_score(y, flag, sample_weight=weights),
                "f1": f1_score(y, flag, sample_weight=weights),
                "brier": brier_score_loss(y, p, sample_weight=weights),
                "ece": calibration_error(y, p, weights),
            }
        )
    assert result["mean"]["f1"] == pytest.approx(np.mean([result[label]["f1"] for label in LABELS]))
    assert "identity_hate" in format_metrics(result)


def test_evaluate_without_positives_is_none() -> None:
    labels = np.zeros((10, 6), np.int8)
    labels[:5, 0] = 1
    result = evaluate(labels, np.full((10, 6), 0.1), np.full(6, 0.5))
    assert result["threat"]["roc_auc"] is None
    assert result["mean"]["roc_auc"] == 0.5
    assert "-" in format_metrics(result)


def test_calibration_error() -> None:
    p = np.full(1000, 0.3)
    y = np.arange(1000) < 300
    assert calibration_error(y, p, np.ones(1000)) == pytest.approx(0)
    assert calibration_error(~y, p, np.ones(1000)) == pytest.approx(0.4)


def test_choose_thresholds_meets_target_precision(scored) -> None:
    labels, probabilities, weights = scored
    thresholds, rules = choose_thresholds(labels, probabilities, weights, precision=0.6)
    result = evaluate(labels, probabilities, thresholds, weights)
    for label, rule in zip(LABELS, rules, strict=True):
        assert rule == "recall at precision >= 0.6"
        assert result[label]["precision"] >= 0.6
    _, rules = choose_thresholds(labels, probabilities, weights, precision=0.999)
    assert set(rules) == {"best F1"}
    for thresholds, rules in (
        choose_thresholds(labels * 0, probabilities, weights),
        choose_thresholds(labels, probabilities, weights, min_positives=int(labels.sum(axis=0).max()) + 1),
    ):
        assert set(rules) == {"default"}
        assert np.all(thresholds == 0.5)


def test_choose_thresholds_separable_label_is_between_classes() -> None:
    labels = np.zeros((100, len(LABELS)), np.int8)
    labels[:60] = 1
    probabilities = np.repeat(np.where(labels[:, :1], 0.9, 0.001), len(LABELS), axis=1)
    probabilities[60:] *= np.arange(40)[:, None] / 40  # false positives that the target precision allows
    thresholds, _ = choose_thresholds(labels, probabilities, np.ones(100))
    assert thresholds == pytest.approx([0.45] * len(LABELS), abs=0.001)


def test_natural_weights() -> None:
    assert natural_weights(np.array([[0] * 6, [0, 1, 0, 0, 0, 0]])).tolist() == [1.87, 1.0]


def test_paired_bootstrap_agrees_with_scikit_learn(scored) -> None:
    labels, probabilities, weights = scored
    labels = labels.copy()
    labels[:, 5] = 0
    worse = np.round(probabilities * 0.5 + np.random.default_rng(1).random((4000, 6)) * 0.5, 1)  # with ties
    result = paired_bootstrap(labels, probabilities, worse, weights, draws=100)
    assert set(result) == set(LABELS[:5])
    y, first, second = labels[:, 0], probabilities[:, 0], worse[:, 0]
    difference, low, high = result["toxic"]["roc_auc"]
    assert difference == pytest.approx(roc_auc_score(y, first) - roc_auc_score(y, second))
    assert 0 < low < difference < high
    assert result["toxic"]["pr_auc"][0] == pytest.approx(
        average_precision_score(y, first, sample_weight=weights)
        - average_precision_score(y, second, sample_weight=weights)
    )
    same = paired_bootstrap(labels, probabilities, probabilities, draws=10)
    assert same["insult"] == {"roc_auc": (0, 0, 0), "pr_auc": (0, 0, 0)}
