"""First stage of scoring: from code points to normalised words and counts of the text's surface.

Normalised text is words separated by a space, or by a newline where a sentence ends.
"""

from typing import Any

import numpy as np
from numba import njit

from .layout import MAX_EXPANSION, CodepointTable, SurfaceCount, Workspace

SPACE, LETTER, DIGIT, SYMBOL, DROP, NEWLINE = range(6)  # classes of code points
CODE, UPPERCASE, EXPANDS = 0x1FFFFF, 1 << 27, 1 << 31  # mask and flags of an entry
MAX_WORD = 40
_ASTERISK, _LINE_FEED, _BLANK, _EXCLAMATION, _FULL_STOP, _QUESTION = (ord(c) for c in "*\n !.?")

# By ASCII code: the letter that a character inside a word stands for, or zero.
LEET = np.zeros(128, np.uint32)
for _symbol, _letter in zip("0134578@$!|", "oieastbasil", strict=True):
    LEET[ord(_symbol)] = ord(_letter)
# By ASCII code: what a symbol inside a word may be.
KIND = np.zeros(128, np.uint8)
MASK, APOSTROPHE, SEPARATOR, LEET_SYMBOL = 1, 2, 3, 4
for _kind_number, _symbols in (
    (MASK, "*#%"),
    (APOSTROPHE, "'`"),
    (SEPARATOR, "-._/,~"),
    (LEET_SYMBOL, "@$!|"),
):
    for _symbol in _symbols:
        KIND[ord(_symbol)] = _kind_number
# Letters that English hardly ever doubles: repeating one is obfuscation.
SINGLE = np.zeros(128, np.bool_)
for _letter in "ahijkquvwxy":
    SINGLE[ord(_letter)] = True

# By first and second letter: whether two regional indicators are the flag of a country (ISO 3166-1, and the
# further region codes of Unicode's emoji) and not letters.
REGIONAL_INDICATOR_A, REGIONAL_INDICATOR_Z = 0x1F1E6, 0x1F1FF
IS_FLAG = np.zeros((26, 26), np.bool_)
for _first, _seconds in {
    "A": "CDEFGILMOQRSTUWXZ", "B": "ABDEFGHIJLMNOQRSTVWYZ", "C": "ACDFGHIKLMNOPQRUVWXYZ", "D": "EGJKMOZ",
    "E": "ACEGHRSTU", "F": "IJKMOR", "G": "ABDEFGHILMNPQRSTUWY", "H": "KMNRTU", "I": "CDELMNOQRST",
    "J": "EMOP", "K": "EGHIMNPRWYZ", "L": "ABCIKRSTUVY", "M": "ACDEFGHKLMNOPQRSTUVWXYZ", "N": "ACEFGILOPRUZ",
    "O": "M", "P": "AEFGHKLMNRSTWY", "Q": "A", "R": "EOSUW", "S": "ABCDEGHIJKLMNORSTVXYZ",
    "T": "ACDFGHJKLMNORTVWZ", "U": "AGMNSYZ", "V": "ACEGINU", "W": "FS", "X": "K", "Y": "ET", "Z": "AMW",
}.items():  # fmt: skip
    for _second in _seconds:
        IS_FLAG[ord(_first) - ord("A"), ord(_second) - ord("A")] = True


@njit(nogil=True, cache=True, inline="always")
def _is_regional_indicator(code: Any) -> bool:
    return REGIONAL_INDICATOR_A <= code <= REGIONAL_INDICATOR_Z


@njit(nogil=True, cache=True, inline="always")
def _is_alphanumeric(cls: Any) -> bool:
    return cls in (LETTER, DIGIT)


@njit(nogil=True, cache=True, inline="always")
def _kind(codepoint: Any) -> Any:
    code = codepoint & CODE
    return KIND[code] if code < 128 else 0


@njit(nogil=True, cache=True, inline="always")
def _class(codepoint: Any) -> Any:
    return (codepoint >> 24) & 7


