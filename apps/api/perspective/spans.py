"""Sentences and where they stand, in the UTF-16 code units that Perspective counts in."""

import re
from itertools import islice

# A sentence ends after its closing punctuation where white space follows, or with the line.
_SENTENCE = re.compile(r"\S[^\n]*?(?:[.!?…。！？]+[\"'”’)\]]*(?=\s|\Z)|(?=\n)|\Z)")
MAX_SENTENCES = 100


def utf16_length(text: str) -> int:
    """Return how many UTF-16 code units a text has; characters beyond U+FFFF have two."""
    return len(text) if text.isascii() else len(text.encode("utf-16-le", "surrogatepass")) // 2


def sentences(text: str) -> list[tuple[int, int, str]]:
    """Return begin, end (exclusive, both in UTF-16 code units) and text of the first hundred sentences."""
    found = []
    at = units = 0
    for match in islice(_SENTENCE.finditer(text), MAX_SENTENCES):
        begin = units + utf16_length(text[at : match.start()])
        end = begin + utf16_length(match[0])
        found.append((begin, end, match[0]))
        at, units = match.end(), end
    return found
