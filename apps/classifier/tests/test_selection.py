import numpy as np

from apps.classifier.selection import Reason, disagreement, select, uncertainty

THRESHOLDS = np.full(6, 0.5)


def scored(*toxic: float) -> np.ndarray:
    """(n, 6) probabilities of which only the first label's matter."""
    probabilities = np.full((len(toxic), 6), 0.001)
    probabilities[:, 0] = toxic
    return probabilities


def distinct_keys(row: int) -> tuple[int, int]:
    """The keys of a comment if all comments are different."""
    return 2 * row, 2 * row + 1


def test_select_orders_by_uncertainty() -> None:
    probabilities = scored(0.99, 0.52, 0.01, 0.4)
    assert uncertainty(scored(0.5), THRESHOLDS) == 0
    selections = select(probabilities, THRESHOLDS, count=2, keys=distinct_keys, random_fraction=0)
    assert [(selection.row, selection.reason, selection.probability) for selection in selections] == [
        (1, Reason.UNCERTAINTY, 1.0),
        (3, Reason.UNCERTAINTY, 1.0),
    ]


def test_uncertainty_is_relative_to_threshold() -> None:
    thresholds = np.array([0.5, 0.5, 0.5, 0.05, 0.5, 0.5])
    probabilities = scored(0.3, 0.001)
    probabilities[1, 3] = 0.05
    assert select(probabilities, thresholds, count=1, keys=distinct_keys, random_fraction=0)[0].row == 1


def test_select_alternates_disagreement_and_uncertainty() -> None:
    probabilities, other = scored(0.9, 0.5, 0.02, 0.45, 0.8), scored(0.2, 0.5, 0.03, 0.45, 0.6)
    assert disagreement(probabilities, other).round(2).tolist() == [0.7, 0, 0.01, 0, 0.2]
    selections = select(
        probabilities, THRESHOLDS, count=5, keys=distinct_keys, other=other, random_fraction=0
    )
    assert [selection.row for selection in selections] == [0, 1, 4, 3, 2]
    assert [selection.reason for selection in selections].count(Reason.DISAGREEMENT) == 2


def test_select_skips_near_duplicates() -> None:
    keys = [{1, 2}, {1, 3}, {4, 3}, {5, 6, 7}]
    selections = select(
        scored(0.5, 0.51, 0.52, 0.9), THRESHOLDS, count=4, keys=keys.__getitem__, random_fraction=0
    )
    assert [selection.row for selection in selections] == [0, 2, 3]


def test_select_draws_random_fraction_uniformly() -> None:
    probabilities = scored(*np.linspace(0.001, 0.5, 40))
    counts = np.zeros(40)
    for seed in range(500):
        selections = select(
            probabilities, THRESHOLDS, count=20, keys=distinct_keys, random_fraction=0.2, seed=seed
        )
        drawn = [selection for selection in selections if selection.reason == Reason.RANDOM]
        assert {selection.probability for selection in drawn} == {0.1}
        assert len(drawn) == 4
        assert len({selection.row for selection in selections}) == 20
        counts[[selection.row for selection in drawn]] += 1
    assert counts.min() > 25
    assert counts.max() < 80


def test_select_more_than_available() -> None:
    assert (
        len(select(scored(0.1, 0.2), THRESHOLDS, count=50, keys=distinct_keys, other=scored(0.1, 0.2))) == 2
    )
    assert select(np.empty((0, 6)), THRESHOLDS, count=5, keys=distinct_keys) == []
