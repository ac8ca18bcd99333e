"""Sentences and their positions in UTF-16 code units, as Perspective counts them."""

import re
from collections.abc import Iterator

# A sentence ends with its line, or with punctuation that is followed by white space.
_SENTENCE = re.compile(r"\S[^\n]*?(?:[.!?…。！？]+[\"'”’)\]]*(?=\s|\Z)|(?=\n)|\Z)")
# Abbreviations in lower case. A sentence goes on after the first group, and after the second one unless the
# next word begins with a capital letter.
_ABBREVIATIONS = frozenset(
    [
        "adm",
        "approx",
        "ca",
        "capt",
        "cf",
        "col",
        "cpl",
        "cmdr",
        "dr",
        "e.g",
        "eg",
        "fig",
        "figs",
        "gen",
        "gov",
        "hon",
        "i.e",
        "ie",
        "lt",
        "maj",
        "messrs",
        "mlle",
        "mme",
        "mr",
        "mrs",
        "ms",
        "mt",
        "nr",
        "op",
        "p",
        "pl",
        "pp",
        "prof",
        "pvt",
        "rep",
        "rev",
        "sen",
        "sgt",
        "st",
        "viz",
        "vol",
        "vs",
        "z.b",
        "bzw",
        "d.h",
        "sra",
        "sr.a",
    ]
)
_FINAL_ABBREVIATIONS = frozenset(
    [
        "a.k.a",
        "a.m",
        "al",
        "apr",
        "aug",
        "ave",
        "bldg",
        "blvd",
        "bros",
        "co",
        "corp",
        "dec",
        "dept",
        "ed",
        "eds",
        "esp",
        "est",
        "etc",
        "ext",
        "feb",
        "inc",
        "jan",
        "jr",
        "jul",
        "jun",
        "ltd",
        "mar",
        "max",
        "min",
        "misc",
        "nov",
        "oct",
        "p.m",
        "ph.d",
        "sep",
        "sept",
        "sr",
        "u.k",
        "u.n",
        "u.s",
        "u.s.a",
        "univ",
        "usw",
    ]
)
_LAST_WORD = re.compile(r"([^\s\"'“‘(\[]+)\.\Z")
_NUMBER = re.compile(r"\s*\d")


def utf16_length(text: str) -> int:
    """Return the number of UTF-16 code units of a text; a character above U+FFFF has two."""
    return len(text) if text.isascii() else len(text.encode("utf-16-le", "surrogatepass")) // 2


def find_sentences(text: str) -> list[tuple[int, int, str]]:
    """Return begin, end (exclusive, in UTF-16 code units) and text of each sentence."""
    sentences = []
    position = units = 0
    for first, last in _find_offsets(text):
        begin = units + utf16_length(text[position:first])
        end = begin + utf16_length(text[first:last])
        sentences.append((begin, end, text[first:last]))
        position, units = last, end
    return sentences


def _find_offsets(text: str) -> Iterator[tuple[int, int]]:
    begin = None
    for match in _SENTENCE.finditer(text):
        begin = match.start() if begin is None else begin
        if not _is_abbreviation(text, begin, match.end()):
            yield begin, match.end()
            begin = None
    if begin is not None:
        yield begin, len(text.rstrip())


def _is_abbreviation(text: str, begin: int, end: int) -> bool:
    """Return whether the sentence goes on after the point at `end`, which belongs to an abbreviation."""
    match = _LAST_WORD.search(text, max(begin, end - 12), end)
    rest = text[end : end + 80]
    next_word = rest.lstrip(" \t")[:1]
    if match is None or not next_word or next_word == "\n":
        return False
    word = match[1]
    if len(word) == 1 and word.isupper() and word != "I":  # an initial
        return True
    word = word.lower()
    if word == "no":
        return _NUMBER.match(rest) is not None
    return word in _ABBREVIATIONS or (word in _FINAL_ABBREVIATIONS and not next_word.isupper())