@njit(nogil=True, cache=True)
def _map_codepoints(
    codes: np.ndarray, table: CodepointTable, codepoints: np.ndarray, offsets: np.ndarray, surface: np.ndarray
) -> int:
    """Map `codes` through the table into `codepoints` and count the surface; returns how many there are."""
    pages, entries, expansions = table.pages, table.entries, table.expansions
    n, pair_end, is_flag = 0, 0, False
    for i in range(len(codes)):
        code = np.int64(codes[i])
        entry = np.int64(entries[pages[code >> 8], code & 255])
        if _is_regional_indicator(code) and i >= pair_end:
            is_flag = i + 1 < len(codes) and _is_regional_indicator(codes[i + 1])
            if is_flag:
                pair_end = i + 2
                is_flag = IS_FLAG[code - REGIONAL_INDICATOR_A, codes[i + 1] - REGIONAL_INDICATOR_A]
        if is_flag and i < pair_end:
            entry = np.int64(SYMBOL << 24)
        surface[SurfaceCount.NON_ASCII] += code > 127
        if entry & EXPANDS:
            for k in range(MAX_EXPANSION):
                part = np.int64(expansions[entry & 0x7FFFFFFF, k])
                if part == 0:
                    break
                codepoints[n], offsets[n] = part, i
                n += 1
            continue
        entry = (entry & ~CODE) | ((entry + code) & CODE)
        cls = _class(entry)
        if cls == DROP:
            surface[SurfaceCount.OBFUSCATIONS] += code > 127
            continue
        if cls == LETTER:
            surface[SurfaceCount.LETTERS] += 1
            surface[SurfaceCount.UPPERCASE] += (entry & UPPERCASE) != 0
        elif cls == DIGIT:
            surface[SurfaceCount.DIGITS] += 1
        elif cls == NEWLINE:
            surface[SurfaceCount.NEWLINES] += 1
        elif cls == SYMBOL:
            if code == _EXCLAMATION:
                surface[SurfaceCount.EXCLAMATIONS] += 1
            elif code == _QUESTION:
                surface[SurfaceCount.QUESTIONS] += 1
            else:
                surface[SurfaceCount.SYMBOLS] += 1
        codepoints[n], offsets[n] = entry, i
        n += 1
    surface[SurfaceCount.CHARACTERS] = len(codes)
    return n


@njit(nogil=True, cache=True)
def _word_end(codepoints: np.ndarray, i: int, n: int) -> int:
    """Return the end of the word that begins at `i`, or `i` if none begins there."""
    j = i
    while j < n:
        cls = _class(codepoints[j])
        if _is_alphanumeric(cls):
            j += 1
            continue
        kind = _kind(codepoints[j])
        if kind == APOSTROPHE:
            if j > i and j + 1 < n and _is_alphanumeric(_class(codepoints[j + 1])):
                j += 1
                continue
        elif kind == LEET_SYMBOL:
            k = j + 1
            if k < n and _kind(codepoints[k]) == LEET_SYMBOL:
                k += 1
            if (
                k < n
                and _is_alphanumeric(_class(codepoints[k]))
                and (j > i or codepoints[j] & 127 != _EXCLAMATION)
            ):
                j = k
                continue
        elif kind == MASK:
            k = j
            while k < n and _kind(codepoints[k]) == MASK:
                k += 1
            is_inside = k < n and _is_alphanumeric(_class(codepoints[k]))
            if (j > i and (is_inside or k - j > 1)) or (
                j == i and is_inside and k - j == 1 and i > 0 and _class(codepoints[i - 1]) == SPACE
            ):
                j = k
                continue
        break
    return j


@njit(nogil=True, cache=True)
def _spaced_word_end(codepoints: np.ndarray, i: int, n: int) -> int:
    """Return the end of a run of at least three single characters, each two separated once; `i` if none."""
    letters, count, k = 0, 0, i
    while True:
        cls = _class(codepoints[k])
        letters += cls == LETTER
        count += 1
        if k + 2 >= n:
            break
        is_separated = _class(codepoints[k + 1]) == SPACE or _kind(codepoints[k + 1]) == SEPARATOR
        kind = _kind(codepoints[k + 2])
        is_character = _is_alphanumeric(_class(codepoints[k + 2])) or kind in (MASK, LEET_SYMBOL)
        is_single = k + 3 >= n or not _is_alphanumeric(_class(codepoints[k + 3]))
        if not (is_separated and is_character and is_single):
            break
        k += 2
    return k + 1 if count > 2 and 2 * letters > count else i


