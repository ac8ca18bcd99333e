"""Undo what people do to hide a word, and remember where each character came from.

The Unicode part (NFKD, case folding, combining marks, look-alikes, zero-width characters) is one table
lookup per code point. The table is package data, so that a model gives the same scores under every Python;
`python -m apps.classifier.normalise` writes it again. Leetspeak, stars, spaced-out letters and repeats are
rules of the compiled pass below it.
"""

import hashlib
import unicodedata
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numba import njit

TABLE_FILE = Path(__file__).parent / "data" / "codepoints.npz"

SPACE, LETTER, DIGIT, SYMBOL, DROP, NEWLINE = range(6)
CODE, UPPER, EXPANDS = 0x1FFFFF, 1 << 27, 1 << 31
LONGEST_EXPANSION = 4
LONGEST_WORD = 40
SURFACE = (
    "characters", "words", "sentences", "upper", "letters", "digits", "exclamations", "questions",
    "symbols", "newlines", "non_ascii", "shouted_words", "repeats", "disguised", "longest_word",
)  # fmt: skip

# Look-alike letters by the ASCII letter they imitate. Capitals are listed where only the capital looks alike.
LOOKALIKES = {
    "a": "аαɑᴀΑАạɐ∀ꭺᎪ", "b": "вьЬВΒβƄᏴʙɓ", "c": "сϲᴄСϹ¢ⅽᏟƈ", "d": "ԁɗᴅđᎠɖⅾժ", "e": "еεєҽ℮ɛΕЕЁᴇᎬɘəǝ∈€",
    "f": "ƒғϝꜰք", "g": "ɡɢցᏀǥɠԍ", "h": "һнʜհΗНħᎻɦ", "i": "іιıɪΙІӏӀɩᎥ¡ɨ", "j": "јϳʝЈᎫɉ", "k": "кκᴋΚКᏦƙ",
    "l": "ɭłʟⅼᏞ∣ǀƚℓ£", "m": "мᴍΜМᎷⅿɱ", "n": "пηոɴΝղŋɲ", "o": "оοσօøᴏөΟОΘθ○●◯ɵ", "p": "рρᴘΡРᏢƿþ",
    "q": "ԛգզɋ", "r": "гʀᎡɍɼя", "s": "ѕꜱʂЅᏚ§ș", "t": "тτᴛŧΤТᎢ†ț", "u": "υսᴜʊцμµʉ", "v": "νѵᴠ∨Ꮩⅴ",
    "w": "ωѡшщԝᴡᎳɯʍ", "x": "хχ×ΧХⅹ", "y": "уγүʏΥУᎽƴɏ", "z": "ᴢʐƶΖᏃȥ",
}  # fmt: skip

# What a character means inside a word, by ASCII code: a letter it stands for, a star, a mark to drop, or glue.
LEET = np.zeros(128, np.uint32)
for _symbol, _letter in zip("0134578@$!|", "oieastbasil", strict=True):
    LEET[ord(_symbol)] = ord(_letter)
KIND = np.zeros(128, np.uint8)
STAR, APOSTROPHE, GLUE, LEETMARK = 1, 2, 3, 4
for _kind, _symbols in ((STAR, "*#%"), (APOSTROPHE, "'`"), (GLUE, "-._/,~"), (LEETMARK, "@$!|")):
    for _symbol in _symbols:
        KIND[ord(_symbol)] = _kind
# Letters that English hardly ever doubles: a double one is a disguise.
SINGLE = np.zeros(128, np.bool_)
for _letter in "ahijkquvwxy":
    SINGLE[ord(_letter)] = True


class Table(NamedTuple):
    """Two-stage table: `cells[pages[c >> 8], c & 255]` holds distance to the code point that stands for `c`
    (bits 0-20, modulo 2**21), class (bits 24-26) and flags."""

    pages: np.ndarray  # (4352,) uint16
    cells: np.ndarray  # (pages, 256) uint32
    expansions: np.ndarray  # (n, 4) uint32, zero-padded cells


def build_table() -> Table:
    """Compute the code-point table with this Python's Unicode data and the look-alikes above."""
    imitated = {ord(c): letter for letter, shapes in LOOKALIKES.items() for c in shapes}
    for first in (0x1F150, 0x1F170, 0x1F1E6):
        imitated |= {first + k: chr(ord("a") + k) for k in range(26)}
    expansions: list[list[int]] = []
    flat = np.zeros(0x110000, np.uint32)
    for code in range(0x110000):
        cell = _cell(code, imitated, expansions)
        flat[code] = cell if cell & EXPANDS else cell & ~CODE | (cell - code) & CODE
    cells, pages = np.unique(flat.reshape(-1, 256), axis=0, return_inverse=True)
    return Table(pages.reshape(-1).astype(np.uint16), cells, np.array(expansions, np.uint32))


