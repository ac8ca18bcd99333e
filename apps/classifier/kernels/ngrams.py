"""Second stage of scoring: from normalised words to hashed n-grams, and from those to a model's features.

The n-grams of a word: its character n-grams with boundary marks, the word itself, the word together with the
one before it in the sentence, and two that survive obfuscation: its set of letters with the first one
(swapped and repeated letters) and its consonants (masked, doubled and replaced vowels). Hashes are integer
arithmetic, so they are the same on every machine.
"""

import numpy as np
from numba import njit

from .layout import MAX_NGRAM, CodepointTable, Workspace
from .normalisation import normalise_codes

HASH_BITS = 22
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_FOLD = np.uint64(32)
_SHIFT = np.uint64(64 - HASH_BITS)
_CHARACTERS, _WORD, _WORD_PAIR, _LETTER_SET, _CONSONANTS = (
    np.uint64(seed)
    for seed in (
        0x243F6A8885A308D3, 0x13198A2E03707344, 0xA4093822299F31D0, 0x082EFA98EC4E6C89, 0x452821E638D01377,
    )
)  # fmt: skip
_WORD_BEGIN, _WORD_END = np.uint64(2), np.uint64(3)
VOWEL = np.zeros(128, np.bool_)
for _letter in "aeiou*":
    VOWEL[ord(_letter)] = True


@njit(nogil=True, cache=True, inline="always")
def _mix(h: np.uint64, value: np.uint64) -> np.uint64:
    h = (h ^ value) * _MULTIPLIER
    return h ^ (h >> _FOLD)


@njit(nogil=True, cache=True, inline="always")
def _slot(h: np.uint64) -> np.uint32:
    return np.uint32((h * _MULTIPLIER) >> _SHIFT)


@njit(nogil=True, cache=True)
def hash_words(n: int, workspace: Workspace) -> tuple[int, int]:
    """Hash the n-grams of `workspace.normalised[:n]` into `workspace.slots`.

    Returns:
        The number of words and the number of sentences.
    """
    text, slots = workspace.normalised, workspace.slots
    slot_end, sentence_end = workspace.slot_end, workspace.sentence_end
    k, words, sentences = 0, 0, 0
    begin = 0
    previous = np.uint64(0)
    for end in range(n):
        separator = text[end]
        if separator != 32 and separator != 10:
            continue
        length = end - begin
        word_hash, consonant_hash, letter_set = _WORD, _CONSONANTS, np.uint64(0)
        last = np.uint64(0)
        for i in range(-1, length + 1):
            h = _CHARACTERS
            for j in range(i, min(i + MAX_NGRAM, length + 1)):
                c = _WORD_BEGIN if j < 0 else (_WORD_END if j == length else np.uint64(text[begin + j]))
                h = _mix(h, c)
                if j > i:
                    slots[k] = _slot(h)
                    k += 1
            if i >= 0 and i < length:
                c = np.uint64(text[begin + i])
                word_hash = _mix(word_hash, c)
                letter_set |= np.uint64(1) << (c & np.uint64(63))
                if (c > np.uint64(127) or not VOWEL[c]) and c != last:
                    consonant_hash = _mix(consonant_hash, c)
                    last = c
        slots[k] = _slot(word_hash)
        k += 1
        if length > 2:
            slots[k] = _slot(_mix(_mix(_LETTER_SET, np.uint64(text[begin])), letter_set))
            slots[k + 1] = _slot(consonant_hash)
            k += 2
        if previous:
            slots[k] = _slot(_mix(_mix(_WORD_PAIR, previous), word_hash))
            k += 1
        previous = word_hash
        slot_end[words] = k
        words += 1
        if separator == 10:
            sentence_end[sentences] = words
            sentences += 1
            previous = np.uint64(0)
        begin = end + 1
    return words, sentences


