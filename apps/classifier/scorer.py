"""ScoredTexts comments with a loaded model and explains the scores. Every app that scores imports it.

Serving processes import this module, so it does not import scikit-learn.
"""

import hashlib
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple, Self

import numpy as np

from . import encoder, languages
from .artifact import Artifact
from .encoder import HIGHEST_FIRST, Encoder, Mode, length_factor
from .kernels.layout import LABEL_COUNT, STACKING_NAMES, ScorerArrays, Workspace
from .kernels.normalisation import normalise_codes
from .kernels.scoring import final_logits, score_text, score_texts, stacking_features, word_contributions
from .labels import LABELS
from .normalise import codes_of, table

_TEXTS_PER_BATCH, _CODES_PER_BATCH = 512, 1 << 19
# Reading takes a hundred times as long, so smaller batches share it better between threads.
_READ_TEXTS_PER_BATCH = 32
_MAX_STAMP = 1 << 32
_TINY = 1e-15
# How much more common English is than any other language that the detector knows.
_ENGLISH_ODDS = 10.0
_MIN_ENGLISH = 0.5  # the probability of English from which an obfuscated text is also read in plain letters
# Texts that explaining one text reads at most.
_MAX_OCCLUSIONS = 20


class ScoredTexts(NamedTuple):
    """The scores of texts.

    Attributes:
        probabilities: (n, labels) float64, in the order of LABELS.
        was_read: (n,) bool, whether the encoder read the text.
    """

    probabilities: np.ndarray
    was_read: np.ndarray


@dataclass(frozen=True)
class Span:
    """A word of the original text, `text[begin:end]`, and its contributions (6,) to the labels' logits.

    The contribution to the first level is exact. That to the encoder is the decrease of its logit without the
    word, or an equal share of the decrease without several words (occlusion; Zeiler and Fergus,
    "Visualizing and understanding convolutional networks", 2014).
    """

    begin: int
    end: int
    contributions: np.ndarray


@dataclass(frozen=True)
class Explanation:
    """The reasons for a score: `intercepts + sum of spans + adjustments == logits`, all (6,) float64.

    The adjustment is the difference that the second stage, calibration and the encoder make to the linear
    logit. Probabilities are the logistic function of the logits. Spans are in order and do not overlap;
    offsets count code points.
    """

    logits: np.ndarray
    intercepts: np.ndarray
    adjustments: np.ndarray
    spans: list[Span]


