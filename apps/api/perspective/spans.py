"""Sentences and their positions in UTF-16 code units, as Perspective counts them."""

import re
from itertools import islice

# A sentence ends with its line, or with punctuation that is followed by white space.
_SENTENCE = re.compile(r"\S[^\n]*?(?:[.!?…。！？]+[\"'”’)\]]*(?=\s|\Z)|(?=\n)|\Z)")
MAX_SENTENCES = 100


def utf16_length(text: str) -> int:
    """Return the number of UTF-16 code units of a text; a character above U+FFFF has two."""
    return len(text) if text.isascii() else len(text.encode("utf-16-le", "surrogatepass")) // 2


def find_sentences(text: str) -> list[tuple[int, int, str]]:
    """Return begin, end (exclusive, in UTF-16 code units) and text of the first MAX_SENTENCES sentences."""
    sentences = []
    position = units = 0
    for match in islice(_SENTENCE.finditer(text), MAX_SENTENCES):
        begin = units + utf16_length(text[position : match.start()])
        end = begin + utf16_length(match[0])
        sentences.append((begin, end, match[0]))
        position, units = match.end(), end
    return sentences