@njit(nogil=True, cache=True, inline="always")
def _popcount(x: np.uint32) -> np.uint32:
    x = x - ((x >> np.uint32(1)) & np.uint32(0x55555555))
    x = (x & np.uint32(0x33333333)) + ((x >> np.uint32(2)) & np.uint32(0x33333333))
    x = (x + (x >> np.uint32(4))) & np.uint32(0x0F0F0F0F)
    return ((x * np.uint32(0x01010101)) >> np.uint32(24)) & np.uint32(0xFF)


@njit(nogil=True, cache=True, inline="always")
def _look_up(slot: np.uint32, lookup: np.ndarray) -> tuple[np.uint32, np.bool_]:
    block = slot >> np.uint32(5)
    bit = np.uint32(1) << (slot & np.uint32(31))
    bitmap = lookup[block, 0]
    return lookup[block, 1] + _popcount(bitmap & (bit - np.uint32(1))), (bitmap & bit) != 0


@njit(nogil=True, cache=True, inline="always")
def feature_of(slot: np.uint32, lookup: np.ndarray) -> np.int64:
    """Return the feature of a hash slot, or -1 if it has none; see `ScorerArrays.lookup`."""
    feature, exists = _look_up(slot, lookup)
    return np.int64(feature) if exists else np.int64(-1)


@njit(nogil=True, cache=True)
def find_features(words: int, workspace: Workspace, lookup: np.ndarray) -> int:
    """Replace the slots of each word by the features that exist; returns how many slots there were.

    The loop has no branch that depends on a look-up, so that the processor can overlap the cache misses.
    """
    slots, slot_end = workspace.slots, workspace.slot_end
    k, n = 0, 0
    for w in range(words):
        while k < slot_end[w]:
            slot = slots[k]
            k += 1
            slots[n], exists = _look_up(slot, lookup)
            n += int(exists)
        slot_end[w] = n
    return k


@njit(nogil=True, cache=True)
def count_document_frequencies(
    codes: np.ndarray,
    ends: np.ndarray,
    table: CodepointTable,
    workspace: Workspace,
    last_seen: np.ndarray,
    first_stamp: int,
    frequencies: np.ndarray,
) -> None:
    """Add to `frequencies` (slots,) the number of texts in which each hash slot occurs.

    Args:
        codes: Code points of the texts, one after the other.
        ends: (n,) end of each text in `codes`.
        last_seen: (slots,) stamp of the last text with each slot; all are below `first_stamp`.
        first_stamp: Stamp of the first text, at least 1.
    """
    begin = 0
    for i in range(len(ends)):
        n, words = normalise_codes(codes[begin : ends[i]], table, workspace)
        begin = ends[i]
        hash_words(n, workspace)
        for j in range(workspace.slot_end[words - 1] if words else 0):
            slot = workspace.slots[j]
            if last_seen[slot] != first_stamp + i:
                last_seen[slot] = first_stamp + i
                frequencies[slot] += 1


@njit(nogil=True, cache=True)
def write_features(
    codes: np.ndarray,
    ends: np.ndarray,
    table: CodepointTable,
    workspace: Workspace,
    last_seen: np.ndarray,
    first_stamp: int,
    lookup: np.ndarray,
    indices: np.ndarray,
    indptr: np.ndarray,
) -> int:
    """Write each text's features, in the order of first occurrence, as a sparse matrix; returns their number.

    Args:
        codes, ends, first_stamp: As in `count_document_frequencies`.
        last_seen: (features,) stamp of the last text with each feature.
        indices: Receives the features of all texts, one after the other.
        indptr: (n,) receives the end of each text's features.
    """
    begin, k = 0, 0
    for i in range(len(ends)):
        n, words = normalise_codes(codes[begin : ends[i]], table, workspace)
        begin = ends[i]
        hash_words(n, workspace)
        for j in range(workspace.slot_end[words - 1] if words else 0):
            feature = feature_of(workspace.slots[j], lookup)
            if feature >= 0 and last_seen[feature] != first_stamp + i:
                last_seen[feature] = first_stamp + i
                indices[k] = feature
                k += 1
        indptr[i] = k
    return k
