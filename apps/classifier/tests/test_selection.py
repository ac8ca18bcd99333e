import numpy as np

from apps.classifier.selection import Reason, choose, disagreement, uncertainty

THRESHOLDS = np.full(6, 0.5)


def scored(*toxic: float) -> np.ndarray:
    """(n, 6) probabilities of which only the first label's matter."""
    probabilities = np.full((len(toxic), 6), 0.001)
    probabilities[:, 0] = toxic
    return probabilities


def apart(count: int) -> np.ndarray:
    """(n, 2) keys of comments that are all different."""
    return np.arange(2 * count).reshape(count, 2)


def test_the_least_certain_come_first() -> None:
    probabilities = scored(0.99, 0.52, 0.01, 0.4)
    assert uncertainty(scored(0.5), THRESHOLDS) == 0
    chosen = choose(probabilities, THRESHOLDS, count=2, keys=apart(4), random_share=0)
    assert [(choice.row, choice.reason, choice.chance) for choice in chosen] == [
        (1, Reason.UNCERTAINTY, 1.0),
        (3, Reason.UNCERTAINTY, 1.0),
    ]


def test_certain_is_relative_to_each_labels_threshold() -> None:
    thresholds = np.array([0.5, 0.5, 0.5, 0.05, 0.5, 0.5])
    probabilities = scored(0.3, 0.001)
    probabilities[1, 3] = 0.05
    assert choose(probabilities, thresholds, count=1, keys=apart(2), random_share=0)[0].row == 1


def test_disagreement_takes_turns_with_uncertainty_while_there_is_any() -> None:
    probabilities, rival = scored(0.9, 0.5, 0.02, 0.45, 0.8), scored(0.2, 0.5, 0.03, 0.45, 0.6)
    assert disagreement(probabilities, rival).round(2).tolist() == [0.7, 0, 0.01, 0, 0.2]
    chosen = choose(probabilities, THRESHOLDS, count=5, keys=apart(5), rival=rival, random_share=0)
    assert [choice.row for choice in chosen] == [0, 1, 4, 3, 2]
    assert [choice.reason for choice in chosen].count(Reason.DISAGREEMENT) == 2


def test_none_is_like_another() -> None:
    keys = np.array([[1, 2], [1, 3], [4, 3], [5, 6]])
    chosen = choose(scored(0.5, 0.51, 0.52, 0.9), THRESHOLDS, count=4, keys=keys, random_share=0)
    assert [choice.row for choice in chosen] == [0, 2, 3]


def test_the_random_share_is_uniform_and_says_its_chance() -> None:
    probabilities = scored(*np.linspace(0.001, 0.5, 40))
    counts = np.zeros(40)
    for seed in range(500):
        chosen = choose(probabilities, THRESHOLDS, count=20, keys=apart(40), random_share=0.2, seed=seed)
        drawn = [choice for choice in chosen if choice.reason == Reason.RANDOM]
        assert {choice.chance for choice in drawn} == {0.1}
        assert len(drawn) == 4
        assert len({choice.row for choice in chosen}) == 20
        counts[[choice.row for choice in drawn]] += 1
    assert counts.min() > 25
    assert counts.max() < 80


def test_few_comments_are_all_chosen() -> None:
    assert len(choose(scored(0.1, 0.2), THRESHOLDS, count=50, keys=apart(2), rival=scored(0.1, 0.2))) == 2
    assert choose(np.empty((0, 6)), THRESHOLDS, count=5, keys=np.empty((0, 2))) == []
