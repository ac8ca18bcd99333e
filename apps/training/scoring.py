"""Score a file of comments in constant memory."""

import csv
import json
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import IO

import numpy as np
from tqdm import tqdm

from apps.classifier.labels import LABELS
from apps.classifier.scorer import Scorer
from apps.core.text import escape_formula
from apps.predictions.models import ALL_LABELS, pack_rows, unpack_labels
from apps.training.jigsaw import opened
from apps.training.sources import SourceError

FORMATS = ("csv", "jsonl")
TEXT_COLUMNS = ("comment_text", "text", "comment")
COMMENTS_AT_ONCE = 16_384  # in all threads
COMMENTS_A_TASK = 512
# The same as the CSV reader's own limit of a field.
LONGEST_LINE = 131_072
# Takes n names, (n, 6) probabilities and, of each, the labels that are reached.
Write = Callable[[Sequence[str], np.ndarray, Sequence[list[str]]], None]
_LABELS_OF = [
    [label for label, flag in unpack_labels(mask).items() if flag] for mask in range(ALL_LABELS + 1)
]


class ScoringError(Exception):
    """The file can't be scored as it was asked; the message says what to do."""


def score_file(
    *,
    scorer: Scorer,
    path: Path,
    output: Path | None,
    form: str,
    column: str | None = None,
    threads: int | None = None,
) -> int:
    """Score every comment of a file, in order, to CSV or JSON lines; returns how many.

    While threads score, this one reads what comes next and writes what is done.

    Args:
        output: a file, which appears when it is complete, or None for standard output.
        form: `csv` or `jsonl`.
        column: the CSV's column of texts; by default the first of `TEXT_COLUMNS` that it has.

    Raises:
        SourceError: the file can't be read.
        ScoringError: it has no such column, a row of it can't be read, or the output can't be written.
    """
    if not path.is_file():
        raise SourceError(f"There is no file {path}: check the path.")
    count = 0
    threads = max(1, threads or len(os.sched_getaffinity(0)))
    at_most = max(COMMENTS_AT_ONCE // COMMENTS_A_TASK, threads + 2)
    pending: deque[tuple[tuple[str, ...], Future[np.ndarray]]] = deque()
    try:
        with (
            opened(path, errors="replace") as lines,
            _opened(output) as out,
            tqdm(total=path.stat().st_size, desc="Scoring", unit="B", unit_scale=True, disable=None) as bar,
            ThreadPoolExecutor(threads) as pool,
        ):
            comments = (
                _csv_comments(lines, column)
                if ".csv" in path.suffixes or path.suffix == ".zip"
                else _lines(lines)
            )
            write = _writer(out, form)
            while (chunk := list(islice(comments, COMMENTS_A_TASK))) or pending:
                if chunk:
                    names, texts = zip(*chunk, strict=True)
                    pending.append((names, pool.submit(scorer.score_many, texts, threads=1)))
                if not chunk or len(pending) == at_most:
                    names, scored = pending.popleft()
                    scores = scored.result()
                    masks = pack_rows(scores >= scorer.thresholds)
                    write(names, scores, [_LABELS_OF[mask] for mask in masks])
                    count += len(names)
                    bar.update(lines.bytes_read - bar.n)
    except BrokenPipeError:
        # Whoever read standard output has enough; Python's own flush at exit must not complain again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return count


def _csv_comments(lines: Iterable[str], column: str | None) -> Iterator[tuple[str, str]]:
    reader = csv.reader(lines)
    try:
        header = [cell.strip() for cell in next(reader, [])]
    except csv.Error:
        raise ScoringError("The first line holds no column names: is it a CSV file?") from None
    wanted = [column] if column else TEXT_COLUMNS
    found = next((name for name in wanted if name in header), None)
    if found is None:
        raise ScoringError(
            f"There is no column {' or '.join(wanted)}; there are {', '.join(header)[:200]}. Take --column."
        )
    where, named = header.index(found), header.index("id") if "id" in header else None
    number = 0
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise ScoringError(f"Line {line} is not valid CSV ({error}): mend it and start again.") from None
        if cells is None:
            return
        if not cells:
            continue
        number += 1
        if len(cells) != len(header):
            raise ScoringError(f"Line {line} has {len(cells)} columns instead of {len(header)}: mend it.")
        yield (str(number) if named is None else cells[named]), cells[where]


def _lines(lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(lines, 1):
        if len(line) > LONGEST_LINE:
            raise ScoringError(f"Line {number} is longer than {LONGEST_LINE} characters: is it a text file?")
        yield str(number), line.rstrip("\r\n")


_CELLS = ",%.6f" * len(LABELS)


def _writer(out: IO[str], form: str) -> Write:
    if form == "jsonl":

        def write_json(names: Sequence[str], scores: np.ndarray, labels: Sequence[list[str]]) -> None:
            for name, row, reached in zip(names, scores.round(6).tolist(), labels, strict=True):
                probabilities = dict(zip(LABELS, row, strict=True))
                out.write(json.dumps({"id": name, "probabilities": probabilities, "labels": reached}) + "\n")

        return write_json
    csv.writer(out, lineterminator="\n").writerow(["id", *LABELS, "labels"])

    def write_rows(names: Sequence[str], scores: np.ndarray, labels: Sequence[list[str]]) -> None:
        rows = zip(map(_id_cell, names), _probability_cells(scores), map(" ".join, labels), strict=True)
        out.write("".join([f"{name}{cells},{reached}\n" for name, cells, reached in rows]))

    return write_rows


def _id_cell(name: str) -> str:
    if name.isalnum():
        return name
    cell = escape_formula(name)
    quoted = cell.replace('"', '""')
    return f'"{quoted}"' if set(cell) & set('",\r\n') else cell


def _probability_cells(scores: np.ndarray) -> list[str]:
    """Return the CSV cells of each row of (n, 6) probabilities, each cell with the comma before it."""
    return [_CELLS % tuple(row) for row in scores.tolist()]


@contextmanager
def _opened(output: Path | None) -> Iterator[IO[str]]:
    """Give standard output, or a file beside the output that takes its place when all is written."""
    if output is None:
        yield sys.stdout
        sys.stdout.flush()
        return
    partial = output.with_name(f"{output.name}.partial")
    try:
        with partial.open("w", encoding="utf-8", newline="") as file:
            yield file
        partial.replace(output)
    except OSError as error:
        raise ScoringError(f"{output} can't be written: {error.strerror}.") from None
    finally:
        partial.unlink(missing_ok=True)
