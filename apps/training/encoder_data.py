"""Reads, splits and mixes the data that the encoder is trained on. `encoder_runs` calls it.

wordfreq and Faker are imported where they are used, because only training needs them.
"""

import gzip
import hashlib
import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from apps.classifier import everyday
from apps.classifier.encoder_training.config import LANGUAGES, EncoderConfig
from apps.classifier.encoder_training.examples import (
    UNKNOWN,
    Examples,
    concatenate,
    contrast_sentences,
    drop_rude_words,
    everyday_sentences,
    identity_sentences,
    label_matrix,
    meaning_sentences,
    obfuscated_copies,
    words_alone,
)
from apps.training import datasets
from apps.training.exceptions import SourceError, TrainingError
from apps.training.models import Dataset
from apps.training.readings import SECOND_LEVEL

# Fraction of the texts, by their hash.
HELD_OUT = 0.115  # more than `datasets.HELD_OUT`, because that split is stratified
COMMON_WORDS = {"en": 10_000}
COMMON_WORDS_ELSEWHERE = 1_500
WORDS_FOR_VOCABULARY = 20_000
TEXTS_FOR_VOCABULARY = 2_000  # of each source
NAMES = 4_000
# Languages with spaces between words and enough labelled texts, so that rude words can be left out.
LANGUAGES_OF_WORDS = ("da", "de", "en", "es", "fr", "it", "pl", "pt", "tr")
NAME_LOCALES = (
    "en_US", "en_GB", "en_IN", "de_DE", "es_ES", "es_MX", "fr_FR", "it_IT",
    "pt_BR", "nl_NL", "pl_PL", "tr_TR", "da_DK", "sv_SE", "cs_CZ",
)  # fmt: skip


@dataclass(frozen=True)
class Source:
    """A data set and the SHA-256 of its rows or of its file."""

    name: str
    sha256: str
    examples: Examples

    def take(self, rows: np.ndarray) -> "Source":
        """Return the source with the examples that have these indices."""
        return Source(self.name, self.sha256, self.examples.take(rows))

    @property
    def has_all_labels(self) -> bool:
        """Whether the source states every label of every text in English."""
        return set(self.examples.languages) == {"en"} and bool(np.all(self.examples.labels != UNKNOWN))


def read_dataset(dataset: Dataset) -> Source:
    """Return an imported data set, whose texts are English.

    Raises:
        SourceError: its file is missing or damaged.
    """
    rows = datasets.read(dataset.path)
    return Source(str(dataset), dataset.sha256, Examples(rows.texts, rows.labels, ["en"] * len(rows)))


def read_files(path: Path) -> list[Source]:
    """Return the file of JSON lines at a path, or the files in the folder.

    Raises:
        SourceError: a file can't be read.
    """
    files = sorted({*path.glob("*.jsonl"), *path.glob("*.jsonl.gz")}) if path.is_dir() else [path]
    return [_read_json_lines(file) for file in files]


def _read_json_lines(path: Path) -> Source:
    """Read a file that may be compressed as .gz: `text` and the known labels in each line.

    The language is the file's name up to the first `_`.
    """
    try:
        data = path.read_bytes()
        lines = (gzip.decompress(data) if path.suffix == ".gz" else data).decode().splitlines()
        rows = [json.loads(line) for line in lines if line.strip()]
        texts = [row["text"] for row in rows]
    except (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError) as error:
        raise SourceError(f"{path.name} is not a file of JSON lines with a text in each ({error}).") from None
    language = path.name.partition("_")[0]
    examples = Examples(texts, label_matrix(rows), [language] * len(rows))
    return Source(path.name.partition(".")[0], hashlib.sha256(data).hexdigest(), examples)


