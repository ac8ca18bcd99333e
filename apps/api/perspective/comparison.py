"""Compares past scores of Perspective with the model's probabilities, for `manage.py compare_perspective`.

It computes the rank correlation, and thresholds at which as many comments are flagged as before.
"""

import csv
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

TEXT_COLUMNS = ("text", "comment_text", "comment", "body", "message", "content")
BATCH = 500
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
    """Yield the rows of a CSV file with a header, or of a JSONL file (.jsonl, .ndjson), one at a time.

    A column or member with the name of an attribute, in any case, contains its score. A JSON object may also
    contain a response of Perspective (`attributeScores`), beside the text or in `response`.

    Raises:
        ComparisonError: the file can't be read, or a row has no text or a score that is not between 0 and 1.
    """
    field_size_limit = csv.field_size_limit(2**31 - 1)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            if path.suffix.lower() in (".jsonl", ".ndjson"):
                records: Iterable[Mapping[str, object]] = _json_lines(path, file)
            else:
                records = csv.DictReader(file)
            for number, record in enumerate(records, 1):
                yield _row(record, text_column, f"{path.name}, row {number}")
    except OSError as error:
        raise ComparisonError(f"{path} can't be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise ComparisonError(f"{path} is not UTF-8: {error.reason}.") from error
    except csv.Error as error:
        raise ComparisonError(f"{path} is not CSV: {error}.") from error
    finally:
        csv.field_size_limit(field_size_limit)


def _json_lines(path: Path, lines: Iterable[str]) -> Iterator[Mapping[str, object]]:
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                record = json.loads(line)
            except ValueError as error:
                raise ComparisonError(f"{path.name}, line {number} is not JSON: {error}.") from error
            if not isinstance(record, dict):
                raise ComparisonError(f"{path.name}, line {number} is not a JSON object.")
            yield record


def _row(record: Mapping[str, object], text_column: str | None, location: str) -> ScoredRow:
    names = [text_column] if text_column else TEXT_COLUMNS
    text = next((record[name] for name in names if record.get(name) is not None), None)
    if isinstance(text, Mapping):  # a request's `comment`
        text = text.get("text")
    if not isinstance(text, str):
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
        if label_of(name) is not None and value not in (None, ""):
            scores[name] = _score(value, f"{location}, {name}")
    return ScoredRow(text, scores)


def _score(value: object, location: str) -> float:
    try:
        number = float(value) if isinstance(value, str | int | float) else math.nan
    except ValueError:
        number = math.nan
    if not 0 <= number <= 1:
        raise ComparisonError(f"{location}: {value!r} is not a score between 0 and 1.")
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
