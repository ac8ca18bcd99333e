"""All compiled code that text passes through on its way to a score.

One file on purpose: numba's cache notices a change only in the file of the function it cached.

Normalised text is words separated by a space, or by a newline where a sentence ends. Features of a word: its
character n-grams with boundary marks, the word itself, the word together with the one before it in the
sentence, and two that survive disguise: its set of letters with the first one (swapped and repeated letters)
and its consonants (starred, doubled and replaced vowels). Hashes and sums are integer arithmetic, so they are
the same on every machine.
"""

from typing import Any, NamedTuple

import numpy as np
from numba import njit

SPACE, LETTER, DIGIT, SYMBOL, DROP, NEWLINE = range(6)
CODE, UPPER, EXPANDS = 0x1FFFFF, 1 << 27, 1 << 31
LONGEST_EXPANSION = 4
LONGEST_WORD = 40
SURFACE = (
    "characters", "words", "sentences", "upper", "letters", "digits", "exclamations", "questions",
    "symbols", "newlines", "non_ascii", "shouted_words", "repeats", "disguised", "longest_word",
)  # fmt: skip


# What a character means inside a word, by ASCII code: a letter it stands for, a star, a mark to drop, glue.
LEET = np.zeros(128, np.uint32)
for _symbol, _letter in zip("0134578@$!|", "oieastbasil", strict=True):
    LEET[ord(_symbol)] = ord(_letter)
KIND = np.zeros(128, np.uint8)
STAR, APOSTROPHE, GLUE, LEETMARK = 1, 2, 3, 4
for _number, _symbols in ((STAR, "*#%"), (APOSTROPHE, "'`"), (GLUE, "-._/,~"), (LEETMARK, "@$!|")):
    for _symbol in _symbols:
        KIND[ord(_symbol)] = _number
# Letters that English hardly ever doubles: a double one is a disguise.
SINGLE = np.zeros(128, np.bool_)
for _letter in "ahijkquvwxy":
    SINGLE[ord(_letter)] = True

SHORTEST, LONGEST = 2, 5
HASH_BITS = 22
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_FOLD = np.uint64(32)
_SHIFT = np.uint64(64 - HASH_BITS)
_CHARS, _WORD, _PAIR, _SET, _BONES = (
    np.uint64(seed)
    for seed in (
        0x243F6A8885A308D3, 0x13198A2E03707344, 0xA4093822299F31D0, 0x082EFA98EC4E6C89, 0x452821E638D01377,
    )
)  # fmt: skip
_BEGIN, _END = np.uint64(2), np.uint64(3)
VOWEL = np.zeros(128, np.bool_)
for _letter in "aeiou*":
    VOWEL[ord(_letter)] = True


class Table(NamedTuple):
    """Two-stage table: `cells[pages[c >> 8], c & 255]` holds distance to the code point that stands for `c`
    (bits 0-20, modulo 2**21), class (bits 24-26) and flags."""

    pages: np.ndarray  # (4352,) uint16
    cells: np.ndarray  # (pages, 256) uint32
    expansions: np.ndarray  # (n, 4) uint32, zero-padded cells


class Room(NamedTuple):
    """Working memory for texts of up to a given number of code points."""

    cell: np.ndarray  # code points through the table, expansions written out
    at: np.ndarray  # where each began
    out: np.ndarray  # normalised text
    out_at: np.ndarray  # where each character of it began
    word_begin: np.ndarray
    word_end: np.ndarray  # offset behind each word
    surface: np.ndarray  # counts, see SURFACE
    slots: np.ndarray  # hash slots in order of words
    slot_end: np.ndarray  # end of each word's slots
    sentence_end: np.ndarray  # end of each sentence's words

    @classmethod
    def of(cls, length: int) -> "Room":
        """Room for texts of up to `length` code points."""
        cells = LONGEST_EXPANSION * length + 2
        return cls(
            np.empty(cells, np.uint32), np.empty(cells, np.int32), np.empty(2 * cells, np.uint32),
            np.empty(2 * cells, np.int32), np.empty(cells, np.int32), np.empty(cells, np.int32),
            np.zeros(len(SURFACE), np.int64), np.empty(LONGEST * 2 * cells, np.uint32),
            np.empty(cells, np.int32), np.empty(cells, np.int32),
        )  # fmt: skip


