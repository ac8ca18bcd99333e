"""Past scores of Perspective against ours: rank correlation, and thresholds that keep a site's flag rate."""

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
from apps.classifier.labels import LABELS
from apps.classifier.scorer import Scorer

TEXT_COLUMNS = ("text", "comment_text", "comment", "body", "message", "content")
BATCH = 500
_POINTS = 5_000  # of a scatter plot; more say no more


class ComparisonError(Exception):
    """The file can't be used; the message says where and why."""


class Row(NamedTuple):
    """A comment and Perspective's past scores of it by attribute; an attribute may be missing."""

    text: str
    scores: Mapping[str, float]


class Comparison(NamedTuple):
    """One attribute's scores, theirs and ours; `suggested` is the threshold here that keeps the flag rate."""

    attribute: str
    theirs: np.ndarray
    ours: np.ndarray
    correlation: float
    threshold: float
    suggested: float

    @property
    def their_rate(self) -> float:
        """The share of comments at or above the site's threshold."""
        return float(np.mean(self.theirs >= self.threshold))

    @property
    def our_rate(self) -> float:
        """The share at or above the suggested one; ties can make it differ."""
        return float(np.mean(self.ours >= self.suggested))

    @property
    def agreement(self) -> float:
        """The share of comments that both flag or neither does."""
        return float(np.mean((self.theirs >= self.threshold) == (self.ours >= self.suggested)))


def read(path: Path, text_column: str | None = None) -> Iterator[Row]:
    """Yield the rows of a CSV file with a header, or of a JSONL file (.jsonl, .ndjson), one at a time.

    A column or member named like an attribute, in any case, holds its score; a JSON object may also hold an
    answer of Perspective's (`attributeScores`), beside the text or under `response`.

    Raises:
        ComparisonError: the file can't be read, or a row has no text or a score that is not between 0 and 1.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            if path.suffix.lower() in (".jsonl", ".ndjson"):
                records: Iterable[Mapping[str, object]] = _json_lines(path, file)
            else:
                csv.field_size_limit(2**31 - 1)
                records = csv.DictReader(file)
            for number, record in enumerate(records, 1):
                yield _row(record, text_column, f"{path.name}, row {number}")
    except OSError as error:
        raise ComparisonError(f"{path} can't be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise ComparisonError(f"{path} is not UTF-8: {error.reason}.") from error
    except csv.Error as error:
        raise ComparisonError(f"{path} is not CSV: {error}.") from error


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


def _row(record: Mapping[str, object], text_column: str | None, where: str) -> Row:
    names = [text_column] if text_column else TEXT_COLUMNS
    text = next((record[name] for name in names if record.get(name) is not None), None)
    if isinstance(text, Mapping):  # a request's `comment`
        text = text.get("text")
    if not isinstance(text, str):
        have = ", ".join(str(name) for name in record)
        raise ComparisonError(
            f"{where} has no text in {' or '.join(names)}; it has: {have}. Name it with --text-column."
        )
    found: dict[str, object] = {str(name).upper(): value for name, value in record.items()}
    response = record.get("response", record)
    if isinstance(response, Mapping) and isinstance(answered := response.get("attributeScores"), Mapping):
        for name, scores in answered.items():
            if isinstance(scores, Mapping) and isinstance(summary := scores.get("summaryScore"), Mapping):
                found[str(name).upper()] = summary.get("value")
    scores = {}
    for name, value in found.items():
        if label_of(name) is not None and value not in (None, ""):
            scores[name] = _score(value, f"{where}, {name}")
    return Row(text, scores)


def _score(value: object, where: str) -> float:
    try:
        number = float(value) if isinstance(value, str | int | float) else math.nan
    except ValueError:
        number = math.nan
    if not 0 <= number <= 1:
        raise ComparisonError(f"{where}: {value!r} is not a score between 0 and 1.")
    return number


def score_rows(rows: Iterable[Row], scorer: Scorer) -> Iterator[tuple[Row, np.ndarray]]:
    """Yield each row with our six probabilities, (6,) float64; comments pass through in batches."""
    remaining = iter(rows)
    while batch := list(islice(remaining, BATCH)):
        yield from zip(batch, scorer.score_many([row.text for row in batch]), strict=True)


def compare(scored: Iterable[tuple[Row, np.ndarray]], threshold: float) -> list[Comparison]:
    """Compare by attribute, in Perspective's order. Of a comment only its scores are kept, in 16 bytes.

    The correlation is Spearman's rank correlation. The suggested threshold is our score of the comment that
    stands where the site's threshold stands among theirs, so that as many comments are flagged.
    """
    theirs: dict[str, array[float]] = {}
    ours: dict[str, array[float]] = {}
    for row, probabilities in scored:
        for attribute, score in row.scores.items():
            theirs.setdefault(attribute, array("d")).append(score)
            label = label_of(attribute)
            ours.setdefault(attribute, array("d")).append(probabilities[LABELS.index(label or "")])
    order = {name: position for position, name in enumerate(LABEL_OF)}
    return [
        _compare(attribute, np.array(theirs[attribute]), np.array(ours[attribute]), threshold)
        for attribute in sorted(theirs, key=lambda name: (order.get(name.split("@")[0], len(order)), name))
    ]


def _compare(attribute: str, theirs: np.ndarray, ours: np.ndarray, threshold: float) -> Comparison:
    # Loaded on first use: it takes 20 MB, which no request needs.
    from scipy.stats import spearmanr

    is_varied = len(theirs) > 1 and np.ptp(theirs) > 0 and np.ptp(ours) > 0
    correlation = float(spearmanr(theirs, ours).statistic) if is_varied else math.nan
    flagged = int(np.sum(theirs >= threshold))
    ranked = np.sort(ours)[::-1]
    if flagged == 0:
        suggested = 1.0
    elif flagged == len(ranked):
        suggested = float(ranked[-1])
    else:  # half-way between the last comment that is flagged and the first that is not
        suggested = float(ranked[flagged - 1] + ranked[flagged]) / 2
    return Comparison(attribute, theirs, ours, correlation, threshold, suggested)


def plot(comparisons: Sequence[Comparison], path: Path) -> None:
    """Write a scatter plot for each attribute, with both thresholds.

    Raises:
        ComparisonError: the file can't be written.
    """
    columns = min(3, len(comparisons))
    rows = math.ceil(len(comparisons) / columns)
    figure = Figure(figsize=(4.2 * columns, 4.2 * rows), layout="constrained")
    chosen = np.random.default_rng(0)
    for position, comparison in enumerate(comparisons, 1):
        axes = figure.add_subplot(rows, columns, position)
        some = chosen.permutation(len(comparison.theirs))[:_POINTS]
        axes.scatter(comparison.theirs[some], comparison.ours[some], s=6, alpha=0.35, linewidths=0)
        axes.axvline(comparison.threshold, color="0.4", linestyle="--", linewidth=1)
        axes.axhline(comparison.suggested, color="C1", linestyle="--", linewidth=1)
        figures = f"ρ {comparison.correlation:.3f}, threshold {comparison.suggested:.3f}"
        axes.set(
            title=f"{comparison.attribute}\n{figures}",
            xlabel="Perspective",
            ylabel="toxicmod",
            xlim=(0, 1),
            ylim=(0, 1),
        )
    try:
        figure.savefig(path, dpi=120)
    except (OSError, ValueError) as error:
        raise ComparisonError(f"The plot can't be written to {path}: {error}.") from error
