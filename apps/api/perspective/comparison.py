"""Compares past scores of Perspective with the model's probabilities, for `manage.py compare_perspective`.

It computes the rank correlation, and thresholds at which as many comments are flagged as before.
"""

import json
import math
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from apps.api.perspective.attributes import LABEL_OF, label_of
from apps.api.perspective.exceptions import ComparisonError
from apps.classifier.labels import LABELS
from apps.classifier.scorer import Scorer
from apps.core.tables import TEXT_COLUMNS, Table, open_text
from apps.core.text import is_storable

BATCH = 500
_MISSING = (None, "", "null", "NULL", "None", "NA", "N/A")
MAX_ARRAY_LINES = 10_000_000  # of a JSON array
_MAX_POINTS = 5_000  # in a scatter plot


class ScoredRow(NamedTuple):
    """A comment and its past Perspective scores by attribute; attributes may be missing."""

    text: str
    scores: Mapping[str, float]


class Comparison(NamedTuple):
    """The comparison of one attribute.

    Attributes:
        perspective: (n,) past scores of Perspective.
        toxicmod: (n,) probabilities of the model.
        correlation: Spearman's rank correlation, NaN if all scores are the same.
        threshold: the site's threshold for Perspective's scores.
        suggested: the threshold for the model's probabilities that flags as many comments.
    """

    attribute: str
    perspective: np.ndarray
    toxicmod: np.ndarray
    correlation: float
    threshold: float
    suggested: float

    @property
    def perspective_rate(self) -> float:
        """The fraction of comments at or above the site's threshold."""
        return float(np.mean(self.perspective >= self.threshold))

    @property
    def toxicmod_rate(self) -> float:
        """The fraction of comments at or above the suggested threshold."""
        return float(np.mean(self.toxicmod >= self.suggested))

    @property
    def agreement(self) -> float:
        """The fraction of comments that are flagged by both or by neither."""
        return float(np.mean((self.perspective >= self.threshold) == (self.toxicmod >= self.suggested)))


def read(path: Path, text_column: str | None = None) -> Iterator[ScoredRow]:
    """Yield the rows of a CSV file with a header, or of a JSON file (.jsonl, .ndjson, .json), one at a time.

    A column or member with the name of an attribute, in any case, contains its score. A JSON object may also
    contain a response of Perspective (`attributeScores`), beside the text or in `response`.

    Raises:
        TableError: the file can't be read.
        ComparisonError: a row has no text or a score that is not between 0 and 1.
    """
    if path.name.lower().removesuffix(".gz").endswith((".jsonl", ".ndjson", ".json")):
        with open_text(path) as lines:
            for line, record in _json_records(path, iter(lines)):
                yield _row(record, text_column, f"{path.name}, line {line}")
        return
    with open_text(path) as lines:
        table = Table(lines)
        text_index = table.find_column(*([text_column] if text_column else TEXT_COLUMNS))
        names = [_attribute_name(name) for name in table.header]
        if text_index is not None:
            names[text_index] = text_column or "text"
        for row in table:
            location = f"{path.name}, line {row.line}"
            if row.problem:
                raise ComparisonError(f"{location}: {row.problem}. Correct it and start again.")
            yield _row(dict(zip(names, row.cells, strict=True)), text_column, location)


def _attribute_name(header: str) -> str:
    """Return the attribute of a column whose name is a path: `attributeScores.INSULT.summaryScore.value`."""
    return header.removeprefix("attributeScores.").removesuffix(".summaryScore.value")


def _json_records(path: Path, lines: Iterator[str]) -> Iterator[tuple[int, Mapping[str, object]]]:
    """Yield the line and value of each JSON object, one in each line or all in one array."""
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        is_array = line.lstrip().startswith("[{")
        try:
            value = json.loads("".join([line, *islice(lines, MAX_ARRAY_LINES)]) if is_array else line)
        except ValueError as error:
            raise ComparisonError(f"{path.name}, line {number} is not JSON: {error}.") from error
        for record in value if is_array else [value]:
            if not isinstance(record, dict):
                raise ComparisonError(f"{path.name}, line {number} is not a JSON object.")
            yield number, record


def _row(record: Mapping[str, object], text_column: str | None, location: str) -> ScoredRow:
    names = [text_column] if text_column else TEXT_COLUMNS
    text = next((record[name] for name in names if record.get(name) is not None), None)
    if isinstance(text, Mapping):  # a request's `comment`
        text = text.get("text")
    if not isinstance(text, str) or not is_storable(text):
        columns = ", ".join(str(name) for name in record)
        raise ComparisonError(
            f"{location} has no text in {' or '.join(names)}. Columns: {columns}. Use --text-column."
        )
    values: dict[str, object] = {str(name).upper(): value for name, value in record.items()}
    response = record.get("response", record)
    if isinstance(response, Mapping) and isinstance(attributes := response.get("attributeScores"), Mapping):
        for name, scores in attributes.items():
            if isinstance(scores, Mapping) and isinstance(summary := scores.get("summaryScore"), Mapping):
                values[str(name).upper()] = summary.get("value")
    scores = {}
    for name, value in values.items():
        if label_of(name) is not None and value not in _MISSING:
            score = _score(value, f"{location}, {name}")
            if not math.isnan(score):
                scores[name] = score
    return ScoredRow(text, scores)


