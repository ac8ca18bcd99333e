"""Third stage of scoring: from a model's features to calibrated probabilities, and the reasons for them.

A linear model scores the text, its sentences and its words. Trees turn these logits and the surface counts
into the final logit of each label. Sums of weights are integer arithmetic, so they are the same on every
machine.
"""

import numpy as np
from numba import njit

from .layout import LABEL_COUNT, CodepointTable, ScorerArrays, Stacking, SurfaceCount, Workspace
from .ngrams import feature_of, find_features, hash_words
from .normalisation import normalise_codes

MAX_DEPTH = 5


@njit(nogil=True, cache=True)
def stacking_features(
    codes: np.ndarray,
    table: CodepointTable,
    workspace: Workspace,
    model: ScorerArrays,
    last_seen: np.ndarray,
    stamp: int,
    inputs: np.ndarray,
) -> int:
    """Fill `inputs`, the second stage's input for one text, see `Stacking`.

    Args:
        codes: Code points of the text.
        last_seen: (features,) uint32 stamp of the last sentence with each feature; none is above `stamp`.
        stamp: Stamp of the last sentence seen before this text.

    Returns:
        The stamp of the text's last sentence.
    """
    n, words = normalise_codes(codes, table, workspace)
    _, sentences = hash_words(n, workspace)
    slot_count = find_features(words, workspace, model.lookup)
    weights, features, feature_end = model.weights, workspace.slots, workspace.slot_end
    inputs[:] = 0
    inputs[Stacking.SENTENCE : Stacking.CHARACTERS] = -np.inf
    text = np.zeros(LABEL_COUNT, np.int64)
    sentence = np.empty(LABEL_COUNT, np.int64)
    word = np.empty(LABEL_COUNT, np.int64)
    new_in_text = np.empty(LABEL_COUNT, np.int64)
    start = stamp
    text_count, k, w = 0, 0, 0
    for s in range(sentences):
        stamp += 1
        sentence[:] = 0
        count = 0
        while w < workspace.sentence_end[s]:
            w0 = w1 = w2 = w3 = w4 = w5 = np.int64(0)
            t0 = t1 = t2 = t3 = t4 = t5 = np.int64(0)
            while k < feature_end[w]:
                feature = features[k]
                k += 1
                last = last_seen[feature]
                if last == stamp:
                    continue
                last_seen[feature] = stamp
                count += 1
                a0, a1, a2 = weights[feature, 0], weights[feature, 1], weights[feature, 2]
                a3, a4, a5 = weights[feature, 3], weights[feature, 4], weights[feature, 5]
                w0 += a0
                w1 += a1
                w2 += a2
                w3 += a3
                w4 += a4
                w5 += a5
                if last <= start:
                    text_count += 1
                    t0 += a0
                    t1 += a1
                    t2 += a2
                    t3 += a3
                    t4 += a4
                    t5 += a5
            word[0], word[1], word[2], word[3], word[4], word[5] = w0, w1, w2, w3, w4, w5
            new_in_text[0], new_in_text[1], new_in_text[2] = t0, t1, t2
            new_in_text[3], new_in_text[4], new_in_text[5] = t3, t4, t5
            for label in range(LABEL_COUNT):
                sentence[label] += word[label]
                text[label] += new_in_text[label]
                column = Stacking.WORD + label
                inputs[column] = max(inputs[column], np.float32(word[label] * model.scale[label]))
            w += 1
        scale = 1 / np.sqrt(max(count, 1))
        for label in range(LABEL_COUNT):
            z = np.float32(sentence[label] * model.scale[label] * scale + model.intercept[label])
            if z > inputs[Stacking.SENTENCE + label]:
                inputs[Stacking.SECOND_SENTENCE + label] = inputs[Stacking.SENTENCE + label]
                inputs[Stacking.SENTENCE + label] = z
            elif z > inputs[Stacking.SECOND_SENTENCE + label]:
                inputs[Stacking.SECOND_SENTENCE + label] = z
    scale = 1 / np.sqrt(max(text_count, 1))
    for label in range(LABEL_COUNT):
        inputs[Stacking.TEXT + label] = text[label] * model.scale[label] * scale + model.intercept[label]
        if sentences == 0:
            inputs[Stacking.SENTENCE + label] = model.intercept[label]
            inputs[Stacking.WORD + label] = 0
        if sentences < 2:
            inputs[Stacking.SECOND_SENTENCE + label] = inputs[Stacking.SENTENCE + label]
    surface = workspace.surface
    characters = surface[SurfaceCount.CHARACTERS]
    exclamations = surface[SurfaceCount.EXCLAMATIONS]
    inputs[Stacking.CHARACTERS] = characters
    inputs[Stacking.WORDS] = words
    inputs[Stacking.WORDS_PER_SENTENCE] = words / (sentences + 1)
    inputs[Stacking.UPPERCASE_SHARE] = surface[SurfaceCount.UPPERCASE] / (surface[SurfaceCount.LETTERS] + 1)
    inputs[Stacking.DIGIT_SHARE] = surface[SurfaceCount.DIGITS] / (characters + 1)
    inputs[Stacking.EXCLAMATIONS] = exclamations
    inputs[Stacking.EXCLAMATION_RATE] = exclamations / (words + 1)
    inputs[Stacking.QUESTIONS] = surface[SurfaceCount.QUESTIONS]
    inputs[Stacking.SYMBOL_SHARE] = surface[SurfaceCount.SYMBOLS] / (characters + 1)
    inputs[Stacking.NEWLINE_RATE] = surface[SurfaceCount.NEWLINES] / (words + 1)
    inputs[Stacking.NON_ASCII_SHARE] = surface[SurfaceCount.NON_ASCII] / (characters + 1)
    inputs[Stacking.UPPERCASE_WORD_RATE] = surface[SurfaceCount.UPPERCASE_WORDS] / (words + 1)
    inputs[Stacking.REPEAT_RATE] = surface[SurfaceCount.REPEATS] / (words + 1)
    inputs[Stacking.OBFUSCATION_RATE] = surface[SurfaceCount.OBFUSCATIONS] / (words + 1)
    inputs[Stacking.LONGEST_WORD] = surface[SurfaceCount.LONGEST_WORD]
    inputs[Stacking.FEATURES_PER_WORD] = text_count / (words + 1)
    inputs[Stacking.FEATURES_PER_NGRAM] = text_count / (slot_count + 1)
    return stamp


