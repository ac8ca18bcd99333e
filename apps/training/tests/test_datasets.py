"""The split of data sets, their files, and the example comment."""

import numpy as np
import pytest

from apps.training import datasets, examples
from apps.training.exceptions import SourceError
from apps.training.models import Dataset
from toxicmod.testing.factories import labeled_rows


def arrays(count: int, share: float = 0.1) -> tuple[list[str], np.ndarray]:
    rows = labeled_rows(count, share=share)
    return [row[1] for row in rows], np.array([[int(value) for value in row[2:]] for row in rows], np.int8)


def test_split_holds_out_a_tenth_of_each_stratum() -> None:
    texts, labels = arrays(3000, share=0.02)
    training, held_out = datasets.split(texts, labels)
    assert sorted([*training, *held_out]) == list(range(3000))
    assert len(held_out) == pytest.approx(300, abs=8)
    assert labels[held_out].sum(axis=0) == pytest.approx(labels.sum(axis=0) / 10, abs=3)
    assert labels[held_out].any(axis=0).all()


def test_split_keeps_near_duplicates_together() -> None:
    texts, labels = arrays(500)
    doubled = texts + [text.upper().replace(" ", "  ") + "!" for text in texts]
    training, held_out = datasets.split(doubled, np.concatenate([labels, labels]))
    assert {row % 500 for row in training} & {row % 500 for row in held_out} == set()


def test_split_of_larger_data_set_holds_out_the_same_rows() -> None:
    texts, labels = arrays(2000)
    held_out = set(datasets.split(texts[:1000], labels[:1000])[1])
    training = set(datasets.split(texts, labels)[0])
    assert len(held_out & training) < 0.3 * len(held_out)


def test_read_damaged_file(dataset: Dataset) -> None:
    dataset.path.write_bytes(dataset.path.read_bytes()[:500])
    with pytest.raises(SourceError, match="is damaged: import the same rows again"):
        datasets.read(dataset.path)


def test_read_weights_clean_rows_to_natural_rate(dataset: Dataset) -> None:
    dataset.natural_rate = 0.1
    rows = datasets.read(dataset.path, clean_weight=dataset.clean_weight)
    labelled = rows.labels.any(axis=1)
    assert rows.weights is not None
    assert rows.weights[labelled].sum() / rows.weights.sum() == pytest.approx(0.1)


def test_random_example_is_no_row_of_imported_data_set(dataset: Dataset) -> None:
    assert {examples.random_example() for _ in range(50)} <= set(examples.COMMENTS)