def _cell(code: int, imitated: dict[int, str], expansions: list[list[int]]) -> int:
    char = chr(code)
    upper = UPPER if char.isupper() else 0
    if code in imitated:
        return ord(imitated[code]) | LETTER << 24 | upper
    if char in "\n\r\v\f\u2028\u2029\x85":
        return 10 | NEWLINE << 24
    folded = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", char).casefold())
    stripped = unicodedata.normalize("NFC", "".join(c for c in folded if unicodedata.category(c)[0] != "M"))
    parts = []
    for c in stripped[:LONGEST_EXPANSION]:
        c = imitated.get(ord(c), c)
        category = unicodedata.category(c)
        if c in "‘’‛′´ʹʼ":
            parts.append(ord("'") | SYMBOL << 24)
        elif c in "‐‑‒–—―−":
            parts.append(ord("-") | SYMBOL << 24)
        elif c.isspace() or category[0] == "Z":
            parts.append(32 | SPACE << 24)
        elif category[0] == "C":
            continue
        elif category[0] == "L":
            parts.append(ord(c) | LETTER << 24 | upper)
        elif category[0] == "N":
            digit = unicodedata.digit(c, None)
            parts.append((ord(c) if digit is None else 48 + digit) | DIGIT << 24)
        else:
            parts.append(ord(c) | SYMBOL << 24)
    if not parts:
        return code | DROP << 24
    if len(parts) == 1:
        return parts[0]
    expansions.append(parts + [0] * (LONGEST_EXPANSION - len(parts)))
    return EXPANDS | len(expansions) - 1


@cache
def table() -> Table:
    """The shipped code-point table."""
    with np.load(TABLE_FILE, allow_pickle=False) as data:
        return Table(data["pages"], data["cells"], data["expansions"])


@cache
def table_sha256() -> str:
    """Digest of the shipped table and rules' constants; a model records it."""
    digest = hashlib.sha256()
    for array in (*table(), LEET, KIND, SINGLE):
        digest.update(array.tobytes())
    return digest.hexdigest()


@njit(nogil=True, cache=True, inline="always")
def _alnum(cls: int) -> bool:
    return cls == LETTER or cls == DIGIT


@njit(nogil=True, cache=True, inline="always")
def _kind(cell: int) -> int:
    code = cell & CODE
    return KIND[code] if code < 128 else 0


@njit(nogil=True, cache=True, inline="always")
def _class(cell: int) -> int:
    return (cell >> 24) & 7


@njit(nogil=True, cache=True)
def _spell(codes, pages, cells, expansions, cell_out, at_out, surface):
    """Map code points through the table; returns the number of cells. Counts surface features on the way."""
    n = 0
    for i in range(len(codes)):
        code = np.int64(codes[i])
        cell = np.int64(cells[pages[code >> 8], code & 255])
        surface[10] += code > 127
        if cell & EXPANDS:
            for k in range(LONGEST_EXPANSION):
                part = np.int64(expansions[cell & 0x7FFFFFFF, k])
                if part == 0:
                    break
                cell_out[n], at_out[n] = part, i
                n += 1
            continue
        cell = (cell & ~CODE) | ((cell + code) & CODE)
        cls = _class(cell)
        if cls == DROP:
            surface[13] += code > 127
            continue
        if cls == LETTER:
            surface[4] += 1
            surface[3] += (cell & UPPER) != 0
        elif cls == DIGIT:
            surface[5] += 1
        elif cls == NEWLINE:
            surface[9] += 1
        elif cls == SYMBOL:
            if code == 33:
                surface[6] += 1
            elif code == 63:
                surface[7] += 1
            else:
                surface[8] += 1
        cell_out[n], at_out[n] = cell, i
        n += 1
    surface[0] = len(codes)
    return n


@njit(nogil=True, cache=True)
def _word_end(cell, i, n):
    """End of the word that begins at `i` (equal to `i` when none does)."""
    j = i
    while j < n:
        cls = _class(cell[j])
        if _alnum(cls):
            j += 1
            continue
        kind = _kind(cell[j])
        if kind == APOSTROPHE:
            if j > i and j + 1 < n and _alnum(_class(cell[j + 1])):
                j += 1
                continue
        elif kind == LEETMARK:
            k = j + 1
            if k < n and _kind(cell[k]) == LEETMARK:
                k += 1
            if k < n and _alnum(_class(cell[k])) and (j > i or cell[j] & 127 != 33):
                j = k
                continue
        elif kind == STAR:
            k = j
            while k < n and _kind(cell[k]) == STAR:
                k += 1
            inside = k < n and _alnum(_class(cell[k]))
            if (j > i and (inside or k - j > 1)) or (
                j == i and inside and k - j == 1 and i > 0 and _class(cell[i - 1]) == SPACE
            ):
                j = k
                continue
        break
    return j


