"""Detects the language of a comment offline, and decides whether the model in service can score it.

The model names the languages that it reads (`Scorer.languages`). A comment in another language gets
Perspective's error for unsupported languages, because its scores would be wrong: an insult in German would
get 0.02. A comment is rejected only if its language is certain: of 8,000 comments of the Jigsaw data, three
were rejected, and none of them was English. Short, misspelt and garbled comments are scored.

Most comments need one step: py3langid (naive Bayes over byte n-grams) is certain that a comment in ASCII is
in the first language of the model. Other comments are examined more closely:

1. Characters that imitate Latin letters are replaced by them.
2. The script with most letters decides if the model reads no language that is written in it.
3. The letters in the model's scripts are classified among 61 languages. The comment is in a language that the
   model doesn't read if the whole comment and both of its halves are, in lower case and also after the
   normalisation of the classifier, which undoes leetspeak and repeated letters.

This module uses the automaton and weights of the library, but a compiled loop over the bytes, because the
library's loop in Python takes three times as long (`timeit`, 250 characters: 96 µs instead of 30 µs).
"""

import hashlib
import os
import re
import shutil
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from functools import cache, lru_cache
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numba
import numpy as np
from numba import njit
from py3langid.langid import MODEL_FILE, LanguageIdentifier

from .normalise import HOMOGLYPHS, normalise

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
# Further languages of the library in the scripts of PERSPECTIVE. Creoles of English and Latin are left out.
OTHERS = [
    *(
        "af",
        "az",
        "be",
        "bg",
        "ca",
        "cy",
        "da",
        "el",
        "et",
        "eu",
        "fa",
        "fi",
        "ga",
        "gl",
        "ha",
        "he",
        "hr",
        "hu",
    ),
    *(
        "ig",
        "is",
        "lt",
        "lv",
        "mk",
        "mr",
        "ms",
        "mt",
        "ne",
        "no",
        "ps",
        "ro",
        "sk",
        "sl",
        "so",
        "sq",
        "sr",
        "sw",
    ),
    *("tl", "tr", "uk", "ur", "uz", "vi", "yo", "zu"),
]
ALL = [*PERSPECTIVE, *OTHERS]
_ENGLISH = ALL.index(SUPPORTED)
UNKNOWN = "und"  # ISO 639-2: undetermined
# Languages by script, the most common one first; a script is the first word of its characters' names.
_LANGUAGES_OF = {
    "ARABIC": ("ar", "fa", "ps", "ur"),
    "ARMENIAN": ("hy",),
    "BENGALI": ("bn",),
    "CJK": ("zh", "ja"),
    "CYRILLIC": ("ru", "be", "bg", "mk", "sr", "uk"),
    "DEVANAGARI": ("hi", "mr", "ne"),
    "ETHIOPIC": ("am",),
    "GEORGIAN": ("ka",),
    "GREEK": ("el",),
    "GUJARATI": ("gu",),
    "GURMUKHI": ("pa",),
    "HANGUL": ("ko",),
    "HEBREW": ("he",),
    "HIRAGANA": ("ja",),
    "KANNADA": ("kn",),
    "KATAKANA": ("ja",),
    "KHMER": ("km",),
    "LAO": ("lo",),
    "MALAYALAM": ("ml",),
    "MYANMAR": ("my",),
    "SINHALA": ("si",),
    "TAMIL": ("ta",),
    "TELUGU": ("te",),
    "THAI": ("th",),
    "TIBETAN": ("bo",),
}
_KANA = ("HIRAGANA", "KATAKANA")
_LETTERS_OF = {"CJK": 3, "HANGUL": 2}  # an ideograph is about a syllable or a word
CONFIDENCE = 0.9
# A comment is in another language only if it has so many letters and words, and the languages of the model
# are less probable than this in the whole text and in its parts, and the two most probable ones more.
_MIN_LETTERS, _MIN_WORDS = 20, 4
_MAX_SUPPORTED, _MAX_SUPPORTED_IN_PART, _MIN_BEST = 0.1, 0.3, 0.8
_LATIN_OF = {imitation: letter for letter, imitations in HOMOGLYPHS.items() for imitation in imitations}
_NO_WORDS = re.compile(r"(?:https?://|www\.)\S+|[@#]\w+|[\d_]+")
_REPEATED = re.compile(r"(\w)\1+")
# Characters to examine: HEAD for a reliable result, HINT if the request names its languages.
HEAD, HINT = 250, 60


