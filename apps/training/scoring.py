"""Scores a file of comments in constant memory. The command `score` calls it."""

import csv
import json
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import compress, islice
from pathlib import Path
from typing import IO

import numpy as np
from tqdm import tqdm

from apps.classifier.labels import LABELS
from apps.classifier.scorer import Scorer
from apps.core.tables import SUFFIXES, TEXT_COLUMNS, Table, open_text
from apps.core.text import escape_formula
from apps.training.exceptions import ScoringError, SourceError

FORMATS = ("csv", "jsonl")
MAX_PENDING_COMMENTS = 16_384
COMMENTS_PER_TASK = 512
MAX_LINE = 131_072  # like the CSV reader's limit of a field
# Writes n names, their (n, labels) probabilities and the labels of each.
Write = Callable[[Sequence[str], np.ndarray, Sequence[list[str]]], None]


def score_file(
    *,
    scorer: Scorer,
    path: Path,
    output: Path | None,
    output_format: str,
    column: str | None = None,
    threads: int | None = None,
) -> int:
    """Score every comment of a file, in order, to CSV or JSON lines; return how many.

    Args:
        output: a file, which appears when it is complete, or None for standard output.
        output_format: `csv` or `jsonl`.
        column: the CSV's column of texts; by default the first of `TEXT_COLUMNS` that it has.
        threads: by default as many as the cores that the process may use.

    Raises:
        SourceError: there is no such file.
        TableError: the file can't be read.
        ScoringError: the column is missing, a row can't be read, or the output can't be written.
    """
    if not path.is_file():
        raise SourceError(f"There is no file {path}: check the path.")
    count = 0
    threads = max(1, threads or len(os.sched_getaffinity(0)))
    max_pending = max(MAX_PENDING_COMMENTS // COMMENTS_PER_TASK, threads + 2)
    pending: deque[tuple[tuple[str, ...], Future[np.ndarray]]] = deque()
    try:
        with (
            open_text(path) as lines,
            _open_output(output) as out,
            tqdm(total=path.stat().st_size, desc="Scoring", unit="B", unit_scale=True, disable=None) as bar,
            ThreadPoolExecutor(threads) as pool,
        ):
            comments = (
                _table_comments(Table(lines), column)
                if path.name.lower().removesuffix(".gz").endswith(SUFFIXES)
                else _lines(lines)
            )
            write = _create_writer(out, output_format)
            while (batch := list(islice(comments, COMMENTS_PER_TASK))) or pending:
                if batch:
                    names, texts = zip(*batch, strict=True)
                    pending.append((names, pool.submit(scorer.score_many, texts, threads=1)))
                if not batch or len(pending) == max_pending:
                    names, future = pending.popleft()
                    scores = future.result()
                    flags = (scores >= scorer.thresholds).tolist()
                    write(names, scores, [list(compress(LABELS, row)) for row in flags])
                    count += len(names)
                    bar.update(lines.bytes_read - bar.n)
    except BrokenPipeError:
        # The reader closed standard output. Redirect it, so that the flush at exit does not fail too.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return count


def _table_comments(table: Table, column: str | None) -> Iterator[tuple[str, str]]:
    candidates = [column] if column else TEXT_COLUMNS
    text_index, id_index = table.find_column(*candidates), table.find_column("id")
    if text_index is None:
        raise ScoringError(
            f"There is no column {' or '.join(candidates)}; there are {', '.join(table.header)[:200]}. "
            "Name the column of texts with --column."
        )
    for number, row in enumerate(table, 1):
        if row.problem:
            raise ScoringError(f"Line {row.line}: {row.problem}. Correct it and start again.")
        name = str(number) if id_index is None else row.cells[id_index]
        yield name.encode("utf-8", "replace").decode(), _require_valid(row.cells[text_index], row.line)


def _require_valid(text: str, line: int) -> str:
    """Return a text.

    Raises:
        ScoringError: the encoding of the file doesn't allow one of its bytes.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ScoringError(
            f"Line {line} has a byte that the file's encoding does not allow: save the file as UTF-8."
        ) from None
    return text


def _lines(lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(lines, 1):
        if len(line) > MAX_LINE:
            raise ScoringError(f"Line {number} is longer than {MAX_LINE} characters: is it a text file?")
        yield str(number), _require_valid(line.rstrip("\r\n"), number)


def _create_writer(out: IO[str], output_format: str) -> Write:
    if output_format == "jsonl":

        def write_json(names: Sequence[str], scores: np.ndarray, labels: Sequence[list[str]]) -> None:
            for name, row, label_names in zip(names, scores.round(6).tolist(), labels, strict=True):
                probabilities = dict(zip(LABELS, row, strict=True))
                out.write(
                    json.dumps({"id": name, "probabilities": probabilities, "labels": label_names}) + "\n"
                )

        return write_json
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["id", *LABELS, "labels"])

    def write_rows(names: Sequence[str], scores: np.ndarray, labels: Sequence[list[str]]) -> None:
        writer.writerows(
            [escape_formula(name), *(f"{score:.6f}" for score in row), " ".join(label_names)]
            for name, row, label_names in zip(names, scores.tolist(), labels, strict=True)
        )

    return write_rows


@contextmanager
def _open_output(output: Path | None) -> Iterator[IO[str]]:
    """Yield standard output, or a temporary file that replaces the output when it is complete."""
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
