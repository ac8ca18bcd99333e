"""Detects the language of a comment offline.

The model reads English only. A request in another language gets Perspective's error for unsupported
languages, because the scores would be wrong: an insult in German would get 0.02. The languages are those that
the request names, otherwise the detected one.

Detection (py3langid: naive Bayes over byte n-grams) chooses among Perspective's languages. Of 4,743 English
comments of the Jigsaw data, none was detected as another language with a confidence of 0.9, while whole
sentences in other languages nearly always reach it. Below it, and for text without words, the result is
English, so that short, misspelt and garbled comments are scored.

This module uses the automaton and weights of the library, but a compiled loop over the bytes, because the
library's loop in Python takes three times as long (`timeit`, 250 characters: 96 µs instead of 30 µs).
"""

import unicodedata
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
from numba import njit
from py3langid.langid import MODEL_FILE, LanguageIdentifier

SUPPORTED = "en"
PERSPECTIVE = [
    "ar",
    "cs",
    "de",
    "en",
    "es",
    "fr",
    "hi",
    "id",
    "it",
    "ja",
    "ko",
    "nl",
    "pl",
    "pt",
    "ru",
    "sv",
    "zh",
]
CONFIDENCE = 0.9
# Characters to examine: HEAD for a reliable result, HINT if the request names its languages.
HEAD, HINT = 250, 60


class _Detector(NamedTuple):
    """The automaton that finds n-grams, and their weights for each language."""

    classes: np.ndarray  # (256,) uint8: the class of each byte; bytes of a class have the same moves
    moves: np.ndarray  # (rows, classes) uint32: the next state by class
    states: (
        np.ndarray
    )  # (states, 2) int32: the state's row of `moves`, and the n-gram that ends in the state, or -1
    weights: np.ndarray  # (features, languages) float32: log-likelihoods
    priors: np.ndarray  # (languages,) float32
    counts: np.ndarray  # (features,) int32: buffer, zero between calls
    ngrams: np.ndarray  # (bytes,) int32: buffer for the n-grams of a text


@cache
def _detector() -> _Detector:
    model = LanguageIdentifier.from_model_file(MODEL_FILE)
    indices = [model.nb_classes.index(language) for language in PERSPECTIVE]
    moves = np.array(model.tk_nextmove, np.uint32).reshape(-1, 256)
    # Sixty columns are equal to another one. Without them the table takes 30 MB instead of 40 MB.
    columns = [hash(column.tobytes()) for column in moves.T]
    _, first_bytes, classes = np.unique(columns, return_index=True, return_inverse=True)
    return _Detector(
        classes.astype(np.uint8),
        np.take(moves, first_bytes, axis=1),
        np.array([model.tk_row, model.tk_output], np.int32).T.copy(),
        np.ascontiguousarray(model.nb_ptc[:, indices], np.float32),
        model.nb_pc[indices].astype(np.float32),
        np.zeros(len(model.nb_ptc), np.int32),
        np.empty(4 * HEAD, np.int32),
    )


@njit(cache=True)
def _classify(text: np.ndarray, detector: _Detector) -> tuple[int, float]:
    """Return the index of the most probable language of UTF-8 bytes, and its posterior probability.

    The probability is 0 if the text has no known n-gram. The function keeps the global interpreter lock,
    because all threads share `counts` and `ngrams`.
    """
    classes, moves, states, weights, priors, counts, ngrams = detector
    state, distinct = 0, 0
    for byte in text:
        state = moves[states[state, 0], classes[byte]]
        feature = states[state, 1]
        if feature >= 0:
            if not counts[feature]:
                ngrams[distinct] = feature
                distinct += 1
            counts[feature] += 1
    if not distinct:
        return 0, 0.0
    scores = priors.copy()
    for feature in ngrams[:distinct]:
        scores += np.float32(np.log1p(counts[feature])) * weights[feature]
        counts[feature] = 0
    scores /= np.sqrt(np.float32(len(text)))  # keeps the posterior calibrated for texts of any length
    best = int(np.argmax(scores))
    return best, 1 / np.exp(scores - scores[best]).sum()


def load() -> None:
    """Load and compile the detector, which takes under a second, before the first request needs it."""
    detect("warm")


def detect(text: str, length: int = HEAD) -> str:
    """Return the ISO 639-1 code of the language of a text's first characters; English if none is certain."""
    head = text[:length]
    if head.isupper():
        head = head.lower()
    if not head.isascii():
        head = unicodedata.normalize("NFC", head)[:length]
    encoded = np.frombuffer(head.encode("utf-8", "surrogatepass"), np.uint8)
    language, confidence = _classify(encoded, _detector())
    return PERSPECTIVE[language] if confidence >= CONFIDENCE else SUPPORTED


def unsupported(languages: Sequence[str]) -> list[str]:
    """Return the languages (BCP 47 tags: `en-GB` is English) that the model doesn't read."""
    return [tag for tag in languages if tag.replace("_", "-").lower().split("-")[0] != SUPPORTED]