class _Tables(NamedTuple):
    """The automaton that finds n-grams, and their weights for each language."""

    classes: np.ndarray  # (256,) uint8: the class of each byte; bytes of a class have the same moves
    moves: np.ndarray  # (rows, classes) uint32: the next state by class
    states: (
        np.ndarray
    )  # (states, 2) int32: the state's row of `moves`, and the n-gram that ends in the state, or -1
    weights: np.ndarray  # (features, languages) int16: log-likelihoods times _SCALE
    priors: np.ndarray  # (languages,) float32
    all_weights: np.ndarray  # (features, ALL) int16
    all_priors: np.ndarray  # (ALL,) float32


class _Detector(NamedTuple):
    """The tables and the buffers of `_posteriors`."""

    tables: _Tables
    counts: np.ndarray  # (features,) int32: zero between calls
    ngrams: np.ndarray  # (bytes,) int32: the n-grams of a text


# The library's log-likelihoods are half-precision numbers below -2, and so multiples of 1 / _SCALE.
_SCALE = 512
_CONFIG: Any = numba.config  # its settings are set by name when numba is imported


@cache
def _detector() -> _Detector:
    tables = _load_tables()
    return _Detector(tables, np.zeros(len(tables.weights), np.int32), np.empty(4 * HEAD, np.int32))


def _load_tables() -> _Tables:
    """Return the tables from files beside the compiled functions; write the files first if necessary.

    Processes that map the same files share their memory. Converting the library's model takes 400 MB.
    """
    source = Path(__file__).read_bytes() + version("py3langid").encode()
    cache_folder = Path(_CONFIG.CACHE_DIR or Path(__file__).parent / "__pycache__")
    folder = cache_folder / f"languages-{hashlib.sha256(source).hexdigest()[:16]}"
    with suppress(OSError, ValueError, EOFError):
        return _map_tables(folder)
    tables = _convert_model()
    try:
        cache_folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=cache_folder) as temporary:
            written = Path(temporary) / folder.name
            written.mkdir()
            for name, table in tables._asdict().items():
                with (written / f"{name}.npy").open("wb") as file:
                    np.save(file, table)
                    file.flush()
                    os.fsync(file.fileno())
            shutil.rmtree(folder, ignore_errors=True)  # damaged files
            written.rename(folder)
        return _map_tables(folder)
    except OSError:  # the folder can't be written, or another process writes the files
        for table in tables:
            table.flags.writeable = False  # as mapped ones; other types would be compiled again
        return tables


def _map_tables(folder: Path) -> _Tables:
    arrays = [np.load(folder / f"{name}.npy", mmap_mode="r") for name in _Tables._fields]
    return _Tables(*map(np.asarray, arrays))


def _convert_model() -> _Tables:
    """Return the library's model as tables."""
    model = LanguageIdentifier.from_model_file(MODEL_FILE)
    weights = (model.nb_ptc * np.float32(_SCALE)).astype(np.int16)
    indices = [model.nb_classes.index(language) for language in PERSPECTIVE]
    all_indices = [model.nb_classes.index(language) for language in ALL]
    moves = np.array(model.tk_nextmove, np.uint32).reshape(-1, 256)
    # Sixty columns are equal to another one. Without them the table takes 30 MB instead of 40 MB.
    # Every process orders them alike, so that files of two processes fit together.
    columns = [hashlib.sha256(column.tobytes()).hexdigest() for column in moves.T]
    _, first_bytes, classes = np.unique(columns, return_index=True, return_inverse=True)
    return _Tables(
        classes.astype(np.uint8),
        np.take(moves, first_bytes, axis=1),
        np.array([model.tk_row, model.tk_output], np.int32).T.copy(),
        np.ascontiguousarray(weights[:, indices]),
        model.nb_pc[indices].astype(np.float32),
        np.ascontiguousarray(weights[:, all_indices]),
        model.nb_pc[all_indices].astype(np.float32),
    )


