"""The arrays that the compiled stages share, and the names of their columns."""

from enum import IntEnum
from typing import NamedTuple, Self

import numpy as np

LABEL_COUNT = 6
MAX_EXPANSION = 4
MAX_NGRAM = 5


class SurfaceCount(IntEnum):
    """Columns of `Workspace.surface`: what the normaliser counts in the original text."""

    CHARACTERS = 0
    WORDS = 1
    SENTENCES = 2
    UPPERCASE = 3
    LETTERS = 4
    DIGITS = 5
    EXCLAMATIONS = 6
    QUESTIONS = 7
    SYMBOLS = 8
    NEWLINES = 9
    NON_ASCII = 10
    UPPERCASE_WORDS = 11
    REPEATS = 12
    OBFUSCATIONS = 13
    LONGEST_WORD = 14


class Stacking(IntEnum):
    """Columns of the second stage's input. Each of the first four begins a block with a column per label."""

    TEXT = 0  # logit of the whole text
    SENTENCE = 6  # highest logit of a sentence
    SECOND_SENTENCE = 12
    WORD = 18  # highest sum of weights of a word
    CHARACTERS = 24
    WORDS = 25
    WORDS_PER_SENTENCE = 26
    UPPERCASE_SHARE = 27
    DIGIT_SHARE = 28
    EXCLAMATIONS = 29
    EXCLAMATION_RATE = 30
    QUESTIONS = 31
    SYMBOL_SHARE = 32
    NEWLINE_RATE = 33
    NON_ASCII_SHARE = 34
    UPPERCASE_WORD_RATE = 35
    REPEAT_RATE = 36
    OBFUSCATION_RATE = 37
    LONGEST_WORD = 38
    FEATURES_PER_WORD = 39
    FEATURES_PER_NGRAM = 40


STACKING_NAMES = (
    *(f"{block.name.lower()}_{label}" for block in list(Stacking)[:4] for label in range(LABEL_COUNT)),
    *(column.name.lower() for column in list(Stacking)[4:]),
)


class CodepointTable(NamedTuple):
    """Two-stage table of code points: `entries[pages[c >> 8], c & 255]` is the entry of code point `c`.

    Bits 0-20 of an entry are the distance to the code point that replaces `c`, modulo 2**21; bits 24-26 are
    its class; the rest are flags.
    """

    pages: np.ndarray  # (4352,) uint16
    entries: np.ndarray  # (pages, 256) uint32
    expansions: np.ndarray  # (n, MAX_EXPANSION) uint32, zero-padded code points with class and flags


class Workspace(NamedTuple):
    """Working memory for texts of up to a given number of code points."""

    codepoints: np.ndarray  # replaced code points with class and flags, expansions written out
    offsets: np.ndarray  # where each began in the text
    normalised: np.ndarray  # normalised text
    normalised_offsets: np.ndarray  # where each of its characters began in the text
    word_begin: np.ndarray  # offset of each word in the text
    word_end: np.ndarray
    surface: np.ndarray  # see SurfaceCount
    slots: np.ndarray  # hash slots in the order of words
    slot_end: np.ndarray  # end of each word's slots
    sentence_end: np.ndarray  # end of each sentence's words

    @classmethod
    def allocate(cls, length: int) -> Self:
        """Return a workspace for texts of up to `length` code points."""
        size = MAX_EXPANSION * length + 2
        return cls(
            codepoints=np.empty(size, np.uint32),
            offsets=np.empty(size, np.int32),
            normalised=np.empty(2 * size, np.uint32),
            normalised_offsets=np.empty(2 * size, np.int32),
            word_begin=np.empty(size, np.int32),
            word_end=np.empty(size, np.int32),
            surface=np.zeros(len(SurfaceCount), np.int64),
            slots=np.empty(MAX_NGRAM * 2 * size, np.uint32),
            slot_end=np.empty(size, np.int32),
            sentence_end=np.empty(size, np.int32),
        )


class ScorerArrays(NamedTuple):
    """The arrays of a model: the linear first stage, the trees of the second stage, the calibration."""

    lookup: (
        np.ndarray
    )  # (2**22 / 32, 2) uint32: bitmap of hash slots with a feature, and features before a block
    weights: np.ndarray  # (features, 8) int16, of which LABEL_COUNT are used
    scale: np.ndarray  # (labels,) float64: value of one unit of weight
    intercept: np.ndarray  # (labels,) float64
    roots: np.ndarray  # (trees,) int32: first node
    tree_end: np.ndarray  # (labels,) int32: end of each label's trees
    nodes: np.ndarray  # (nodes, 2) uint32, see `artifact.pack_nodes`
    node_value: np.ndarray  # (nodes,) float64: value of a leaf
    base: np.ndarray  # (labels,) float64: logit to which the trees' values are added
    slope: np.ndarray  # (labels,) float64: calibration, logit = slope * sum + offset
    offset: np.ndarray  # (labels,) float64