class Model(NamedTuple):
    """Everything a score is computed from. Features, then trees, then calibration."""

    lookup: np.ndarray  # (2**22 / 32, 2) uint32: bitmap of live hash slots, and those before each block
    weights: np.ndarray  # (features, 8) int16, six used
    scale: np.ndarray  # (6,) float64: value of one unit of weight
    intercept: np.ndarray  # (6,) float64
    roots: np.ndarray  # (trees,) int32: first node
    tree_end: np.ndarray  # (6,) int32: end of each label's trees
    nodes: np.ndarray  # (nodes, 2) uint32, see `nodes_of`
    node_value: np.ndarray  # (nodes,) float64: of leaves
    base: np.ndarray  # (6,) float64: sum of no trees
    slope: np.ndarray  # (6,) float64: calibration, logit = slope * sum + offset
    offset: np.ndarray  # (6,) float64


@njit(nogil=True, cache=True, inline="always")
def _alnum(cls: Any) -> bool:
    return cls in (LETTER, DIGIT)


@njit(nogil=True, cache=True, inline="always")
def _kind(cell: Any) -> Any:
    code = cell & CODE
    return KIND[code] if code < 128 else 0


@njit(nogil=True, cache=True, inline="always")
def _class(cell: Any) -> Any:
    return (cell >> 24) & 7


@njit(nogil=True, cache=True)
def _spell(
    codes: np.ndarray, table: Table, cell_out: np.ndarray, at_out: np.ndarray, surface: np.ndarray
) -> int:
    """Map code points through the table; returns the number of cells. Counts surface features on the way."""
    pages, cells, expansions = table.pages, table.cells, table.expansions
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
def _word_end(cell: np.ndarray, i: int, n: int) -> int:
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
def _spaced_end(cell: np.ndarray, i: int, n: int) -> int:
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
        character = _alnum(_class(cell[k + 2])) or kind in (STAR, LEETMARK)
        alone = k + 3 >= n or not _alnum(_class(cell[k + 3]))
        if not (separator and character and alone):
            break
        k += 2
    return k + 1 if count > 2 and 2 * letters > count else i


@njit(nogil=True, cache=True)
def normalise_codes(codes: np.ndarray, table: Table, room: Room) -> tuple[int, int]:
    """Normalise `codes` into `room`; returns (length of `room.out`, number of words)."""
    cell, at, out, out_at, surface = room.cell, room.at, room.out, room.out_at, room.surface
    word_begin, word_end = room.word_begin, room.word_end
    surface[:] = 0
    n = _spell(codes, table, cell, at, surface)
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
            repeats = o > begin and out[o - 1] == code
            if repeats and (
                (code < 128 and SINGLE[code]) or (o > begin + 1 and out[o - 2] == code and cls == LETTER)
            ):
                surface[12] += 1
                continue
            if o - begin == LONGEST_WORD:
                out[o], out_at[o] = 32, at[k]
                word_begin[words], word_end[words] = out_at[begin], at[k]
                words += 1
                o += 1
                begin = o
            out[o], out_at[o] = code, at[k]
            o += 1
        if o > begin:
            surface[14] = max(surface[14], o - begin)
            word_begin[words], word_end[words] = out_at[begin], at[j - 1] + 1
            out[o], out_at[o] = 32, min(at[j - 1] + 1, at[j]) if j < n else at[j - 1] + 1
            words += 1
            o += 1
        i = j
    if o > 0 and out[o - 1] == 32:
        out[o - 1] = 10
        surface[2] += 1
    surface[1] = words
    return o, words


@njit(nogil=True, cache=True, inline="always")
def _mix(h: np.uint64, value: np.uint64) -> np.uint64:
    h = (h ^ value) * _MULTIPLIER
    return h ^ (h >> _FOLD)


@njit(nogil=True, cache=True, inline="always")
def _slot(h: np.uint64) -> np.uint32:
    return np.uint32((h * _MULTIPLIER) >> _SHIFT)


@njit(nogil=True, cache=True)
def hash_words(n: int, room: Room) -> tuple[int, int]:
    """Hash the n-grams of `room.out[:n]`; returns (number of words, number of sentences)."""
    out, slots, slot_end, sentence_end = room.out, room.slots, room.slot_end, room.sentence_end
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