@njit(nogil=True, cache=True)
def _spaced_end(cell, i, n):
    """End of a run of at least three single characters with one separator between each (else `i`)."""
    letters, count, k = 0, 0, i
    while True:
        cls = _class(cell[k])
        letters += cls == LETTER
        count += 1
        if k + 2 >= n:
            break
        separator = _class(cell[k + 1]) == SPACE or _kind(cell[k + 1]) == GLUE
        kind = _kind(cell[k + 2])
        character = _alnum(_class(cell[k + 2])) or kind == STAR or kind == LEETMARK
        alone = k + 3 >= n or not _alnum(_class(cell[k + 3]))
        if not (separator and character and alone):
            break
        k += 2
    return k + 1 if count > 2 and 2 * letters > count else i


@njit(nogil=True, cache=True)
def normalise_codes(codes, pages, cells, expansions, cell, at, out, out_at, word_end, surface):
    """Normalise `codes`; returns (length of `out`, number of words).

    `out` holds words separated by a space, or by a newline where a sentence ends, and closes with a newline;
    `out_at` holds, for each of its characters, the offset in `codes` where it begins; `word_end` the offset
    behind each word's last original character.
    """
    surface[:] = 0
    n = _spell(codes, pages, cells, expansions, cell, at, surface)
    i, o, words = 0, 0, 0
    while i < n:
        cls = _class(cell[i])
        step, j = 1, i
        if _alnum(cls) and (i + 1 >= n or not _alnum(_class(cell[i + 1]))):
            j = _spaced_end(cell, i, n)
            step = 2
        if j == i:
            step, j = 1, _word_end(cell, i, n)
        if j == i:
            code = cell[i] & CODE
            if (cls == NEWLINE or code == 33 or code == 63 or code == 46) and o > 0 and out[o - 1] == 32:
                out[o - 1] = 10
                surface[2] += 1
            i += 1
            continue
        letters, digits, uppers = 0, 0, 0
        for k in range(i, j, step):
            letters += _class(cell[k]) == LETTER
            digits += _class(cell[k]) == DIGIT
            uppers += (cell[k] & UPPER) != 0
        spoken = letters > 0 and 2 * letters >= digits
        surface[11] += uppers > 1 and uppers == letters
        surface[13] += step == 2
        begin = o
        for k in range(i, j, step):
            code = np.int64(cell[k] & CODE)
            cls = _class(cell[k])
            if cls != LETTER:
                kind = _kind(cell[k])
                if kind == APOSTROPHE:
                    continue
                if kind == STAR:
                    code = 42
                    surface[13] += 1
                elif spoken and code < 128 and LEET[code]:
                    code = np.int64(LEET[code])
                    surface[13] += 1
            if o > begin and out[o - 1] == code:
                if (code < 128 and SINGLE[code]) or (o > begin + 1 and out[o - 2] == code and cls == LETTER):
                    surface[12] += 1
                    continue
            if o - begin == LONGEST_WORD:
                out[o], out_at[o] = 32, at[k]
                word_end[words] = at[k]
                words += 1
                o += 1
                begin = o
            out[o], out_at[o] = code, at[k]
            o += 1
        if o > begin:
            surface[14] = max(surface[14], o - begin)
            word_end[words] = at[j - 1] + 1
            out[o], out_at[o] = 32, at[j - 1] + 1
            words += 1
            o += 1
        i = j
    if o > 0 and out[o - 1] == 32:
        out[o - 1] = 10
        surface[2] += 1
    surface[1] = words
    return o, words


def codes_of(text: str) -> np.ndarray:
    """Code points of any string, lone surrogates included, as (n,) uint32."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


class Buffers(NamedTuple):
    """Room for the normaliser's output on a text of a given length."""

    cell: np.ndarray
    at: np.ndarray
    out: np.ndarray
    out_at: np.ndarray
    word_end: np.ndarray
    surface: np.ndarray

    @classmethod
    def of(cls, length: int) -> "Buffers":
        """Buffers for texts of up to `length` code points."""
        room = LONGEST_EXPANSION * length + 2
        return cls(
            np.empty(room, np.uint32), np.empty(room, np.int32), np.empty(2 * room, np.uint32),
            np.empty(2 * room, np.int32), np.empty(room, np.int32), np.empty(len(SURFACE), np.int64),
        )  # fmt: skip


def normalise(text: str) -> tuple[str, list[int]]:
    """The normalised text, and for each of its characters the offset in `text` where it begins.

    Words are separated by one space, sentences by a newline.

    >>> normalise("Y0u are  s t u p i d!")[0]
    'you are stupid'
    """
    codes = codes_of(text)
    buffers = Buffers.of(len(codes))
    n, _ = normalise_codes(codes, *table(), *buffers)
    n = max(n - 1, 0)
    return buffers.out[:n].tobytes().decode("utf-32-le", "surrogatepass"), buffers.out_at[:n].tolist()


if __name__ == "__main__":
    TABLE_FILE.parent.mkdir(exist_ok=True)
    np.savez_compressed(TABLE_FILE, **build_table()._asdict())
    print(f"{TABLE_FILE.name}: {TABLE_FILE.stat().st_size} bytes")
