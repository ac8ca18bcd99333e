import numpy as np

from apps.classifier.features import HashedNgrams
from apps.classifier.kernels import Room, hash_words, normalise_codes
from apps.classifier.normalise import codes_of, table
from apps.classifier.training import Fitted, level_two

_GOLDEN = [
    2170437,
    3734591,
    859240,
    187304,
    2283936,
    3926545,
    1658647,
    2032645,
    4008696,
    3891910,
    3491318,
    3102389,
    4145365,
    4143832,
    388739,
    792201,
    465077,
    1226993,
    1240195,
    2292595,
    1844264,
    2564039,
    485329,
    811730,
    1877490,
    3510595,
    2249417,
    3360218,
    4129373,
]


def _slots(text: str) -> list[int]:
    room = Room.of(len(text))
    n, words = normalise_codes(codes_of(text), table(), room)
    hash_words(n, room)
    return room.slots[: room.slot_end[words - 1]].tolist()


def test_hashes_are_the_same_on_every_machine() -> None:
    assert _slots("Hi, wörld") == _GOLDEN


def test_only_frequent_ngrams_are_features() -> None:
    ngrams = HashedNgrams(minimum=2).fit(["one two", "one three", "four"])
    assert (
        0 < len(ngrams.counts_) < len(HashedNgrams(minimum=1).fit(["one two", "one three", "four"]).counts_)
    )
    matrix = ngrams.transform(["one", "nothing known: xyzzy", ""])
    assert matrix.shape == (3, len(ngrams.counts_))
    assert matrix[2].nnz == 0
    assert np.isclose(matrix[0].power(2).sum(), 1)


def test_compiled_pass_computes_what_the_matrix_computes(fitted: Fitted, comments) -> None:
    texts = comments[0][4000:]
    weights = fitted.model.weights[:, :6] * fitted.model.scale
    expected = fitted.ngrams.transform(texts) @ weights + fitted.model.intercept
    inputs = level_two(fitted.model, texts)
    assert np.abs(inputs[:, :6] - expected).max() < 1e-4
    single = [k for k, text in enumerate(texts) if inputs[k, 26] * 2 == inputs[k, 25]]
    assert len(single) > 100, "too few comments of one sentence to compare"
    assert np.allclose(inputs[single, :6], inputs[single, 6:12], atol=1e-6)
