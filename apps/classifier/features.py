"""The scorer's features as a sparse matrix, for fitting with scikit-learn or the package's own solver."""

from collections.abc import Iterator, Sequence
from typing import Self

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.base import BaseEstimator, TransformerMixin

from .artifact import index_of
from .kernels import HASH_BITS, LONGEST, Room, count_texts, emit_texts
from .normalise import codes_of, table

_CHUNK = 2048


class HashedNgrams(TransformerMixin, BaseEstimator):
    """Binary hashed n-grams, each text scaled to unit length; only those in at least `minimum` texts.

    After `fit`, `bits_` is the (2**22 / 32,) uint32 bitmap of live hash slots; features are numbered in order
    of slot.
    """

    def __init__(self, minimum: int = 20) -> None:
        self.minimum = minimum

    def fit(self, texts: Sequence[str], y: object = None) -> Self:
        """Find the n-grams that occur in at least `minimum` of the texts."""
        counts = np.zeros(1 << HASH_BITS, np.uint32)
        seen = np.zeros(1 << HASH_BITS, np.uint32)
        for first, codes, ends, room in chunks(texts):
            count_texts(codes, ends, table(), room, seen, first + 1, counts)
        self.counts_ = counts[counts >= self.minimum]
        self.bits_ = np.packbits(counts >= self.minimum, bitorder="little").view(np.uint32)
        return self

    def transform(self, texts: Sequence[str]) -> csr_matrix:
        """(n, features) float32 matrix; a row without live features is empty."""
        indices, indptr = self.indices(texts)
        lengths = np.diff(indptr)
        scale = (1 / np.sqrt(np.maximum(lengths, 1))).astype(np.float32)
        return csr_matrix((np.repeat(scale, lengths), indices, indptr), (len(texts), len(self.counts_)))

    def indices(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """The matrix as (indices int32, indptr int64), without its values."""
        index = index_of(self.bits_)
        seen = np.zeros(len(self.counts_), np.uint32)
        parts, indptr = [], [np.zeros(1, np.int64)]
        for first, codes, ends, room in chunks(texts):
            indices = np.empty(2 * LONGEST * (len(codes) + len(ends)), np.int32)
            pointers = np.empty(len(ends), np.int64)
            n = emit_texts(codes, ends, table(), room, seen, first + 1, index, indices, pointers)
            parts.append(indices[:n].copy())
            indptr.append(pointers + indptr[-1][-1])
        return np.concatenate([np.empty(0, np.int32), *parts]), np.concatenate(indptr)


def chunks(texts: Sequence[str]) -> Iterator[tuple[int, np.ndarray, np.ndarray, Room]]:
    """(index of the first text, code points end to end, end of each text, room) for runs of texts."""
    for first in range(0, len(texts), _CHUNK):
        chunk = texts[first : first + _CHUNK]
        lengths = np.array([len(text) for text in chunk])
        yield first, codes_of("".join(chunk)), np.cumsum(lengths), Room.of(int(lengths.max()))
