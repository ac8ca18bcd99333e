"""Training rows beyond the given ones: obfuscated copies, and the project's own sentences.

Template sentences name groups, everyday sentences are neutral, and contrast pairs teach meaning.
"""

import random
import zlib
from dataclasses import dataclass

import numpy as np

from . import everyday
from .bias_audit import training_sentences
from .config import TrainingConfig
from .encoder_training.examples import meaning_sentences
from .kernels.layout import LABEL_COUNT
from .normalise import normalise
from .obfuscation import obfuscate

# Words and n-grams can't express much of what the pairs teach: more of them cost quality on real comments.
EVERYDAY_SENTENCES, PAIRED_SENTENCES = 2_000, 1_650


@dataclass(frozen=True)
class AugmentedRows:
    """The given rows, then obfuscated copies of some of them, then the project's own sentences."""

    texts: list[str]
    labels: np.ndarray  # (n, labels)
    cost: np.ndarray  # (n, labels) float32: weight of the loss in the first stage
    weight: np.ndarray  # (n, labels): weight of the loss in the second stage
    folds: np.ndarray  # (n,): the same for near-duplicates, and for a text and its copy


def augment(
    texts: list[str], labels: np.ndarray, weight: np.ndarray, config: TrainingConfig
) -> AugmentedRows:
    """Add obfuscated copies and template sentences to the rows, whose weights are `weight` (n,)."""
    labelled: np.ndarray = np.any(labels, axis=1)
    balanced = weight.copy()
    for rows in (labelled, ~labelled):
        # The weight of a class as a whole moves only the intercept, which the second stage corrects.
        balanced[rows] /= weight[rows].mean() if weight[rows].sum() else 1.0
    folds = np.array([_near_duplicate_key(text) % config.folds for text in texts])
    rng = np.random.default_rng(config.seed)
    copy_share = np.where(labelled, config.obfuscated_share, config.obfuscated_share / 2)
    copied = np.flatnonzero(rng.random(len(texts)) < copy_share)
    copies: list[str] = []
    kinds = config.obfuscations
    for rows, kind in zip(np.array_split(copied, len(kinds)), kinds, strict=True):
        copies += obfuscate([texts[i] for i in rows], kind, seed=config.seed + len(copies))
    sentences = training_sentences(config.seed)
    selected = np.flatnonzero(rng.random(len(sentences.texts)) < len(texts) / config.texts_for_all_sentences)
    count = len(selected)
    sentence_labels = np.zeros((count, LABEL_COUNT), np.int8)
    sentence_labels[:, 0] = sentences.toxic[selected]
    only_toxic = (np.arange(LABEL_COUNT) == 0).astype(np.float32)
    project_texts, project_labels = project_sentences(config.seed)
    project_rows = np.flatnonzero(
        rng.random(len(project_texts)) < len(texts) / config.texts_for_all_sentences
    )
    row_cost = np.repeat(balanced[:, None], LABEL_COUNT, axis=1)
    row_weight = np.repeat(weight[:, None], LABEL_COUNT, axis=1)
    return AugmentedRows(
        texts=[
            *texts,
            *copies,
            *(sentences.texts[i] for i in selected),
            *(project_texts[i] for i in project_rows),
        ],
        labels=np.concatenate([labels, labels[copied], sentence_labels, project_labels[project_rows]]),
        cost=np.concatenate(
            [
                row_cost,
                row_cost[copied],
                np.tile(only_toxic * config.sentence_cost, (count, 1)),
                np.full((len(project_rows), LABEL_COUNT), config.project_cost),
            ]
        ).astype(np.float32),
        weight=np.concatenate(
            [
                row_weight,
                row_weight[copied] * config.copy_weight,
                np.tile(only_toxic * config.sentence_weight, (count, 1)),
                np.full((len(project_rows), LABEL_COUNT), config.project_weight),
            ]
        ),
        folds=np.concatenate(
            [folds, folds[copied], rng.integers(config.folds, size=count + len(project_rows))]
        ),
    )


def project_sentences(seed: int) -> tuple[list[str], np.ndarray]:
    """Return English contrast pairs and everyday sentences of the project, and their (n, labels) labels."""
    pairs = meaning_sentences()
    pairs = pairs.take(np.flatnonzero(np.array(pairs.languages) == "en")).sample(PAIRED_SENTENCES, seed)
    rng = random.Random(seed)
    everyday_texts = [everyday.build_sentence(rng) for _ in range(EVERYDAY_SENTENCES)]
    harmless = np.zeros((len(everyday_texts), LABEL_COUNT), np.int8)
    return [*pairs.texts, *everyday_texts], np.concatenate([pairs.labels, harmless])


def _near_duplicate_key(text: str) -> int:
    """Return a number that depends on the first 200 normalised characters only."""
    return zlib.crc32(normalise(text[:400])[0][:200].encode("utf-8", "surrogatepass"))
