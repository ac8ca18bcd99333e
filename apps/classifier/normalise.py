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

import numpy as np

from .kernels import (
    CODE,
    DIGIT,
    DROP,
    EXPANDS,
    KIND,
    LEET,
    LETTER,
    LONGEST_EXPANSION,
    NEWLINE,
    SINGLE,
    SPACE,
    SYMBOL,
    UPPER,
    VOWEL,
    Room,
    Table,
    normalise_codes,
)

TABLE_FILE = Path(__file__).parent / "data" / "codepoints.npz"

# Look-alike letters by the ASCII letter they imitate. Capitals are listed where only the capital looks alike.
LOOKALIKES = {
    "a": "аαɑᴀΑАạɐ∀ꭺᎪ", "b": "вьЬВΒβƄᏴʙɓ", "c": "сϲᴄСϹ¢ⅽᏟƈ", "d": "ԁɗᴅđᎠɖⅾժ", "e": "еεєҽ℮ɛΕЕЁᴇᎬɘəǝ∈€",
    "f": "ƒғϝꜰք", "g": "ɡɢցᏀǥɠԍ", "h": "һнʜհΗНħᎻɦ", "i": "іιıɪΙІӏӀɩᎥ¡ɨ", "j": "јϳʝЈᎫɉ", "k": "кκᴋΚКᏦƙ",
    "l": "ɭłʟⅼᏞ∣ǀƚℓ£", "m": "мᴍΜМᎷⅿɱ", "n": "пηոɴΝղŋɲ", "o": "оοσօøᴏөΟОΘθ○●◯ɵ", "p": "рρᴘΡРᏢƿþ",
    "q": "ԛգզɋ", "r": "гʀᎡɍɼя", "s": "ѕꜱʂЅᏚ§ș", "t": "тτᴛŧΤТᎢ†ț", "u": "υսᴜʊцμµʉ", "v": "νѵᴠ∨Ꮩⅴ",
    "w": "ωѡшщԝᴡᎳɯʍ", "x": "хχ×ΧХⅹ", "y": "уγүʏΥУᎽƴɏ", "z": "ᴢʐƶΖᏃȥ",
}  # fmt: skip


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
    for array in (*table(), LEET, KIND, SINGLE, VOWEL):
        digest.update(array.tobytes())
    return digest.hexdigest()


def codes_of(text: str) -> np.ndarray:
    """Code points of any string, lone surrogates included, as (n,) uint32."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


def normalise(text: str) -> tuple[str, list[int]]:
    """The normalised text, and for each of its characters the offset in `text` where it begins.

    Words are separated by one space, sentences by a newline.

    >>> normalise("Y0u are  s t u p i d!")[0]
    'you are stupid'
    """
    codes = codes_of(text)
    room = Room.of(len(codes))
    n, _ = normalise_codes(codes, table(), room)
    n = max(n - 1, 0)
    return room.out[:n].tobytes().decode("utf-32-le", "surrogatepass"), room.out_at[:n].tolist()


if __name__ == "__main__":
    TABLE_FILE.parent.mkdir(exist_ok=True)
    np.savez_compressed(TABLE_FILE, **build_table()._asdict())
    print(f"{TABLE_FILE.name}: {TABLE_FILE.stat().st_size} bytes")
