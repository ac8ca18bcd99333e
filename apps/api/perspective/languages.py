"""Which language a comment is in, found offline, and whether the model reads it.

The model reads English. What Perspective read in other languages is refused in the way that its clients
know, one attribute at a time, rather than scored by a model that can't: 0.02 for an insult in German would be
a lie. That holds for the languages that a request names and, where it names none, for the detected one.

Detection (py3langid, naive Bayes over byte n-grams) chooses among Perspective's languages. Of 4,743 English
comments of the Jigsaw data none was taken for another language at a confidence of 0.9, while whole sentences
in other languages nearly always reach it. Below it, and for text without words, the answer is English: short,
misspelt and garbled comments are scored.

The automaton and the weights are the library's. Its loop over the bytes, in Python, took a fifth of an
answer's time and is compiled here.
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
# Characters that are looked at: enough to be sure, and fewer where the answer decides nothing.
HEAD, HINT = 250, 60


class _Detector(NamedTuple):
    """The automaton that finds n-grams, and what each says for each language."""

    moves: np.ndarray  # (rows, 256) uint32: the next state
    states: np.ndarray  # (states, 2) int32: each one's row of `moves`, and the n-gram that ends there, or -1
    weights: np.ndarray  # (features, languages) float32: log-likelihoods
    priors: np.ndarray  # (languages,) float32
    counts: np.ndarray  # (features,) int32: zeros between calls
    found: np.ndarray  # (bytes,) int32: room for the n-grams of a text


@cache
def _detector() -> _Detector:
    model = LanguageIdentifier.from_model_file(MODEL_FILE)
    kept = [model.nb_classes.index(language) for language in PERSPECTIVE]
    return _Detector(
        np.array(model.tk_nextmove, np.uint32).reshape(-1, 256),
        np.array([model.tk_row, model.tk_output], np.int32).T.copy(),
        np.ascontiguousarray(model.nb_ptc[:, kept], np.float32),
        model.nb_pc[kept].astype(np.float32),
        np.zeros(len(model.nb_ptc), np.int32),
        np.empty(4 * HEAD, np.int32),
    )


@njit(cache=True)
def _classify(text: np.ndarray, detector: _Detector) -> tuple[int, float]:
    """Which language UTF-8 bytes are in, and its posterior probability; 0 where no n-gram is known.

    Keeps Python's lock: `counts` and `found` are one thread's at a time.
    """
    moves, states, weights, priors, counts, found = detector
    state, distinct = 0, 0
    for byte in text:
        state = moves[states[state, 0], byte]
        feature = states[state, 1]
        if feature >= 0:
            if not counts[feature]:
                found[distinct] = feature
                distinct += 1
            counts[feature] += 1
    if not distinct:
        return 0, 0.0
    scores = priors.copy()
    for feature in found[:distinct]:
        scores += np.float32(np.log1p(counts[feature])) * weights[feature]
        counts[feature] = 0
    scores /= np.sqrt(np.float32(len(text)))  # keeps the posterior calibrated, whatever the length
    best = np.argmax(scores)
    return best, 1 / np.exp(scores - scores[best]).sum()


def load() -> None:
    """Load and compile the detector (50 MB, under a second) before the first request needs it."""
    detect("warm")


def detect(text: str, length: int = HEAD) -> str:
    """Return the ISO 639-1 code of the language a text begins in; English where nothing else is certain."""
    head = text[:length]
    if head.isupper():
        head = head.lower()
    if not head.isascii():
        head = unicodedata.normalize("NFC", head)[:length]
    encoded = np.frombuffer(head.encode("utf-8", "surrogatepass"), np.uint8)
    language, confidence = _classify(encoded, _detector())
    return PERSPECTIVE[language] if confidence >= CONFIDENCE else SUPPORTED


def unsupported(languages: Sequence[str]) -> list[str]:
    """Return those of the languages (BCP 47: `en-GB` is English) that the model doesn't read."""
    return [tag for tag in languages if tag.replace("_", "-").lower().split("-")[0] != SUPPORTED]
