"""The split, and a random comment."""

import numpy as np
import pytest

from apps.training import datasets, examples
from apps.training.models import Dataset
from apps.training.sources import SourceError
from toxicmod.testing.factories import labeled_rows


def arrays(count: int, share: float = 0.1) -> tuple[list[str], np.ndarray]:
    rows = labeled_rows(count, share=share)
    return [row[1] for row in rows], np.array([[int(value) for value in row[2:]] for row in rows], np.int8)


def test_a_tenth_of_every_kind_is_held_out() -> None:
    texts, labels = arrays(3000, share=0.02)
    learn, held_out = datasets.split(texts, labels)
    assert sorted([*learn, *held_out]) == list(range(3000))
    assert len(held_out) == pytest.approx(300, abs=8)
    assert labels[held_out].sum(axis=0) == pytest.approx(labels.sum(axis=0) / 10, abs=3)
    assert labels[held_out].any(axis=0).all()


def test_near_duplicates_stay_together() -> None:
    texts, labels = arrays(500)
    doubled = texts + [text.upper().replace(" ", "  ") + "!" for text in texts]
    learn, held_out = datasets.split(doubled, np.concatenate([labels, labels]))
    assert {row % 500 for row in learn} & {row % 500 for row in held_out} == set()


def test_what_is_held_out_stays_so_in_a_larger_data_set() -> None:
    texts, labels = arrays(2000)
    held_out = set(datasets.split(texts[:1000], labels[:1000])[1])
    learned = set(datasets.split(texts, labels)[0])
    assert len(held_out & learned) < 0.3 * len(held_out)


def test_a_damaged_file_is_one_sentence(dataset: Dataset) -> None:
    dataset.path.write_bytes(dataset.path.read_bytes()[:500])
    with pytest.raises(SourceError, match="is damaged: import the same rows again"):
        datasets.read(dataset.path)


def test_clean_rows_are_weighted_to_the_natural_rate(dataset: Dataset) -> None:
    dataset.natural_rate = 0.1
    rows = datasets.read(dataset.path, clean_weight=dataset.clean_weight)
    labelled = rows.labels.any(axis=1)
    assert rows.weights is not None
    assert rows.weights[labelled].sum() / rows.weights.sum() == pytest.approx(0.1)


def test_an_example_is_from_the_data_set_imported_last(dataset: Dataset) -> None:
    texts = datasets.read(dataset.path).texts
    found = [examples.random_example() for _ in range(20)]
    assert {source for _, source in found} == {"made-up v1"}
    assert {text for text, _ in found} <= set(texts)
    assert len(set(found)) > 5


def test_an_example_is_built_in_where_there_is_no_data_set_or_its_file_is_gone(dataset: Dataset) -> None:
    dataset.path.write_bytes(b"damaged")
    assert examples.random_example()[1] == "built-in"
    dataset.path.unlink()
    assert examples.random_example()[1] == "built-in"
    dataset.delete()
    text, source = examples.random_example()
    assert source == "built-in"
    assert text in examples.COMMENTS
