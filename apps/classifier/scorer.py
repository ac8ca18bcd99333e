"""Scores comments with a loaded model and explains the scores. Every app that scores imports it.

Serving processes import this module, so it does not import scikit-learn.
"""

import hashlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from .artifact import Artifact
from .kernels.layout import LABEL_COUNT, STACKING_NAMES, ScorerArrays, Workspace
from .kernels.normalisation import normalise_codes
from .kernels.scoring import final_logits, score_text, score_texts, stacking_features, word_contributions
from .labels import LABELS
from .normalise import codes_of, table

_TEXTS_PER_BATCH, _CODES_PER_BATCH = 512, 1 << 19
_MAX_STAMP = 1 << 32


@dataclass(frozen=True)
class Span:
    """A word of the original text, `text[begin:end]`, and its contributions (6,) to the labels' logits."""

    begin: int
    end: int
    contributions: np.ndarray


@dataclass(frozen=True)
class Explanation:
    """The reasons for a score: `intercepts + sum of spans + adjustments == logits`, all (6,) float64.

    The adjustment is the difference that the second stage and calibration make to the linear logit.
    Probabilities are the logistic function of the logits. Spans are in order and do not overlap; offsets
    count code points.
    """

    logits: np.ndarray
    intercepts: np.ndarray
    adjustments: np.ndarray
    spans: list[Span]


class _ThreadState(threading.local):
    """One thread's working memory, which grows to the longest text scored, up to a limit."""

    def __init__(self, features: int) -> None:
        self.capacity = 0
        self.stamp = 0
        self.last_seen = np.zeros(features, np.uint32)
        self.inputs = np.zeros(len(STACKING_NAMES), np.float32)
        self.reserve(4096)

    def reserve(self, length: int) -> Workspace:
        """Return a workspace for `length` code points; the one for a very long text is not kept."""
        if length > self.capacity:
            workspace = Workspace.allocate(length)
            if length > 1 << 16:
                return workspace
            self.workspace, self.capacity = workspace, length
        return self.workspace

    def reserve_stamps(self, count: int) -> int:
        """Return a stamp above which `count` stamps are unused."""
        if self.stamp + count >= _MAX_STAMP:
            self.last_seen[:] = 0
            self.stamp = 0
        return self.stamp


class Scorer:
    """An immutable model in memory; every method may be called from any thread."""

    def __init__(self, manifest: dict[str, Any], model: ScorerArrays) -> None:
        self.manifest = manifest
        self.thresholds = np.array([manifest["thresholds"][label] for label in LABELS], np.float64)
        self.languages: tuple[str, ...] = tuple(manifest.get("languages", ("en",)))  # ISO 639-1
        self.model = ScorerArrays(*(np.ascontiguousarray(array) for array in model))
        self._table = table()
        self._state = _ThreadState(len(model.weights))

    @classmethod
    def load(cls, artifact: Artifact, expected_sha256: str | None = None) -> Self:
        """Load the model of an artifact.

        Raises:
            ArtifactError: The artifact is damaged, too new or not the expected one.
        """
        return cls(*artifact.open(expected_sha256))

    def score(self, text: str) -> np.ndarray:
        """Return the (6,) float64 probabilities of any string, in the order of LABELS."""
        return self._score(score_text, text, np.array([len(text)]), len(text))[0]

    def score_many(self, texts: Sequence[str], threads: int | None = None) -> np.ndarray:
        """Return the (n, 6) float64 probabilities; `threads` defaults to the cores this process may use."""
        batches = list(_batches(texts))
        threads = min(threads or len(os.sched_getaffinity(0)), len(batches))
        if threads <= 1:
            parts = [self._score_batch(batch) for batch in batches]
        else:
            with ThreadPoolExecutor(threads) as pool:
                parts = list(pool.map(self._score_batch, batches))
        return np.concatenate(parts) if parts else np.empty((0, LABEL_COUNT))

    def _score_batch(self, texts: Sequence[str]) -> np.ndarray:
        lengths = np.array([len(text) for text in texts])
        return self._score(score_texts, "".join(texts), np.cumsum(lengths), int(lengths.max()))

    def _score(self, kernel: Callable[..., int], text: str, ends: np.ndarray, longest: int) -> np.ndarray:
        probabilities = np.empty((len(ends), LABEL_COUNT))
        state = self._state
        workspace = state.reserve(longest)
        start = state.reserve_stamps(len(text) + len(ends))
        state.stamp = kernel(
            codes_of(text),
            ends,
            self._table,
            workspace,
            self.model,
            state.last_seen,
            start,
            state.inputs,
            probabilities,
        )
        return probabilities

    def explain(self, text: str) -> Explanation:
        """Return the exact contribution of each word to the logit of each label."""
        codes, state = codes_of(text), self._state
        workspace = state.reserve(len(text))
        logits, contributions = np.empty(LABEL_COUNT), np.empty((4 * len(text) + 1, LABEL_COUNT))
        start = state.reserve_stamps(len(text) + 1)
        state.stamp = stacking_features(
            codes, self._table, workspace, self.model, state.last_seen, start, state.inputs
        )
        final_logits(state.inputs, self.model, logits)
        occurrences = np.zeros(len(self.model.weights), np.int32)
        count = word_contributions(codes, self._table, workspace, self.model, occurrences, contributions)
        contributions = contributions[:count]
        spans: list[Span] = []
        for begin, end, contribution in zip(
            workspace.word_begin[:count].tolist(),
            workspace.word_end[:count].tolist(),
            contributions,
            strict=True,
        ):
            if spans and begin < spans[-1].end:
                # One original character can expand to several words, which share its span.
                last = spans[-1]
                spans[-1] = Span(last.begin, max(end, last.end), last.contributions + contribution)
            else:
                spans.append(Span(begin, end, contribution))
        intercepts = self.model.intercept.copy()
        return Explanation(logits, intercepts, logits - intercepts - contributions.sum(axis=0), spans)

    def text_key(self, text: str) -> bytes:
        """Return 16 bytes that are equal for texts with the same normalised form."""
        workspace = self._state.reserve(len(text))
        n, _ = normalise_codes(codes_of(text), self._table, workspace)
        return hashlib.blake2b(workspace.normalised[:n].tobytes(), digest_size=16).digest()


def _batches(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    begin, codes = 0, 0
    for i, text in enumerate(texts):
        codes += len(text)
        if i + 1 - begin == _TEXTS_PER_BATCH or codes > _CODES_PER_BATCH:
            yield texts[begin : i + 1]
            begin, codes = i + 1, 0
    if begin < len(texts):
        yield texts[begin:]


def warm(scorer: Scorer) -> None:
    """Compile the kernels that serving calls, or load them from numba's cache."""
    scorer.score("warm")
    scorer.score_many(["warm", "up"], threads=1)
    scorer.explain("warm")
    scorer.text_key("warm")