@njit(nogil=True, cache=True, inline="always")
def _ones(x: np.uint32) -> np.uint32:
    x = x - ((x >> np.uint32(1)) & np.uint32(0x55555555))
    x = (x & np.uint32(0x33333333)) + ((x >> np.uint32(2)) & np.uint32(0x33333333))
    x = (x + (x >> np.uint32(4))) & np.uint32(0x0F0F0F0F)
    return ((x * np.uint32(0x01010101)) >> np.uint32(24)) & np.uint32(0xFF)


@njit(nogil=True, cache=True, inline="always")
def _look_up(slot: np.uint32, index: np.ndarray) -> tuple[np.uint32, np.bool_]:
    block = slot >> np.uint32(5)
    bit = np.uint32(1) << (slot & np.uint32(31))
    word = index[block, 0]
    return index[block, 1] + _ones(word & (bit - np.uint32(1))), (word & bit) != 0


@njit(nogil=True, cache=True, inline="always")
def feature_of(slot: np.uint32, index: np.ndarray) -> np.int64:
    """Number of a hash slot among the live ones, or -1 (see `Model.lookup`)."""
    number, is_live = _look_up(slot, index)
    return np.int64(number) if is_live else np.int64(-1)


@njit(nogil=True, cache=True)
def find_features(words: int, room: Room, index: np.ndarray) -> int:
    """Leave of each word's slots the live ones' numbers, in `room.slots`; returns how many slots there were.

    In one pass without branches, so that the processor waits for many look-ups at a time.
    """
    slots, slot_end = room.slots, room.slot_end
    k, n = 0, 0
    for w in range(words):
        while k < slot_end[w]:
            slot = slots[k]
            k += 1
            slots[n], is_live = _look_up(slot, index)
            n += int(is_live)
        slot_end[w] = n
    return k


@njit(nogil=True, cache=True)
def count_texts(
    codes: np.ndarray,
    ends: np.ndarray,
    table: Table,
    room: Room,
    seen: np.ndarray,
    first: int,
    counts: np.ndarray,
) -> None:
    """Add to `counts` how many texts each hash slot occurs in. `seen` starts as zeros, `first` at 1."""
    begin = 0
    for i in range(len(ends)):
        n, words = normalise_codes(codes[begin : ends[i]], table, room)
        begin = ends[i]
        hash_words(n, room)
        for j in range(room.slot_end[words - 1] if words else 0):
            slot = room.slots[j]
            if seen[slot] != first + i:
                seen[slot] = first + i
                counts[slot] += 1


@njit(nogil=True, cache=True)
def emit_texts(
    codes: np.ndarray,
    ends: np.ndarray,
    table: Table,
    room: Room,
    seen: np.ndarray,
    first: int,
    index: np.ndarray,
    indices: np.ndarray,
    indptr: np.ndarray,
) -> int:
    """Write each text's live features, in order of first occurrence; returns how many there are in all."""
    begin, k = 0, 0
    for i in range(len(ends)):
        n, words = normalise_codes(codes[begin : ends[i]], table, room)
        begin = ends[i]
        hash_words(n, room)
        for j in range(room.slot_end[words - 1] if words else 0):
            feature = feature_of(room.slots[j], index)
            if feature >= 0 and seen[feature] != first + i:
                seen[feature] = first + i
                indices[k] = feature
                k += 1
        indptr[i] = k
    return k


LABEL_COUNT = 6
INPUTS = (
    *(f"{part}_{label}" for part in ("text", "sentence", "second", "word") for label in range(LABEL_COUNT)),
    "characters", "words", "words_per_sentence", "upper", "digits", "exclamations", "exclamation_rate",
    "questions", "symbols", "newlines", "non_ascii", "shouted_words", "repeats", "disguised", "longest_word",
    "known", "varied",
)  # fmt: skip


