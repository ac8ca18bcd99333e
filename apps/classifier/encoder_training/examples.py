"""The texts that an encoder is trained on. Some are generated: names, common words, groups, obfuscation."""

import json
import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from apps.classifier import everyday, meaning
from apps.classifier.bias_audit import training_sentences
from apps.classifier.labels import LABELS
from apps.classifier.obfuscation import KINDS, obfuscate

UNKNOWN = -1
_CONTRASTS: dict[str, dict[str, Any]] = json.loads(
    (Path(__file__).parents[1] / "data" / "contrasts.json").read_text(encoding="utf-8")
)
_LABELS_OF_CONTRAST = {
    "toxic": ("toxic", "insult"),
    "group": ("toxic", "identity_hate"),
    "slur": ("toxic",),
    "threat": ("toxic", "threat"),
}


@dataclass(frozen=True)
class Examples:
    """Texts and their labels.

    Attributes:
        labels: (n, labels) int8: 1, 0, or `UNKNOWN` where the source does not state the label.
        languages: the language of each text, as an ISO 639-1 code.
    """

    texts: list[str]
    labels: np.ndarray
    languages: list[str]

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, rows: Iterable[int] | np.ndarray) -> "Examples":
        """Return the examples with these indices."""
        rows = np.asarray(list(rows), int)
        return Examples([self.texts[k] for k in rows], self.labels[rows], [self.languages[k] for k in rows])

    def sample(self, size: int, seed: int) -> "Examples":
        """Return at most `size` examples, drawn at random."""
        rows = np.random.default_rng(seed).permutation(len(self))[:size]
        return self.take(np.sort(rows))

    @property
    def flagged(self) -> np.ndarray:
        """(n,) bool: whether a label applies."""
        return np.any(self.labels == 1, axis=1)


def concatenate(parts: Sequence[Examples]) -> Examples:
    """Return all examples, in the order of the parts."""
    return Examples(
        [text for part in parts for text in part.texts],
        np.concatenate([np.zeros((0, len(LABELS)), np.int8), *(part.labels for part in parts)]),
        [language for part in parts for language in part.languages],
    )


