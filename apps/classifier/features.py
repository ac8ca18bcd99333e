"""The scorer's features as a sparse matrix, for fitting with scikit-learn or the package's own solver."""

from collections.abc import Sequence
from typing import Self

import numpy as np
from numba import njit
from scipy.sparse import csr_matrix
from sklearn.base import BaseEstimator, TransformerMixin

from .ngrams import HASH_BITS, feature_of, hash_words, ranks_of, slots_room
from .normalise import Buffers, codes_of, normalise_codes, table

_CHUNK = 2048


@njit(nogil=True, cache=True)
def _slots_of(codes, tables, buffers, slots, slot_end, sentence_end):
    pages, cells, expansions = tables
    cell, at, out, out_at, word_end, surface = buffers
    n, _ = normalise_codes(codes, pages, cells, expansions, cell, at, out, out_at, word_end, surface)
    words, _ = hash_words(out, n, slots, slot_end, sentence_end)
    return slot_end[words - 1] if words else 0


@njit(nogil=True, cache=True)
def _count(codes, ends, tables, buffers, room, seen, first, counts):
    """Add to `counts` the number of texts each hash slot occurs in."""
    slots, slot_end, sentence_end = room
    begin = 0
    for i in range(len(ends)):
        k = _slots_of(codes[begin : ends[i]], tables, buffers, slots, slot_end, sentence_end)
        begin = ends[i]
        for j in range(k):
            if seen[slots[j]] != first + i:
                seen[slots[j]] = first + i
                counts[slots[j]] += 1


@njit(nogil=True, cache=True)
def _emit(codes, ends, tables, buffers, room, seen, first, bits, ranks, indices, indptr):
    """Write each text's live features, in order of first occurrence; returns how many there are in all."""
    slots, slot_end, sentence_end = room
    begin, n = 0, 0
    for i in range(len(ends)):
        k = _slots_of(codes[begin : ends[i]], tables, buffers, slots, slot_end, sentence_end)
        begin = ends[i]
        for j in range(k):
            feature = feature_of(slots[j], bits, ranks)
            if feature >= 0 and seen[feature] != first + i:
                seen[feature] = first + i
                indices[n] = feature
                n += 1
        indptr[i] = n
    return n


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
        for first, codes, ends, buffers, room in _chunks(texts):
            _count(codes, ends, table(), buffers, room, seen, first + 1, counts)
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
        ranks = ranks_of(self.bits_)
        seen = np.zeros(len(self.counts_), np.uint32)
        parts, indptr = [], [np.zeros(1, np.int64)]
        for first, codes, ends, buffers, room in _chunks(texts):
            indices = np.empty(slots_room(2 * len(codes) + len(ends)), np.int32)
            pointers = np.empty(len(ends), np.int64)
            n = _emit(codes, ends, table(), buffers, room, seen, first + 1, self.bits_, ranks, indices, pointers)
            parts.append(indices[:n].copy())
            indptr.append(pointers + indptr[-1][-1])
        return np.concatenate([np.empty(0, np.int32), *parts]), np.concatenate(indptr)


def _chunks(texts: Sequence[str]):
    for first in range(0, len(texts), _CHUNK):
        chunk = texts[first : first + _CHUNK]
        lengths = np.array([len(text) for text in chunk])
        longest = int(lengths.max())
        buffers = Buffers.of(longest)
        room = (
            np.empty(slots_room(2 * longest), np.uint32),
            np.empty(longest + 2, np.int32),
            np.empty(longest + 2, np.int32),
        )
        yield first, codes_of("".join(chunk)), np.cumsum(lengths), buffers, room
