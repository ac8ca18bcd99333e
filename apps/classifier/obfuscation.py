"""Obfuscates texts as people do to hide words, for training and to measure the loss of quality.

Every kind changes about half of the words of at least three letters, whatever their meaning, so that
obfuscation does not reveal a text's labels.
"""

import random
import re
from collections.abc import Callable, Sequence

_WORD = re.compile(r"[^\W\d_]{3,}")
_LEET = {"a": "@4", "e": "3", "i": "1!", "o": "0", "s": "$5", "t": "7", "l": "1", "b": "8"}
_HOMOGLYPHS = {
    "a": "аɑα", "c": "сϲ", "e": "еҽ", "h": "һ", "i": "іı", "j": "ј", "k": "кκ", "m": "м", "n": "ո",
    "o": "оοо", "p": "рρ", "s": "ѕ", "t": "т", "u": "υս", "v": "ν", "x": "хχ", "y": "уү",
}  # fmt: skip


def _spaced(word: str, rng: random.Random) -> str:
    return rng.choice((" ", " ", ".", "-")).join(word)


def _leet(word: str, rng: random.Random) -> str:
    return "".join(
        rng.choice(_LEET[c.lower()]) if c.lower() in _LEET and rng.random() < 0.7 else c for c in word
    )


def _homoglyphs(word: str, rng: random.Random) -> str:
    return "".join(
        rng.choice(_HOMOGLYPHS[c.lower()]) if c.lower() in _HOMOGLYPHS and rng.random() < 0.7 else c
        for c in word
    )


def _masked(word: str, rng: random.Random) -> str:
    inside = range(1, len(word) - 1)
    hidden = [k for k in inside if word[k].lower() in "aeiou"][:1] or [rng.choice(inside)]
    if rng.random() < 0.3:
        hidden = list(inside)[: rng.randint(1, 3)]
    return "".join("*" if k in hidden else c for k, c in enumerate(word))


def _repeated(word: str, rng: random.Random) -> str:
    k = rng.randrange(len(word))
    return word[:k] + word[k] * rng.randint(2, 5) + word[k + 1 :]


def _swapped(word: str, rng: random.Random) -> str:
    k = rng.randrange(len(word) - 1)
    if len(word) > 3 and rng.random() < 0.8:
        k = rng.randrange(1, len(word) - 2)
    return word[:k] + word[k + 1] + word[k] + word[k + 2 :]


def _invisible(word: str, rng: random.Random) -> str:
    return rng.choice("\u200b\u200d\u00ad\u2060").join(word)


KINDS: dict[str, Callable[[str, random.Random], str]] = {
    "spaced": _spaced,
    "leet": _leet,
    "homoglyphs": _homoglyphs,
    "masked": _masked,
    "repeated": _repeated,
    "swapped": _swapped,
    "invisible": _invisible,
}


def obfuscate(texts: Sequence[str], kind: str, *, share: float = 0.5, seed: int = 0) -> list[str]:
    """Return the texts with about `share` of their longer words changed by one of `KINDS`."""
    rng = random.Random(f"{kind} {seed}")
    obfuscate_word = KINDS[kind]

    def change(match: re.Match[str]) -> str:
        word = match[0]
        return obfuscate_word(word, rng) if rng.random() < share else word

    return [_WORD.sub(change, text) for text in texts]
