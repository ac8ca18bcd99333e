"""Sentences that teach meaning: contrast pairs of harmless and toxic sentences by pattern, in five languages.

Training uses the part "train". Evaluation reports the part "test" by pattern, as a regression suite. The
README in `data/meaning` describes the patterns.
"""

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple, get_args

Part = Literal["train", "test"]
PARTS: tuple[Part, ...] = get_args(Part)
LANGUAGES = ("en", "de", "es", "fr", "pt")
FOLDER = Path(__file__).parent / "data" / "meaning"


class Sentence(NamedTuple):
    """A sentence and its labels.

    A pair is one harmless and one toxic sentence with similar words. It has the same name in every language
    that it is translated into.
    """

    text: str
    language: str  # ISO 639-1
    pattern: str
    pair: str
    labels: tuple[str, ...]  # names from `labels.LABELS`; empty if the sentence is harmless


def accuracies(sentences: Sequence[Sentence], flagged: Sequence[bool]) -> dict[str, float]:
    """Return for each pattern the fraction of sentences that are rightly flagged or not, the lowest first."""
    groups: dict[str, list[bool]] = defaultdict(list)
    for sentence, is_flagged in zip(sentences, flagged, strict=True):
        groups[sentence.pattern].append(bool(is_flagged) == bool(sentence.labels))
    rates = {pattern: sum(right) / len(right) for pattern, right in groups.items()}
    return dict(sorted(rates.items(), key=lambda item: item[1]))


def load(part: Part) -> list[Sentence]:
    """Return the sentences of one part, in the order of `LANGUAGES` and of the files."""
    rows = [
        json.loads(line)
        for language in LANGUAGES
        for line in (FOLDER / f"{language}.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    return [
        Sentence(row["text"], row["language"], row["pattern"], row["pair"], tuple(row["labels"]))
        for row in rows
        if row["part"] == part
    ]
