"""Serving: a comment in, six calibrated probabilities and their reasons out. Imports no scikit-learn."""

import hashlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from .artifact import Artifact
from .kernels import (
    INPUTS,
    LABEL_COUNT,
    Model,
    Room,
    contributions,
    final_logits,
    level_two_inputs,
    normalise_codes,
    score_text,
    score_texts,
)
from .labels import LABELS
from .normalise import codes_of, table

_CHUNK_TEXTS, _CHUNK_CODES = 512, 1 << 19


@dataclass(frozen=True)
class Span:
    """A word of the original text, `text[begin:end]`, and what it adds to each label's logit (6,)."""

    begin: int
    end: int
    contributions: np.ndarray


@dataclass(frozen=True)
class Explanation:
    """Why a text scores as it does: `intercepts + sum of spans + adjustments == logits`, all (6,) float64.

    The adjustment is what the second level and calibration make of the linear logit. Probabilities are the
    logistic function of the logits. Spans are in order and do not overlap; offsets count code points.
    """

    logits: np.ndarray
    intercepts: np.ndarray
    adjustments: np.ndarray
    spans: list[Span]


class _Workspace(threading.local):
    """One thread's working memory; grows to the longest text seen, up to a bound, and is used again."""

    def __init__(self, features: int) -> None:
        self.capacity = 0
        self.tag = 0
        self.seen = np.zeros(features, np.uint32)
        self.inputs = np.zeros(len(INPUTS), np.float32)
        self.reserve(4096)

    def reserve(self, length: int) -> Room:
        """Room for a text of `length` code points; a very long one gets room of its own."""
        if length > self.capacity:
            room = Room.of(length)
            if length > 1 << 16:
                return room
            self.room, self.capacity = room, length
        return self.room

    def tags(self, wanted: int) -> int:
        """A start such that `wanted` tags above it are unused."""
        if self.tag + wanted >= 1 << 32:
            self.seen[:] = 0
            self.tag = 0
        return self.tag


class Scorer:
    """An immutable model in memory; every method may be called from any thread."""

    def __init__(self, manifest: dict[str, Any], model: Model) -> None:
        self.manifest = manifest
        self.thresholds = np.array([manifest["thresholds"][label] for label in LABELS], np.float64)
        self.model = Model(*(np.ascontiguousarray(array) for array in model))
        self._table = table()
        self._workspace = _Workspace(len(model.weights))

    @classmethod
    def load(cls, artifact: Artifact, expected_sha256: str | None = None) -> Self:
        """Open `artifact`; raises ArtifactError when it is damaged, too new or not the expected one."""
        return cls(*artifact.open(expected_sha256))

    def score(self, text: str) -> np.ndarray:
        """(6,) float64 probabilities of any string, in the order of LABELS."""
        return self._score(score_text, text, np.array([len(text)]), len(text))[0]

    def score_many(self, texts: Sequence[str], threads: int | None = None) -> np.ndarray:
        """(n, 6) float64 probabilities; `threads` defaults to the cores this process may use."""
        chunks = list(_chunks(texts))
        threads = min(threads or len(os.sched_getaffinity(0)), len(chunks))
        if threads <= 1:
            parts = [self._score_chunk(chunk) for chunk in chunks]
        else:
            with ThreadPoolExecutor(threads) as pool:
                parts = list(pool.map(self._score_chunk, chunks))
        return np.concatenate(parts) if parts else np.empty((0, LABEL_COUNT))

    def _score_chunk(self, texts: Sequence[str]) -> np.ndarray:
        lengths = np.array([len(text) for text in texts])
        return self._score(score_texts, "".join(texts), np.cumsum(lengths), int(lengths.max()))

    def _score(self, kernel: Callable[..., int], text: str, ends: np.ndarray, longest: int) -> np.ndarray:
        out = np.empty((len(ends), LABEL_COUNT))
        work = self._workspace
        room = work.reserve(longest)
        start = work.tags(len(text) + len(ends))
        codes = codes_of(text)
        work.tag = kernel(codes, ends, self._table, room, self.model, work.seen, start, work.inputs, out)
        return out

    def explain(self, text: str) -> Explanation:
        """The exact contribution of each word to each label's logit."""
        codes, work = codes_of(text), self._workspace
        room = work.reserve(len(text))
        logits, shares = np.empty(LABEL_COUNT), np.empty((4 * len(text) + 1, LABEL_COUNT))
        work.tag = level_two_inputs(
            codes, self._table, room, self.model, work.seen, work.tags(len(text) + 1), work.inputs
        )
        final_logits(work.inputs, self.model, logits)
        occurrences = np.zeros(len(self.model.weights), np.int32)
        words = contributions(codes, self._table, room, self.model, occurrences, shares)
        spans: list[Span] = []
        for begin, end, share in zip(room.word_begin[:words], room.word_end[:words], shares, strict=False):
            if spans and begin < spans[-1].end:
                # One original character can expand to several words: they share its span.
                spans[-1] = Span(
                    spans[-1].begin, max(int(end), spans[-1].end), spans[-1].contributions + share
                )
            else:
                spans.append(Span(int(begin), int(end), share))
        intercepts = self.model.intercept.copy()
        return Explanation(logits, intercepts, logits - intercepts - shares[:words].sum(axis=0), spans)

    def text_key(self, text: str) -> bytes:
        """16 bytes that are equal for texts with the same normalised form."""
        room = self._workspace.reserve(len(text))
        n, _ = normalise_codes(codes_of(text), self._table, room)
        return hashlib.blake2b(room.out[:n].tobytes(), digest_size=16).digest()


def _chunks(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    begin, codes = 0, 0
    for i, text in enumerate(texts):
        codes += len(text)
        if i + 1 - begin == _CHUNK_TEXTS or codes > _CHUNK_CODES:
            yield texts[begin : i + 1]
            begin, codes = i + 1, 0
    if begin < len(texts):
        yield texts[begin:]


def warm(scorer: Scorer) -> None:
    """Compile, or load from numba's cache, everything that serving calls."""
    scorer.score("warm")
    scorer.score_many(["warm", "up"], threads=1)
    scorer.explain("warm")
    scorer.text_key("warm")
