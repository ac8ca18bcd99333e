"""Text normalisation: undoes obfuscation and keeps the original offset of each character.

The Unicode part (NFKD, case folding, combining marks, homoglyphs, zero-width characters) is one table lookup
per code point. The table is package data, so that a model gives the same scores under every Python;
`python -m apps.classifier.normalise` writes it. Leetspeak, masked letters, spaced-out letters and repeats are
rules of `kernels.normalisation`.
"""

import hashlib
import unicodedata
from functools import cache
from pathlib import Path

import numpy as np

from .kernels.layout import MAX_EXPANSION, CodepointTable, SurfaceCount, Workspace
from .kernels.ngrams import VOWEL
from .kernels.normalisation import (
    CODE,
    DIGIT,
    DROP,
    EXPANDS,
    KIND,
    LEET,
    LETTER,
    NEWLINE,
    SINGLE,
    SPACE,
    SYMBOL,
    UPPERCASE,
    normalise_codes,
)

TABLE_FILE = Path(__file__).parent / "data" / "codepoints.npz"

# Homoglyphs by the ASCII letter they imitate. Capitals are listed where only the capital looks alike.
HOMOGLYPHS = {
    "a": "аαɑᴀΑАạɐ∀ꭺᎪ", "b": "вьЬВΒβƄᏴʙɓ", "c": "сϲᴄСϹ¢ⅽᏟƈ", "d": "ԁɗᴅđᎠɖⅾժ", "e": "еεєҽ℮ɛΕЕЁᴇᎬɘəǝ∈€",
    "f": "ƒғϝꜰք", "g": "ɡɢցᏀǥɠԍ", "h": "һнʜհΗНħᎻɦ", "i": "іιıɪΙІӏӀɩᎥ¡ɨ", "j": "јϳʝЈᎫɉ", "k": "кκᴋΚКᏦƙ",
    "l": "ɭłʟⅼᏞ∣ǀƚℓ£", "m": "мᴍΜМᎷⅿɱ", "n": "пηոɴΝղŋɲ", "o": "оοσօøᴏөΟОΘθ○●◯ɵ", "p": "рρᴘΡРᏢƿþ",
    "q": "ԛգզɋ", "r": "гʀᎡɍɼя", "s": "ѕꜱʂЅᏚ§ș", "t": "тτᴛŧΤТᎢ†ț", "u": "υսᴜʊцμµʉ", "v": "νѵᴠ∨Ꮩⅴ",
    "w": "ωѡшщԝᴡᎳɯʍ", "x": "хχ×ΧХⅹ", "y": "уγүʏΥУᎽƴɏ", "z": "ᴢʐƶΖᏃȥ",
}  # fmt: skip


def build_table() -> CodepointTable:
    """Compute the code-point table from this Python's Unicode data and `HOMOGLYPHS`."""
    imitated = {ord(c): letter for letter, homoglyphs in HOMOGLYPHS.items() for c in homoglyphs}
    for first in (0x1F150, 0x1F170, 0x1F1E6):
        imitated |= {first + k: chr(ord("a") + k) for k in range(26)}
    expansions: list[list[int]] = []
    flat = np.zeros(0x110000, np.uint32)
    for code in range(0x110000):
        entry = _entry(code, imitated, expansions)
        flat[code] = entry if entry & EXPANDS else entry & ~CODE | (entry - code) & CODE
    entries, pages = np.unique(flat.reshape(-1, 256), axis=0, return_inverse=True)
    return CodepointTable(pages.reshape(-1).astype(np.uint16), entries, np.array(expansions, np.uint32))


def _entry(code: int, imitated: dict[int, str], expansions: list[list[int]]) -> int:
    char = chr(code)
    upper = UPPERCASE if char.isupper() else 0
    if code in imitated:
        return ord(imitated[code]) | LETTER << 24 | upper
    if char in "\n\r\v\f\u2028\u2029\x85":
        return 10 | NEWLINE << 24
    folded = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", char).casefold())
    stripped = unicodedata.normalize("NFC", "".join(c for c in folded if unicodedata.category(c)[0] != "M"))
    parts = []
    for c in stripped[:MAX_EXPANSION]:
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
    expansions.append(parts + [0] * (MAX_EXPANSION - len(parts)))
    return EXPANDS | len(expansions) - 1


@cache
def table() -> CodepointTable:
    """Return the shipped code-point table."""
    with np.load(TABLE_FILE, allow_pickle=False) as data:
        return CodepointTable(data["pages"], data["entries"], data["expansions"])


@cache
def table_sha256() -> str:
    """Return the digest of the shipped table and of the rules' constants, which a model records."""
    digest = hashlib.sha256()
    for array in (*table(), LEET, KIND, SINGLE, VOWEL):
        digest.update(array.tobytes())
    return digest.hexdigest()


def codes_of(text: str) -> np.ndarray:
    """Return the code points of any string, lone surrogates included, as (n,) uint32."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


def normalise(text: str) -> tuple[str, list[int]]:
    """Return the normalised text and the offset in `text` where each of its characters begins.

    Words are separated by one space, sentences by a newline.

    >>> normalise("Y0u are  s t u p i d!")[0]
    'you are stupid'
    """
    codes = codes_of(text)
    workspace = Workspace.allocate(len(codes))
    n, _ = normalise_codes(codes, table(), workspace)
    n = max(n - 1, 0)
    normalised = workspace.normalised[:n].tobytes().decode("utf-32-le", "surrogatepass")
    return normalised, workspace.normalised_offsets[:n].tolist()


def undo_obfuscation(text: str) -> str | None:
    """Return the normalised text if that undoes leetspeak, or masked, spaced, repeated or hidden letters."""
    codes = codes_of(text)
    workspace = Workspace.allocate(len(codes))
    n, _ = normalise_codes(codes, table(), workspace)
    if not workspace.surface[[SurfaceCount.OBFUSCATIONS, SurfaceCount.REPEATS]].any():
        return None
    return workspace.normalised[: max(n - 1, 0)].tobytes().decode("utf-32-le", "surrogatepass")


if __name__ == "__main__":
    TABLE_FILE.parent.mkdir(exist_ok=True)
    np.savez_compressed(TABLE_FILE, **build_table()._asdict())
    print(f"{TABLE_FILE.name}: {TABLE_FILE.stat().st_size} bytes")
