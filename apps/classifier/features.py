"""The scorer's n-gram features as a sparse matrix, which training fits on."""

from collections.abc import Iterator, Sequence
from typing import Self

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.base import BaseEstimator, TransformerMixin

from .artifact import build_lookup
from .kernels.layout import MAX_NGRAM, Workspace
from .kernels.ngrams import HASH_BITS, count_document_frequencies, write_features
from .normalise import codes_of, table

_TEXTS_PER_BATCH = 2048


class HashedNgrams(TransformerMixin, BaseEstimator):
    """Binary hashed n-grams that occur in at least `min_df` texts, each text scaled to unit length.

    After `fit`, `bits_` is the (2**22 / 32,) uint32 bitmap of the hash slots with a feature. Features are
    numbered in the order of slots; `counts_` (features,) is the number of texts with each.
    """

    def __init__(self, min_df: int = 20) -> None:
        self.min_df = min_df

    def fit(self, texts: Sequence[str], y: object = None) -> Self:
        """Find the n-grams that occur in at least `min_df` of the texts."""
        counts = np.zeros(1 << HASH_BITS, np.uint32)
        last_seen = np.zeros(1 << HASH_BITS, np.uint32)
        for first, codes, ends, workspace in batches(texts):
            count_document_frequencies(codes, ends, table(), workspace, last_seen, first + 1, counts)
        self.counts_ = counts[counts >= self.min_df]
        self.bits_ = np.packbits(counts >= self.min_df, bitorder="little").view(np.uint32)
        return self

    def transform(self, texts: Sequence[str]) -> csr_matrix:
        """Return the (n, features) float32 matrix; a text without features is an empty row."""
        indices, indptr = self.indices(texts)
        lengths = np.diff(indptr)
        scale = (1 / np.sqrt(np.maximum(lengths, 1))).astype(np.float32)
        return csr_matrix((np.repeat(scale, lengths), indices, indptr), (len(texts), len(self.counts_)))

    def indices(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return the matrix as (indices int32, indptr int64), without its values."""
        lookup = build_lookup(self.bits_)
        last_seen = np.zeros(len(self.counts_), np.uint32)
        parts, indptr = [], [np.zeros(1, np.int64)]
        for first, codes, ends, workspace in batches(texts):
            indices = np.empty(2 * MAX_NGRAM * (len(codes) + len(ends)), np.int32)
            row_ends = np.empty(len(ends), np.int64)
            n = write_features(
                codes, ends, table(), workspace, last_seen, first + 1, lookup, indices, row_ends
            )
            parts.append(indices[:n].copy())
            indptr.append(row_ends + indptr[-1][-1])
        return np.concatenate([np.empty(0, np.int32), *parts]), np.concatenate(indptr)


def batches(texts: Sequence[str]) -> Iterator[tuple[int, np.ndarray, np.ndarray, Workspace]]:
    """Yield batches of texts as the kernels take them.

    Yields:
        The index of the first text, the code points of the texts one after the other, the end of each text in
        them, and a workspace for the longest.
    """
    for first in range(0, len(texts), _TEXTS_PER_BATCH):
        batch = texts[first : first + _TEXTS_PER_BATCH]
        lengths = np.array([len(text) for text in batch])
        yield first, codes_of("".join(batch)), np.cumsum(lengths), Workspace.allocate(int(lengths.max()))