class _Reading(NamedTuple):
    """The logits of both levels for a text, and how they are combined; all arrays are (labels,).

    `may_be_english` says how the text was read, see `Encoder.logits`.
    """

    first: np.ndarray
    encoder: np.ndarray
    first_weight: np.ndarray
    encoder_weight: np.ndarray
    offset: np.ndarray
    may_be_english: bool

    def combine(self) -> np.ndarray:
        """Return the combined logits."""
        first = np.minimum(self.first, HIGHEST_FIRST)
        result: np.ndarray = self.first_weight * first + self.encoder_weight * self.encoder + self.offset
        return result


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
    """An immutable model in memory; every method may be called from any thread.

    The first level scores every text by its n-grams. The encoder reads what the first level does not score
    as harmless, and what is not surely English. For English text, the logit of a label is then a weighted sum
    of both levels' logits. The less probable English is, the more the encoder's logit counts alone.
    """

    def __init__(
        self,
        manifest: dict[str, Any],
        model: ScorerArrays,
        reader: Encoder | None = None,
        mode: Mode = Mode.AUTO,
    ) -> None:
        self.manifest = manifest
        self.thresholds = np.array([manifest["thresholds"][label] for label in LABELS], np.float64)
        self.model = ScorerArrays(*(np.ascontiguousarray(array) for array in model))
        self._table = table()
        self._state = _ThreadState(len(model.weights))
        self._encoder = None if mode == Mode.NEVER else reader
        if self._encoder:
            head = manifest["encoder"]
            self._head = np.array([head["head"][label] for label in LABELS], np.float64).T
            self._read_from = 0.0 if mode == Mode.ALWAYS else head["read_from"]

    @classmethod
    def load(cls, artifact: Artifact, expected_sha256: str | None = None) -> Self:
        """Load the model of an artifact, and the encoder that it was fitted with.

        If this process has another encoder, nothing is read, and a warning is logged.

        Raises:
            ArtifactError: The artifact is damaged, too new or not the expected one.
        """
        manifest, model = artifact.open(expected_sha256)
        reader = encoder.load_if_usable(manifest["encoder"]["sha256"]) if "encoder" in manifest else None
        return cls(manifest, model, reader, encoder.configuration.mode)

    @property
    def languages(self) -> tuple[str, ...]:
        """The languages that the model scores, as ISO 639-1 codes; English comes first."""
        return ("en", *self.other_languages)

    @property
    def other_languages(self) -> Mapping[str, Mapping[str, Any]]:
        """The languages besides English, and the state and figures of each, see `Encoder.languages`."""
        return self._encoder.languages if self._encoder else {}

    def score(self, text: str) -> np.ndarray:
        """Return the (6,) float64 probabilities of any string, in the order of LABELS."""
        return self.rate([text]).probabilities[0]

    def score_many(self, texts: Sequence[str], threads: int | None = None) -> np.ndarray:
        """Return the (n, 6) float64 probabilities; `threads` defaults to the cores this process may use."""
        return self.rate(texts, threads).probabilities

    def can_score(self, text: str) -> bool:
        """Return whether the model can score a text; False only if its language is certainly another one."""
        return languages.detect(text, self.languages).is_supported

    def flag(self, texts: Sequence[str]) -> np.ndarray:
        """Return (n,) bool: whether a label of the text reaches its threshold."""
        return np.any(self.score_many(texts) >= self.thresholds, axis=1)

    def rate(self, texts: Sequence[str], threads: int | None = None) -> ScoredTexts:
        """Return the scores of texts; `threads` defaults to the cores this process may use."""
        batches = list(_batches(texts, _READ_TEXTS_PER_BATCH if self._encoder else _TEXTS_PER_BATCH))
        threads = min(threads or len(os.sched_getaffinity(0)), len(batches))
        if threads <= 1:
            parts = [self._rate_batch(batch) for batch in batches]
        else:
            with ThreadPoolExecutor(threads) as pool:
                parts = list(pool.map(self._rate_batch, batches))
        if len(parts) == 1:
            return parts[0]
        if not parts:
            return ScoredTexts(np.empty((0, LABEL_COUNT)), np.zeros(0, bool))
        return ScoredTexts(*map(np.concatenate, zip(*parts, strict=True)))

    def _rate_batch(self, texts: Sequence[str]) -> ScoredTexts:
        probabilities = self._first_probabilities(texts)
        was_read = np.zeros(len(texts), bool)
        if self._encoder:
            first = _logits(probabilities)
            readings: dict[
                str, _Reading | None
            ] = {}  # equal texts, such as repeated sentences, are read once
            for row, text in enumerate(texts):
                if text not in readings:
                    readings[text] = self._read(text, first[row])
                if reading := readings[text]:
                    probabilities[row] = _logistic(reading.combine())
                    was_read[row] = True
        return ScoredTexts(probabilities, was_read)

    def _first_probabilities(self, texts: Sequence[str]) -> np.ndarray:
        """Return the (n, labels) probabilities of the first level."""
        if len(texts) == 1:
            return self._score(score_text, texts[0], np.array([len(texts[0])]), len(texts[0]))
        lengths = np.array([len(text) for text in texts])
        return self._score(score_texts, "".join(texts), np.cumsum(lengths), int(lengths.max()))

    def _first_logits(self, texts: Sequence[str]) -> np.ndarray:
        return _logits(self._first_probabilities(texts))

    def _read(self, text: str, first: np.ndarray) -> "_Reading | None":
        """Return what the encoder says about a text, or None if it need not be read.

        Args:
            first: (labels,) calibrated logits of the first level.
        """
        if self._encoder is None:
            return None
        revealed = encoder.reveal(text)
        if revealed != text:
            first = np.maximum(first, self._first_logits([revealed])[0])
        language, english = languages.identify(revealed, self._encoder.languages)
        if english >= languages.CONFIDENCE:
            if _logistic(first.max()) < self._read_from * length_factor(len(text)):
                return None
            english = 1.0
        else:
            english = _ENGLISH_ODDS * english / (_ENGLISH_ODDS * english + 1 - english)
        may_be_english = language == languages.UNKNOWN or english >= _MIN_ENGLISH
        for variant in encoder.variants(text, may_be_english=may_be_english)[1:]:
            first = np.maximum(first, self._first_logits([variant])[0])
        (logits,) = self._encoder.logits([text], may_be_english=may_be_english)
        first_weight, encoder_weight, offset = self._combination(language, english)
        return _Reading(first, logits, first_weight, encoder_weight, offset, may_be_english)

    def _combination(self, language: str, english: float) -> np.ndarray:
        """Return for each label the weight of both levels' logits and an offset, (3, labels).

        Args:
            english: the probability that the text is in English and not in the language.
        """
        assert self._encoder
        other = np.zeros_like(self._head)
        other[1:] = self._encoder.calibration(language)
        weights: np.ndarray = english * self._head + (1 - english) * other
        return weights

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
        reading = self._read(text, logits)
        if reading:
            logits = reading.combine()
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
        if reading:
            effects = self._occlusion_effects(text, spans, reading)
            spans = [
                Span(
                    span.begin,
                    span.end,
                    reading.first_weight * span.contributions + reading.encoder_weight * effect,
                )
                for span, effect in zip(spans, effects, strict=True)
            ]
        intercepts = self.model.intercept.copy()
        total = sum((span.contributions for span in spans), np.zeros(LABEL_COUNT))
        return Explanation(logits, intercepts, logits - intercepts - total, spans)

    def _occlusion_effects(self, text: str, spans: Sequence[Span], reading: _Reading) -> np.ndarray:
        """Return for each span the (labels,) decrease of the encoder's logits without it.

        All occurrences of a word are left out together. In a long text, groups of words are left out first,
        and then the words of the strongest groups.
        """
        assert self._encoder
        effects = np.zeros((len(spans), LABEL_COUNT))
        occurrences: dict[str, list[int]] = {}
        for index, span in enumerate(spans):
            occurrences.setdefault(text[span.begin : span.end].casefold(), []).append(index)
        words = list(occurrences.values())

        def occlude(first: int, end: int) -> None:
            """Share the effect of a group of words equally among their spans."""
            assert self._encoder
            indices = sorted(index for word in words[first:end] for index in word)
            begins = [0, *(spans[index].end for index in indices)]
            ends = [*(spans[index].begin for index in indices), len(text)]
            rest = "".join(text[begin:end] for begin, end in zip(begins, ends, strict=True))
            (logits,) = self._encoder.logits([rest], may_be_english=reading.may_be_english)
            effects[indices] = (reading.encoder - logits) / len(indices)

        count = len(words) if len(words) <= _MAX_OCCLUSIONS else _MAX_OCCLUSIONS // 2
        edges = np.linspace(0, len(words), count + 1).round().astype(int).tolist()
        groups = list(pairwise(edges))
        strengths = []
        for first, end in groups:
            occlude(first, end)
            strengths.append(np.abs(sum(effects[index] for word in words[first:end] for index in word)).max())
        left = _MAX_OCCLUSIONS - count
        for first, end in (groups[k] for k in np.argsort([-strength for strength in strengths])):
            if 1 < end - first <= left:
                left -= end - first
                for index in range(first, end):
                    occlude(index, index + 1)
        return effects

    def text_key(self, text: str) -> bytes:
        """Return 16 bytes that are equal for texts with the same normalised form."""
        workspace = self._state.reserve(len(text))
        n, _ = normalise_codes(codes_of(text), self._table, workspace)
        return hashlib.blake2b(workspace.normalised[:n].tobytes(), digest_size=16).digest()


def _logits(probabilities: np.ndarray) -> np.ndarray:
    clipped = probabilities.clip(_TINY, 1 - _TINY)
    logits: np.ndarray = np.log(clipped / (1 - clipped))
    return logits


def _logistic(logits: np.ndarray) -> np.ndarray:
    probabilities: np.ndarray = 1 / (1 + np.exp(-logits))
    return probabilities


def _batches(texts: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    begin, codes = 0, 0
    for i, text in enumerate(texts):
        codes += len(text)
        if i + 1 - begin == size or codes > _CODES_PER_BATCH:
            yield texts[begin : i + 1]
            begin, codes = i + 1, 0
    if begin < len(texts):
        yield texts[begin:]


def warm(scorer: Scorer) -> None:
    """Compile the kernels that serving calls, or load them from numba's cache; read a text."""
    scorer.score("warm")
    scorer.score_many(["warm", "up"], threads=1)
    scorer.explain("warm")
    scorer.text_key("warm")