@njit(nogil=True, cache=True)
def normalise_codes(codes: np.ndarray, table: CodepointTable, workspace: Workspace) -> tuple[int, int]:
    """Normalise `codes` into the workspace.

    Returns:
        The length of `workspace.normalised` and the number of words.
    """
    codepoints, offsets, surface = workspace.codepoints, workspace.offsets, workspace.surface
    normalised, normalised_offsets = workspace.normalised, workspace.normalised_offsets
    word_begin, word_end = workspace.word_begin, workspace.word_end
    surface[:] = 0
    n = _map_codepoints(codes, table, codepoints, offsets, surface)
    i, o, words = 0, 0, 0
    while i < n:
        cls = _class(codepoints[i])
        step, j = 1, i
        if _is_alphanumeric(cls) and (i + 1 >= n or not _is_alphanumeric(_class(codepoints[i + 1]))):
            j = _spaced_word_end(codepoints, i, n)
            step = 2
        if j == i:
            step, j = 1, _word_end(codepoints, i, n)
        if j == i:
            code = codepoints[i] & CODE
            ends_sentence = cls == NEWLINE or code in (_EXCLAMATION, _QUESTION, _FULL_STOP)
            if ends_sentence and o > 0 and normalised[o - 1] == _BLANK:
                normalised[o - 1] = _LINE_FEED
                surface[SurfaceCount.SENTENCES] += 1
            i += 1
            continue
        letters, digits, uppercase = 0, 0, 0
        for k in range(i, j, step):
            letters += _class(codepoints[k]) == LETTER
            digits += _class(codepoints[k]) == DIGIT
            uppercase += (codepoints[k] & UPPERCASE) != 0
        is_number = letters == 0 or 2 * letters < digits
        surface[SurfaceCount.UPPERCASE_WORDS] += uppercase > 1 and uppercase == letters
        surface[SurfaceCount.OBFUSCATIONS] += step == 2
        begin = o
        for k in range(i, j, step):
            code = np.int64(codepoints[k] & CODE)
            cls = _class(codepoints[k])
            if cls != LETTER:
                kind = _kind(codepoints[k])
                if kind == APOSTROPHE:
                    continue
                if kind == MASK:
                    code = _ASTERISK
                    surface[SurfaceCount.OBFUSCATIONS] += 1
                elif not is_number and code < 128 and LEET[code]:
                    code = np.int64(LEET[code])
                    surface[SurfaceCount.OBFUSCATIONS] += 1
            repeats = o > begin and normalised[o - 1] == code
            if repeats and (
                (code < 128 and SINGLE[code])
                or (o > begin + 1 and normalised[o - 2] == code and cls == LETTER)
            ):
                surface[SurfaceCount.REPEATS] += 1
                continue
            if o - begin == MAX_WORD:
                normalised[o], normalised_offsets[o] = _BLANK, offsets[k]
                word_begin[words], word_end[words] = normalised_offsets[begin], offsets[k]
                words += 1
                o += 1
                begin = o
            normalised[o], normalised_offsets[o] = code, offsets[k]
            o += 1
        if o > begin:
            surface[SurfaceCount.LONGEST_WORD] = max(surface[SurfaceCount.LONGEST_WORD], o - begin)
            end = offsets[j - 1] + 1
            word_begin[words], word_end[words] = normalised_offsets[begin], end
            normalised[o], normalised_offsets[o] = _BLANK, min(end, offsets[j]) if j < n else end
            words += 1
            o += 1
        i = j
    if o > 0 and normalised[o - 1] == _BLANK:
        normalised[o - 1] = _LINE_FEED
        surface[SurfaceCount.SENTENCES] += 1
    surface[SurfaceCount.WORDS] = words
    return o, words