@njit(cache=True)
def _posteriors(text: np.ndarray, detector: _Detector, weights: np.ndarray, priors: np.ndarray) -> np.ndarray:
    """Return the posterior probabilities of the languages, float32, of UTF-8 bytes.

    They are 0 if the text has no known n-gram. The function keeps the global interpreter lock, because all
    threads share `counts` and `ngrams`.
    """
    tables, counts, ngrams = detector.tables, detector.counts, detector.ngrams
    classes, moves, states = tables.classes, tables.moves, tables.states
    state, distinct = 0, 0
    for byte in text:
        state = moves[states[state, 0], classes[byte]]
        feature = states[state, 1]
        if feature >= 0:
            if not counts[feature]:
                ngrams[distinct] = feature
                distinct += 1
            counts[feature] += 1
    scores = priors.copy()
    if not distinct:
        scores[:] = 0
        return scores
    for feature in ngrams[:distinct]:
        factor = np.float32(np.log1p(counts[feature]) / _SCALE)
        for language in range(len(scores)):
            scores[language] += factor * np.float32(weights[feature, language])
        counts[feature] = 0
    scores /= np.sqrt(np.float32(len(text)))  # keeps the posterior calibrated for texts of any length
    probabilities = np.exp(scores - scores.max())
    probabilities /= probabilities.sum()
    return probabilities


def load() -> None:
    """Load and compile the detector, which takes under a second, before the first request needs it."""
    find_probabilities("warm", is_quick=True)


class Detection(NamedTuple):
    """The language of a comment.

    Attributes:
        language: ISO 639-1, or `und` for a script that the detector doesn't know.
        is_supported: whether the model may score the comment; False only if that is certain.
        readable_text: the part of the comment in the scripts of the model's languages.
    """

    language: str
    is_supported: bool
    readable_text: str


def detect(text: str, supported: Sequence[str] = (SUPPORTED,), length: int = HEAD) -> Detection:
    """Return the language of a text's first characters; the most probable supported one if none is certain.

    Args:
        supported: the languages that the model reads, ISO 639-1; the first one is the default.
    """
    head = text[:length]
    if head.isascii() and _is_quickly_certain(head, supported[0]):
        return Detection(supported[0], True, head)
    return _examine(head, supported)


def _is_quickly_certain(text: str, language: str) -> bool:
    if language not in PERSPECTIVE:
        return False
    return bool(find_probabilities(text, is_quick=True)[PERSPECTIVE.index(language)] >= CONFIDENCE)


def find_probabilities(text: str, *, is_quick: bool = False) -> np.ndarray:
    """Return the probabilities of the languages of `ALL`, or of PERSPECTIVE if the text `is_quick`."""
    detector = _detector()
    if not text.isascii():
        text = unicodedata.normalize("NFC", text)
    encoded = np.frombuffer(text[:HEAD].lower().encode("utf-8", "surrogatepass"), np.uint8)[: 4 * HEAD]
    if is_quick:
        return _posteriors(encoded, detector, detector.tables.weights, detector.tables.priors)
    return _posteriors(encoded, detector, detector.tables.all_weights, detector.tables.all_priors)


def _examine(text: str, supported: Sequence[str]) -> Detection:
    scripts = _scripts_of(supported)
    if text.isascii():
        counts = {"LATIN": sum(map(str.isalpha, text))}
        readable = text if "LATIN" in scripts else ""
    else:
        text = replace_imitations(unicodedata.normalize("NFKC", text))
        counts = {}
        for char in filter(str.isalpha, text):
            script = _script(char)
            counts[script] = counts.get(script, 0) + _LETTERS_OF.get(script, 1)
        readable = "".join(char if not char.isalpha() or _script(char) in scripts else " " for char in text)
    letters = sum(count for script, count in counts.items() if script in scripts)
    if sum(counts.values()) > 2 * letters:
        return Detection(_language_of_scripts(text, counts, supported), False, readable)
    words = _NO_WORDS.sub(" ", readable).split()
    indices = [ALL.index(language) for language in supported if language in ALL]
    probabilities = find_probabilities(" ".join(words))
    if _is_certain(words, letters, counts, probabilities, indices):
        return Detection(ALL[int(np.argmax(probabilities))], False, readable)
    script = max(counts.keys() & scripts, key=lambda name: counts[name], default="LATIN")
    candidates = [ALL.index(name) for name in supported if script in _scripts_of_language(name)] or indices
    best = max(candidates, key=lambda index: probabilities[index])
    # Short texts resemble several languages of a script, of which the model's first one is the most common.
    is_long = letters >= _MIN_LETTERS and len(words) >= _MIN_WORDS
    is_certain = (is_long and probabilities[best] >= CONFIDENCE) or indices[0] not in candidates
    return Detection(ALL[best if is_certain else indices[0]], True, readable)