def _score(value: object, location: str) -> float:
    """Return a score, which may have a decimal comma or a percent sign; NaN stands for a missing score."""
    try:
        if isinstance(value, str):
            digits = value.strip().removesuffix("%").replace(",", ".")
            number = float(digits) / (100 if value.strip().endswith("%") else 1)
        else:
            number = float(value) if isinstance(value, int | float) else math.inf
    except ValueError:
        number = math.inf
    if not (math.isnan(number) or 0 <= number <= 1):
        raise ComparisonError(
            f"{location}: {value!r} is not a score between 0 and 1. Write percentages with a percent sign."
        )
    return number


def score_rows(rows: Iterable[ScoredRow], scorer: Scorer) -> Iterator[tuple[ScoredRow, np.ndarray]]:
    """Yield each row with the model's probabilities, (6,) float64; score BATCH comments at a time."""
    remaining = iter(rows)
    while batch := list(islice(remaining, BATCH)):
        yield from zip(batch, scorer.score_many([row.text for row in batch]), strict=True)


def compare(scored: Iterable[tuple[ScoredRow, np.ndarray]], threshold: float) -> list[Comparison]:
    """Return a comparison for each attribute, in Perspective's order.

    Args:
        scored: rows with the model's probabilities. Only the scores are kept in memory, 16 bytes each.
        threshold: the site's threshold for Perspective's scores.
    """
    perspective: dict[str, array[float]] = {}
    toxicmod: dict[str, array[float]] = {}
    for row, probabilities in scored:
        for attribute, score in row.scores.items():
            perspective.setdefault(attribute, array("d")).append(score)
            label = label_of(attribute)
            toxicmod.setdefault(attribute, array("d")).append(probabilities[LABELS.index(label or "")])
    order = {name: position for position, name in enumerate(LABEL_OF)}
    return [
        _compare(attribute, np.array(perspective[attribute]), np.array(toxicmod[attribute]), threshold)
        for attribute in sorted(
            perspective, key=lambda name: (order.get(name.split("@")[0], len(order)), name)
        )
    ]


def _compare(attribute: str, perspective: np.ndarray, toxicmod: np.ndarray, threshold: float) -> Comparison:
    # Imported here because the web processes import this module's package and don't need 20 MB of SciPy.
    from scipy.stats import spearmanr

    is_varied = len(perspective) > 1 and np.ptp(perspective) > 0 and np.ptp(toxicmod) > 0
    correlation = float(spearmanr(perspective, toxicmod).statistic) if is_varied else math.nan
    flagged = int(np.sum(perspective >= threshold))
    ranked = np.sort(toxicmod)[::-1]
    if flagged == 0:
        suggested = 1.0
    elif flagged == len(ranked):
        suggested = float(ranked[-1])
    else:  # half-way between the last flagged and the first unflagged comment
        suggested = float(ranked[flagged - 1] + ranked[flagged]) / 2
    return Comparison(attribute, perspective, toxicmod, correlation, threshold, suggested)


def plot(comparisons: Sequence[Comparison], path: Path) -> None:
    """Write a scatter plot for each attribute, with both thresholds.

    Raises:
        ComparisonError: the file can't be written.
    """
    columns = min(3, len(comparisons))
    rows = math.ceil(len(comparisons) / columns)
    figure = Figure(figsize=(4.2 * columns, 4.2 * rows), layout="constrained")
    generator = np.random.default_rng(0)
    for position, comparison in enumerate(comparisons, 1):
        axes = figure.add_subplot(rows, columns, position)
        sample = generator.permutation(len(comparison.perspective))[:_MAX_POINTS]
        axes.scatter(
            comparison.perspective[sample], comparison.toxicmod[sample], s=6, alpha=0.35, linewidths=0
        )
        axes.axvline(comparison.threshold, color="0.4", linestyle="--", linewidth=1)
        axes.axhline(comparison.suggested, color="C1", linestyle="--", linewidth=1)
        summary = f"ρ {comparison.correlation:.3f}, threshold {comparison.suggested:.3f}"
        axes.set(
            title=f"{comparison.attribute}\n{summary}",
            xlabel="Perspective",
            ylabel="toxicmod",
            xlim=(0, 1),
            ylim=(0, 1),
        )
    try:
        figure.savefig(path, dpi=120)
    except (OSError, ValueError) as error:
        raise ComparisonError(f"The plot can't be written to {path}: {error}.") from error
