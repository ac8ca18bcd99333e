import numpy as np

from apps.classifier.features import HashedNgrams
from apps.classifier.kernels.layout import Stacking, Workspace
from apps.classifier.kernels.ngrams import hash_words
from apps.classifier.kernels.normalisation import normalise_codes
from apps.classifier.normalise import codes_of, table
from apps.classifier.second_stage import stacking_matrix
from apps.classifier.training import TwoLevelModel

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
    workspace = Workspace.allocate(len(text))
    n, words = normalise_codes(codes_of(text), table(), workspace)
    hash_words(n, workspace)
    return workspace.slots[: workspace.slot_end[words - 1]].tolist()


def test_hash_words_is_the_same_on_every_machine() -> None:
    assert _slots("Hi, wörld") == _GOLDEN


def test_hashed_ngrams_keeps_frequent_ngrams() -> None:
    ngrams = HashedNgrams(min_df=2).fit(["one two", "one three", "four"])
    assert 0 < len(ngrams.counts_) < len(HashedNgrams(min_df=1).fit(["one two", "one three", "four"]).counts_)
    matrix = ngrams.transform(["one", "nothing known: xyzzy", ""])
    assert matrix.shape == (3, len(ngrams.counts_))
    assert matrix[2].nnz == 0
    assert np.isclose(matrix[0].power(2).sum(), 1)


def test_stacking_matrix_agrees_with_sparse_matrix(fitted: TwoLevelModel, comments) -> None:
    texts = comments[0][4000:]
    weights = fitted.arrays.weights[:, :6] * fitted.arrays.scale
    expected = fitted.ngrams.transform(texts) @ weights + fitted.arrays.intercept
    inputs = stacking_matrix(fitted.arrays, texts)
    assert np.abs(inputs[:, : Stacking.SENTENCE] - expected).max() < 1e-4
    single = [
        k
        for k, text in enumerate(texts)
        if inputs[k, Stacking.WORDS_PER_SENTENCE] * 2 == inputs[k, Stacking.WORDS]
    ]
    assert len(single) > 100, "too few comments of one sentence to compare"
    assert np.allclose(
        inputs[single, : Stacking.SENTENCE],
        inputs[single, Stacking.SENTENCE : Stacking.SECOND_SENTENCE],
        atol=1e-6,
    )