def _is_certain(
    words: Sequence[str],
    letters: int,
    counts: Mapping[str, int],
    probabilities: np.ndarray,
    supported: Sequence[int],
) -> bool:
    """Return whether words are certainly in none of the supported languages, which are indices of `ALL`."""
    if letters < _MIN_LETTERS or (len(words) < _MIN_WORDS and not _LETTERS_OF.keys() & counts.keys()):
        return False
    if probabilities[supported].sum() >= _MAX_SUPPORTED or np.sort(probabilities)[-2:].sum() < _MIN_BEST:
        return False
    middle = len(words) // 2
    variants = (
        " ".join(words[:middle]),
        " ".join(words[middle:]),
        _REPEATED.sub(r"\1", normalise(" ".join(words))[0]),
    )
    return all(
        find_probabilities(variant)[supported].sum() < _MAX_SUPPORTED_IN_PART
        for variant in variants
        if variant
    )


@lru_cache(8192)
def _script(char: str) -> str:
    return unicodedata.name(char, "UNKNOWN").partition(" ")[0]


@cache
def _scripts_of_language(language: str) -> set[str]:
    return {script for script, languages in _LANGUAGES_OF.items() if language in languages} or {"LATIN"}


def _scripts_of(languages: Sequence[str]) -> set[str]:
    return set().union(*map(_scripts_of_language, languages))


def replace_imitations(text: str) -> str:
    """Replace letters that imitate Latin ones, unless the text has words of another script.

    A word imitates a Latin one if it consists of Latin letters and imitations. A text in Cyrillic or Greek
    has words with other letters, too, and none that mixes scripts.
    """
    words = text.split()
    imitations = {word for word in words if not word.isascii() and _is_imitation(word)}
    is_mixed = any(any(_script(char) == "LATIN" for char in word if char.isalpha()) for word in imitations)
    has_foreign_words = any(
        char.isalpha() and _script(char) != "LATIN"
        for word in words
        if word not in imitations
        for char in word
    )
    if not imitations or (has_foreign_words and not is_mixed):
        return text
    return "".join(
        "".join(_LATIN_OF.get(char, char) if not char.isascii() else char for char in part)
        if part in imitations
        else part
        for part in re.split(r"(\s+)", text)
    )


def _is_imitation(word: str) -> bool:
    return all(
        _script(char) == "LATIN" or _LATIN_OF.get(char) is not None for char in word if char.isalpha()
    ) and any(char.isalpha() and _script(char) != "LATIN" for char in word)


def _language_of_scripts(text: str, counts: dict[str, int], supported: Sequence[str]) -> str:
    """Return the most probable language of the script with most letters that the model doesn't read."""
    if any(script in counts for script in _KANA) and not _scripts_of(supported) & set(_KANA):
        return "ja"
    scripts = {script: count for script, count in counts.items() if script not in _scripts_of(supported)}
    candidates = _LANGUAGES_OF.get(max(scripts, key=lambda script: scripts[script]), (UNKNOWN,))
    classified = [language for language in candidates if language in ALL]
    if len(classified) < 2:
        return candidates[0]
    probabilities = find_probabilities(text)
    return max(classified, key=lambda language: probabilities[ALL.index(language)])


def base_language(tag: str) -> str:
    """Return the language of a BCP 47 tag: `en` for `en-GB`."""
    return tag.replace("_", "-").lower().partition("-")[0]


def identify(text: str, readable: Collection[str]) -> tuple[str, float]:
    """Return the language of a text, `und` if it is not certain, and the probability of English.

    Obfuscated English looks like other languages, so the text also counts as normalised.

    Args:
        readable: languages besides English, as ISO 639-1 codes.
    """
    head = text[:HEAD]
    probabilities = find_probabilities(head)
    english = probabilities[_ENGLISH]
    candidates = [ALL.index(language) for language in readable if language in ALL]
    best = max(candidates, key=lambda index: probabilities[index])
    is_certain = probabilities[best] >= CONFIDENCE * (probabilities[candidates].sum() + english)
    if english < CONFIDENCE:
        english = max(english, find_probabilities(normalise(head)[0])[_ENGLISH])
    return ALL[best] if is_certain else UNKNOWN, float(english)