def obfuscated_copies(examples: Examples, size: int, seed: int) -> Examples:
    """Return obfuscated copies of texts, as many of each kind, half of them flagged if possible."""
    rng = np.random.default_rng(seed)
    flagged, clean = (rng.permutation(np.flatnonzero(examples.flagged == value)) for value in (True, False))
    rows = rng.permutation(np.concatenate([flagged[: size // 2], clean[: size // 2]]))
    parts = []
    for kind, members in zip(KINDS, np.array_split(rows, len(KINDS)), strict=True):
        part = examples.take(members)
        parts.append(Examples(obfuscate(part.texts, kind, seed=seed), part.labels, part.languages))
    return concatenate(parts)


def identity_sentences(size: int, seed: int) -> Examples:
    """Return sentences that name groups, benign and toxic alike; of the toxic ones only `toxic` is known."""
    sentences = training_sentences(seed)
    labels = np.where(sentences.toxic[:, None] == 1, UNKNOWN, 0).repeat(len(LABELS), 1).astype(np.int8)
    labels[:, 0] = sentences.toxic
    return Examples(sentences.texts, labels, ["en"] * len(labels)).sample(size, seed)


def everyday_sentences(words: dict[str, list[str]], names: list[str], size: int, seed: int) -> Examples:
    """Return neutral sentences with common words and names, and common words alone; no label applies.

    Args:
        words: the common words of each language that are not rude.
        names: first names and family names.
    """
    rng = random.Random(seed)
    texts: list[str] = []
    languages: list[str] = []
    while len(texts) < size:
        kind = rng.random()
        if kind < 0.35:
            language = "en"
            text = everyday.build_sentence(rng)
        elif kind < 0.6:
            language = rng.choice(list(everyday.DATA["names"]))
            text = rng.choice(everyday.DATA["names"][language])
        else:
            language = "en" if kind < 0.85 else rng.choice(list(words))
            templates = everyday.DATA["mentions"].get(language, ["{word}"])
            text = rng.choice(["{word}", "{word} {word}", "{word} {word} {word}", *templates])
        while "{name}" in text:
            text = text.replace("{name}", rng.choice(names), 1)
        while "{word}" in text:
            text = text.replace("{word}", rng.choice(words[language]), 1)
        if rng.random() < 0.2:
            text = text.lower()
        elif rng.random() < 0.5:
            text = text[0].upper() + text[1:]
        texts.append(text)
        languages.append(language)
    return Examples(texts, np.zeros((size, len(LABELS)), np.int8), languages)


def words_alone(words: dict[str, list[str]]) -> Examples:
    """Return each word of each language as a text of its own; no label applies."""
    texts = [word for members in words.values() for word in members]
    languages = [language for language, members in words.items() for _ in members]
    return Examples(texts, np.zeros((len(texts), len(LABELS)), np.int8), languages)


def contrast_sentences(size: int, seed: int) -> Examples:
    """Return sentences with rude words, half of them harmless; almost half are in English.

    Of the toxic ones, only the labels that their template states are known. Sentences of the regression suite
    are left out.
    """
    rng = random.Random(seed)
    tested = {sentence.text for sentence in meaning.load("test")}
    rows: list[tuple[str, str, str]] = []  # text, language and kind of template
    while len(rows) < size:
        language = "en" if rng.random() < 0.4 else rng.choice(list(_CONTRASTS))
        kind = "harmless" if rng.random() < 0.5 else rng.choice(["toxic", "toxic", "toxic", "threat"])
        template = rng.choice(_CONTRASTS[language][kind])
        text = template
        for slot, choices in _CONTRASTS[language]["slots"].items():
            while f"{{{slot}}}" in text:
                text = text.replace(f"{{{slot}}}", rng.choice(choices), 1)
        if language == "en":
            text = re.sub(r"\b([Aa]) (?=[aeiouAEIOU])", r"\1n ", text)
            text = re.sub(r"\b([Aa])n (?=[^aeiouAEIOU])", r"\1 ", text)
        text = text[0].upper() + text[1:]
        if rng.random() < 0.15:
            text = text.lower()
        if text not in tested:
            if kind == "toxic" and "{group" in template:
                kind = "group"
            elif kind == "toxic" and "{slur" in template:
                kind = "slur"
            rows.append((text, language, kind))
    labels = np.zeros((len(rows), len(LABELS)), np.int8)
    for row, (_, _, kind) in enumerate(rows):
        if kind != "harmless":
            labels[row] = UNKNOWN
            for label in _LABELS_OF_CONTRAST[kind]:
                labels[row, LABELS.index(label)] = 1
    texts, languages, _ = zip(*rows, strict=True)
    return Examples(list(texts), labels, list(languages))


def drop_rude_words(words: list[str], examples: Examples, *, limit: float = 0.5) -> list[str]:
    """Return the words that at most `limit` of the examples with the word are flagged for, or at most one."""
    wanted = set(words)
    texts, flagged = dict.fromkeys(wanted, 0), dict.fromkeys(wanted, 0)
    for text, is_flagged in zip(examples.texts, examples.flagged, strict=True):
        for word in wanted.intersection(text.lower().replace("'", " ").split()):
            texts[word] += 1
            flagged[word] += bool(is_flagged)
    return [word for word in words if flagged[word] < 2 or flagged[word] <= limit * texts[word]]


def meaning_sentences() -> Examples:
    """Return the training part of the project's contrast pairs."""
    sentences = meaning.load("train")
    labels = label_matrix([{"labels": sentence.labels} for sentence in sentences])
    return Examples(
        [sentence.text for sentence in sentences], labels, [sentence.language for sentence in sentences]
    )


def label_matrix(rows: Sequence[dict[str, Any]]) -> np.ndarray:
    """Return the (n, labels) labels of JSON rows.

    A row has a list `labels` of those that apply, or a key for each label that is known.
    """
    result = np.full((len(rows), len(LABELS)), UNKNOWN, np.int8)
    for number, row in enumerate(rows):
        applying = row.get("labels")
        for column, label in enumerate(LABELS):
            result[number, column] = row.get(label, UNKNOWN) if applying is None else label in applying
    return result