@njit(nogil=True, cache=True, inline="always")
def _child(node: np.uint32, inputs: np.ndarray, nodes: np.ndarray, thresholds: np.ndarray) -> np.uint32:
    packed = nodes[node, 1]
    return (packed >> np.uint32(8)) + np.uint32(inputs[packed & np.uint32(255)] > thresholds[node, 0])


@njit(nogil=True, cache=True)
def final_logits(inputs: np.ndarray, model: ScorerArrays, logits: np.ndarray) -> None:
    """Write the calibrated logits of the second stage into `logits` (labels,)."""
    nodes, thresholds, values = model.nodes, model.nodes.view(np.float32), model.node_value
    # Each step down a tree waits for the one before it, but not for those down the other trees.
    reached = model.roots.astype(np.uint32)
    for _ in range(MAX_DEPTH):
        for tree in range(len(reached)):
            reached[tree] = _child(reached[tree], inputs, nodes, thresholds)
    tree = 0
    for label in range(LABEL_COUNT):
        total = model.base[label]
        while tree < model.tree_end[label]:
            total += values[reached[tree]]
            tree += 1
        logits[label] = model.slope[label] * total + model.offset[label]


@njit(nogil=True, cache=True)
def stacking_features_of_texts(
    codes: np.ndarray,
    ends: np.ndarray,
    table: CodepointTable,
    workspace: Workspace,
    model: ScorerArrays,
    last_seen: np.ndarray,
    stamp: int,
    inputs: np.ndarray,
) -> int:
    """Fill a row of `inputs` for each text; returns the last stamp, see `stacking_features`."""
    begin = 0
    for i in range(len(ends)):
        stamp = stacking_features(
            codes[begin : ends[i]], table, workspace, model, last_seen, stamp, inputs[i]
        )
        begin = ends[i]
    return stamp


@njit(nogil=True, cache=True)
def score_texts(
    codes: np.ndarray,
    ends: np.ndarray,
    table: CodepointTable,
    workspace: Workspace,
    model: ScorerArrays,
    last_seen: np.ndarray,
    stamp: int,
    inputs: np.ndarray,
    probabilities: np.ndarray,
) -> int:
    """Write the calibrated probabilities of texts into `probabilities` (n, labels).

    Args:
        codes: Code points of the texts, one after the other.
        ends: (n,) end of each text in `codes`.
        inputs: (len(STACKING_NAMES),) float32 working memory.

    Returns:
        The last stamp, see `stacking_features`.
    """
    begin = 0
    for i in range(len(ends)):
        stamp = stacking_features(codes[begin : ends[i]], table, workspace, model, last_seen, stamp, inputs)
        begin = ends[i]
        final_logits(inputs, model, probabilities[i])
        for label in range(LABEL_COUNT):
            probabilities[i, label] = 1 / (1 + np.exp(-probabilities[i, label]))
    return stamp


@njit(cache=True)
def score_text(
    codes: np.ndarray,
    ends: np.ndarray,
    table: CodepointTable,
    workspace: Workspace,
    model: ScorerArrays,
    last_seen: np.ndarray,
    stamp: int,
    inputs: np.ndarray,
    probabilities: np.ndarray,
) -> int:
    """Do what `score_texts` does, but hold the GIL.

    A thread that has released the GIL may wait up to `sys.getswitchinterval()` (5 ms) to get it back.
    """
    return score_texts(codes, ends, table, workspace, model, last_seen, stamp, inputs, probabilities)


@njit(nogil=True, cache=True)
def word_contributions(
    codes: np.ndarray,
    table: CodepointTable,
    workspace: Workspace,
    model: ScorerArrays,
    occurrences: np.ndarray,
    contributions: np.ndarray,
) -> int:
    """Write what each word adds to the text's linear logits into `contributions` (words, labels).

    A feature's contribution is shared equally by its occurrences, that of a pair of words by both words.

    Args:
        codes: Code points of the text.
        occurrences: (features,) int32 zeros.

    Returns:
        The number of words.
    """
    n, words = normalise_codes(codes, table, workspace)
    hash_words(n, workspace)
    total = workspace.slot_end[words - 1] if words else 0
    distinct = 0
    for k in range(total):
        feature = feature_of(workspace.slots[k], model.lookup)
        if feature >= 0:
            distinct += occurrences[feature] == 0
            occurrences[feature] += 1
    scale = 1 / np.sqrt(max(distinct, 1))
    contributions[:words] = 0
    k, sentence, first = 0, 0, 0
    for w in range(words):
        if w == workspace.sentence_end[sentence]:
            sentence += 1
            first = w
        while k < workspace.slot_end[w]:
            feature = feature_of(workspace.slots[k], model.lookup)
            k += 1
            if feature < 0:
                continue
            is_pair = w > first and k == workspace.slot_end[w]
            for label in range(LABEL_COUNT):
                share = model.weights[feature, label] * model.scale[label] * scale / occurrences[feature]
                if is_pair:
                    share /= 2
                    contributions[w - 1, label] += share
                contributions[w, label] += share
    return words