@njit(nogil=True, cache=True)
def level_two_inputs(
    codes: np.ndarray, table: Table, room: Room, model: Model, seen: np.ndarray, tag: int, inputs: np.ndarray
) -> int:
    """Fill `inputs` (see INPUTS) for one text; returns the last tag used.

    `seen` (features,) uint32 holds no value above `tag`. Sums of weights are exact.
    """
    n, words = normalise_codes(codes, table, room)
    _, sentences = hash_words(n, room)
    slot_count = find_features(words, room, model.lookup)
    weights, features, feature_end = model.weights, room.slots, room.slot_end
    inputs[:] = 0
    inputs[6:24] = -np.inf
    text = np.zeros(LABEL_COUNT, np.int64)
    sentence = np.empty(LABEL_COUNT, np.int64)
    word = np.empty(LABEL_COUNT, np.int64)
    fresh = np.empty(LABEL_COUNT, np.int64)
    start = tag
    text_count, k, w = 0, 0, 0
    for s in range(sentences):
        tag += 1
        sentence[:] = 0
        count = 0
        while w < room.sentence_end[s]:
            w0 = w1 = w2 = w3 = w4 = w5 = np.int64(0)
            t0 = t1 = t2 = t3 = t4 = t5 = np.int64(0)
            while k < feature_end[w]:
                feature = features[k]
                k += 1
                mark = seen[feature]
                if mark == tag:
                    continue
                seen[feature] = tag
                count += 1
                a0, a1, a2 = weights[feature, 0], weights[feature, 1], weights[feature, 2]
                a3, a4, a5 = weights[feature, 3], weights[feature, 4], weights[feature, 5]
                w0 += a0
                w1 += a1
                w2 += a2
                w3 += a3
                w4 += a4
                w5 += a5
                if mark <= start:
                    text_count += 1
                    t0 += a0
                    t1 += a1
                    t2 += a2
                    t3 += a3
                    t4 += a4
                    t5 += a5
            word[0], word[1], word[2], word[3], word[4], word[5] = w0, w1, w2, w3, w4, w5
            fresh[0], fresh[1], fresh[2], fresh[3], fresh[4], fresh[5] = t0, t1, t2, t3, t4, t5
            for label in range(LABEL_COUNT):
                sentence[label] += word[label]
                text[label] += fresh[label]
                inputs[18 + label] = max(inputs[18 + label], np.float32(word[label] * model.scale[label]))
            w += 1
        scale = 1 / np.sqrt(max(count, 1))
        for label in range(LABEL_COUNT):
            z = np.float32(sentence[label] * model.scale[label] * scale + model.intercept[label])
            if z > inputs[6 + label]:
                inputs[12 + label] = inputs[6 + label]
                inputs[6 + label] = z
            elif z > inputs[12 + label]:
                inputs[12 + label] = z
    scale = 1 / np.sqrt(max(text_count, 1))
    for label in range(LABEL_COUNT):
        inputs[label] = text[label] * model.scale[label] * scale + model.intercept[label]
        if sentences == 0:
            inputs[6 + label] = model.intercept[label]
            inputs[18 + label] = 0
        if sentences < 2:
            inputs[12 + label] = inputs[6 + label]
    surface = room.surface
    some = words + 1
    inputs[24] = surface[0]
    inputs[25] = words
    inputs[26] = words / (sentences + 1)
    inputs[27] = surface[3] / (surface[4] + 1)
    inputs[28] = surface[5] / (surface[0] + 1)
    inputs[29] = surface[6]
    inputs[30] = surface[6] / some
    inputs[31] = surface[7]
    inputs[32] = surface[8] / (surface[0] + 1)
    inputs[33] = surface[9] / some
    inputs[34] = surface[10] / (surface[0] + 1)
    inputs[35] = surface[11] / some
    inputs[36] = surface[12] / some
    inputs[37] = surface[13] / some
    inputs[38] = surface[14]
    inputs[39] = text_count / some
    inputs[40] = text_count / (slot_count + 1)
    return tag


DEPTH = 5


@njit(nogil=True, cache=True, inline="always")
def _child(node: np.uint32, inputs: np.ndarray, nodes: np.ndarray, thresholds: np.ndarray) -> np.uint32:
    packed = nodes[node, 1]
    return (packed >> np.uint32(8)) + np.uint32(inputs[packed & np.uint32(255)] > thresholds[node, 0])


