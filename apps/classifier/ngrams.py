"""Hashed n-grams of normalised text, in one compiled pass.

Features of a word: its character n-grams with boundary marks, the word itself, the word together with the one
before it in the sentence, and two that survive disguise: its set of letters with the first one (swapped and
repeated letters) and its consonants (starred, doubled and replaced vowels). All hashes are 64-bit integer
arithmetic, so they are the same on every machine.
"""

import numpy as np
from numba import njit

SHORTEST, LONGEST = 2, 5
HASH_BITS = 22
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_FOLD = np.uint64(32)
_SHIFT = np.uint64(64 - HASH_BITS)
_CHARS, _WORD, _PAIR, _SET, _BONES = (
    np.uint64(seed) for seed in (0x243F6A8885A308D3, 0x13198A2E03707344, 0xA4093822299F31D0, 0x082EFA98EC4E6C89,
                                 0x452821E638D01377)
)  # fmt: skip
_BEGIN, _END = np.uint64(2), np.uint64(3)
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
def hash_words(out, n, slots, slot_end, sentence_end):
    """Hash the n-grams of `out[:n]` (see `normalise_codes`); returns (number of words, number of sentences).

    `slots` receives hash slots in order of words, `slot_end[w]` the end of word `w`'s slots, `sentence_end[s]`
    the end of sentence `s`'s words.
    """
    k, words, sentences = 0, 0, 0
    begin = 0
    previous = np.uint64(0)
    for end in range(n):
        mark = out[end]
        if mark != 32 and mark != 10:
            continue
        length = end - begin
        word, bones, letters = _WORD, _BONES, np.uint64(0)
        last = np.uint64(0)
        for i in range(-1, length + 1):
            h = _CHARS
            for j in range(i, min(i + LONGEST, length + 1)):
                c = _BEGIN if j < 0 else (_END if j == length else np.uint64(out[begin + j]))
                h = _mix(h, c)
                if j > i:
                    slots[k] = _slot(h)
                    k += 1
            if i >= 0 and i < length:
                c = np.uint64(out[begin + i])
                word = _mix(word, c)
                letters |= np.uint64(1) << (c & np.uint64(63))
                if (c > np.uint64(127) or not VOWEL[c]) and c != last:
                    bones = _mix(bones, c)
                    last = c
        slots[k] = _slot(word)
        k += 1
        if length > 2:
            slots[k] = _slot(_mix(_mix(_SET, np.uint64(out[begin])), letters))
            slots[k + 1] = _slot(bones)
            k += 2
        if previous:
            slots[k] = _slot(_mix(_mix(_PAIR, previous), word))
            k += 1
        previous = word
        slot_end[words] = k
        words += 1
        if mark == 10:
            sentence_end[sentences] = words
            sentences += 1
            previous = np.uint64(0)
        begin = end + 1
    return words, sentences


def slots_room(characters: int) -> int:
    """Upper bound on the slots of a normalised text of `characters` characters, separators included."""
    return (LONGEST + 4) * (characters + 2)


@njit(nogil=True, cache=True, inline="always")
def feature_of(slot, bits, ranks):
    """Number of a live hash slot among the live ones, or -1. `ranks[k]` counts the live slots before word `k`."""
    block = slot >> np.uint32(5)
    bit = np.uint32(1) << (slot & np.uint32(31))
    word = bits[block]
    if not word & bit:
        return np.int64(-1)
    x = word & (bit - np.uint32(1))
    x = x - ((x >> np.uint32(1)) & np.uint32(0x55555555))
    x = (x & np.uint32(0x33333333)) + ((x >> np.uint32(2)) & np.uint32(0x33333333))
    x = (x + (x >> np.uint32(4))) & np.uint32(0x0F0F0F0F)
    return np.int64(ranks[block]) + np.int64(((x * np.uint32(0x01010101)) >> np.uint32(24)) & np.uint32(0xFF))


def ranks_of(bits: np.ndarray) -> np.ndarray:
    """(blocks,) uint32: live slots before each 32-bit block of the bitmap."""
    counts = np.unpackbits(bits.view(np.uint8)).reshape(len(bits), 32).sum(axis=1, dtype=np.uint32)
    return np.concatenate([np.zeros(1, np.uint32), np.cumsum(counts[:-1], dtype=np.uint32)])
