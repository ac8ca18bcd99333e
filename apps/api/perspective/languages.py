"""Which language a comment is in, found offline, and whether the model reads it.

The model reads English. What Perspective read in other languages is refused in the way that its clients
know, one attribute at a time, rather than scored by a model that can't: 0.02 for an insult in German would be
a lie. That holds for the languages that a request names and, where it names none, for the detected one.

Detection (py3langid, naive Bayes over byte n-grams) chooses among Perspective's languages. Of 4,743 English
comments of the Jigsaw data none was taken for another language at a confidence of 0.9, while whole sentences
in other languages nearly always reach it. Below it, and for text without words, the answer is English: short,
misspelt and garbled comments are scored.
"""

from collections.abc import Sequence
from functools import cache

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


@cache
def _identifier() -> LanguageIdentifier:
    every = LanguageIdentifier.from_model_file(MODEL_FILE)
    # `set_languages` would keep the columns of all the others too: 25 MB in every process.
    kept = [every.nb_classes.index(language) for language in PERSPECTIVE]
    return LanguageIdentifier(
        every.nb_ptc[:, kept],
        every.nb_pc[kept],
        PERSPECTIVE,
        every.tk_nextmove,
        every.tk_output,
        norm_probs=True,
        tk_row=every.tk_row,
    )


def load() -> None:
    """Load the detector (50 MB, under a second) before the first request needs it."""
    _identifier()


def detect(text: str, length: int = HEAD) -> str:
    """Return the ISO 639-1 code of the language a text begins in; English where nothing else is certain."""
    language, confidence = _identifier().classify(text[:length])
    return language if confidence >= CONFIDENCE else SUPPORTED


def unsupported(languages: Sequence[str]) -> list[str]:
    """Return those of the languages (BCP 47: `en-GB` is English) that the model doesn't read."""
    return [tag for tag in languages if tag.replace("_", "-").lower().split("-")[0] != SUPPORTED]