@njit(nogil=True, cache=True)
def final_logits(inputs: np.ndarray, model: Model, out: np.ndarray) -> None:
    """Calibrated logits of the second level into `out` (6,). Four trees are walked side by side: each step
    waits for the one before it, but not for another tree's."""
    nodes, thresholds, values = model.nodes, model.nodes.view(np.float32), model.node_value
    tree = 0
    for label in range(LABEL_COUNT):
        total = model.base[label]
        while tree + 4 <= model.tree_end[label]:
            a, b = np.uint32(model.roots[tree]), np.uint32(model.roots[tree + 1])
            c, d = np.uint32(model.roots[tree + 2]), np.uint32(model.roots[tree + 3])
            for _ in range(DEPTH):
                a = _child(a, inputs, nodes, thresholds)
                b = _child(b, inputs, nodes, thresholds)
                c = _child(c, inputs, nodes, thresholds)
                d = _child(d, inputs, nodes, thresholds)
            total += values[a]
            total += values[b]
            total += values[c]
            total += values[d]
            tree += 4
        while tree < model.tree_end[label]:
            a = np.uint32(model.roots[tree])
            for _ in range(DEPTH):
                a = _child(a, inputs, nodes, thresholds)
            total += values[a]
            tree += 1
        out[label] = model.slope[label] * total + model.offset[label]


@njit(nogil=True, cache=True)
def inputs_of_texts(
    codes: np.ndarray,
    ends: np.ndarray,
    table: Table,
    room: Room,
    model: Model,
    seen: np.ndarray,
    tag: int,
    inputs: np.ndarray,
) -> int:
    """`level_two_inputs` for every text (rows of `inputs`); returns the last tag used."""
    begin = 0
    for i in range(len(ends)):
        tag = level_two_inputs(codes[begin : ends[i]], table, room, model, seen, tag, inputs[i])
        begin = ends[i]
    return tag


@njit(nogil=True, cache=True)
def score_texts(
    codes: np.ndarray,
    ends: np.ndarray,
    table: Table,
    room: Room,
    model: Model,
    seen: np.ndarray,
    tag: int,
    inputs: np.ndarray,
    out: np.ndarray,
) -> int:
    """Calibrated probabilities of the texts that lie end to end in `codes`, into `out` (n, 6).

    Returns the last tag used (see `level_two_inputs`).
    """
    begin = 0
    for i in range(len(ends)):
        tag = level_two_inputs(codes[begin : ends[i]], table, room, model, seen, tag, inputs)
        begin = ends[i]
        final_logits(inputs, model, out[i])
        for label in range(LABEL_COUNT):
            out[i, label] = 1 / (1 + np.exp(-out[i, label]))
    return tag


@njit(cache=True)
def score_text(
    codes: np.ndarray,
    ends: np.ndarray,
    table: Table,
    room: Room,
    model: Model,
    seen: np.ndarray,
    tag: int,
    inputs: np.ndarray,
    out: np.ndarray,
) -> int:
    """`score_texts` without letting go of Python's lock: among busy threads, waiting to have it back takes
    far longer than scoring one comment."""
    return score_texts(codes, ends, table, room, model, seen, tag, inputs, out)


@njit(nogil=True, cache=True)
def contributions(
    codes: np.ndarray, table: Table, room: Room, model: Model, occurrences: np.ndarray, out: np.ndarray
) -> int:
    """Each word's exact share of the text's linear logits, into `out` (words, 6); returns how many words.

    A feature's contribution is shared equally by its occurrences; that of a pair of words by both.
    `occurrences` (features,) int32 starts as zeros.
    """
    n, words = normalise_codes(codes, table, room)
    hash_words(n, room)
    total = room.slot_end[words - 1] if words else 0
    distinct = 0
    for k in range(total):
        feature = feature_of(room.slots[k], model.lookup)
        if feature >= 0:
            distinct += occurrences[feature] == 0
            occurrences[feature] += 1
    scale = 1 / np.sqrt(max(distinct, 1))
    out[:words] = 0
    k, sentence, first = 0, 0, 0
    for w in range(words):
        if w == room.sentence_end[sentence]:
            sentence += 1
            first = w
        while k < room.slot_end[w]:
            feature = feature_of(room.slots[k], model.lookup)
            k += 1
            if feature < 0:
                continue
            pair = w > first and k == room.slot_end[w]
            for label in range(LABEL_COUNT):
                share = model.weights[feature, label] * model.scale[label] * scale / occurrences[feature]
                if pair:
                    share /= 2
                    out[w - 1, label] += share
                out[w, label] += share
    return words