def split(examples: Examples) -> dict[str, np.ndarray]:
    """Return the indices of three parts: `train`, `second_level` and `held_out`, which is `datasets.split`'s.

    A text that another data set or the benchmark might hold out is never in `train`.
    """
    keys = np.fromiter(map(datasets.text_key, examples.texts), np.uint64, len(examples))
    position = keys / 2.0**64
    _, held_out = datasets.split_keys(keys, np.maximum(examples.labels, 0))
    is_held_out = np.zeros(len(examples), bool)
    is_held_out[held_out] = True
    is_in_benchmark = np.fromiter(map(datasets.is_in_benchmark, examples.texts), bool, len(examples))
    return {
        "train": np.flatnonzero(~is_held_out & ~is_in_benchmark & (position >= SECOND_LEVEL)),
        "second_level": np.flatnonzero(~is_held_out & (position >= HELD_OUT) & (position < SECOND_LEVEL)),
        "held_out": held_out,
    }


def common_words(language: str, count: int) -> list[str]:
    """Return the most common words of a language that consist of letters, from wordfreq."""
    import wordfreq

    return [word for word in wordfreq.top_n_list(language, count) if word.isalpha()]


def common_names(count: int, seed: int) -> list[str]:
    """Return different first and family names of many countries, from Faker."""
    from faker import Faker

    faker = Faker(list(NAME_LOCALES))
    faker.seed_instance(seed)
    names: dict[str, None] = {}
    while len(names) < count:
        names[faker.first_name()] = names[faker.last_name()] = None
    return list(names)[:count]


def english_phase(sources: Sequence[Source], config: EncoderConfig) -> Examples:
    """Return the first phase: comments with all labels, half of them flagged where there are enough.

    Raises:
        TrainingError: no source has all labels.
    """
    complete = [source.examples for source in sources if source.has_all_labels]
    if not complete:
        raise TrainingError("No data set states all six labels in English: give one, such as Jigsaw's.")
    return _balanced(concatenate(complete), config.english_rows, config.seed)


def mixed_phase(sources: Sequence[Source], config: EncoderConfig, number: int) -> Examples:
    """Return a later phase: rows of all sources, obfuscated copies and generated sentences.

    Args:
        number: of the phase. Each draws other rows at random.
    """
    seed = config.seed + number
    rows = [
        _balanced(
            source.examples, config.english_again if source.has_all_labels else config.rows_per_source, seed
        )
        for source in sources
    ]
    words = {}
    known = concatenate([source.examples for source in sources])
    languages = np.array(known.languages)
    for language in LANGUAGES_OF_WORDS:
        count = COMMON_WORDS.get(language, COMMON_WORDS_ELSEWHERE)
        of_language = known.take(np.flatnonzero(languages == language))
        words[language] = drop_rude_words(common_words(language, count), of_language)
    words["en"] = [word for word in words["en"] if word not in everyday.DATA["rude"]]
    return concatenate(
        [
            *rows,
            obfuscated_copies(concatenate(rows), config.obfuscated_copies, seed),
            identity_sentences(config.identity_sentences, seed),
            everyday_sentences(words, common_names(NAMES, seed), config.everyday_sentences, seed),
            words_alone(words),
            contrast_sentences(config.contrast_sentences, seed),
            *[meaning_sentences()] * config.meaning_repeats,
        ]
    )


def _balanced(examples: Examples, size: int, seed: int) -> Examples:
    flagged, clean = (examples.take(np.flatnonzero(mask)) for mask in (examples.flagged, ~examples.flagged))
    flagged = flagged.sample(max(size // 2, size - len(clean)), seed)
    return concatenate([flagged, clean.sample(size - len(flagged), seed)])


def vocabulary_sources(sources: Sequence[Source]) -> Iterator[tuple[str, list[str], list[float]]]:
    """Yield for each part of the vocabulary its name, texts and their weights.

    The parts are texts of all sources and the common words of each language.
    """
    texts = concatenate([source.examples.sample(TEXTS_FOR_VOCABULARY, 0) for source in sources]).texts
    yield "texts", texts, [1.0] * len(texts)
    import wordfreq

    for language in LANGUAGES:
        words = wordfreq.top_n_list(language, WORDS_FOR_VOCABULARY)
        # The frequency of a word is about inversely proportional to its rank (Zipf's law).
        yield language, words, [1 / rank for rank in range(1, len(words) + 1)]
