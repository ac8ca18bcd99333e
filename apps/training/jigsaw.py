"""Reader of labelled comments in the format of the Jigsaw data: CSV with id, text and six labels.

The file may be compressed as .gz or .zip.
"""

import csv
import gzip
import io
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any, NamedTuple

from tqdm import tqdm

from apps.classifier.labels import LABELS
from apps.training.exceptions import SourceError

COLUMNS = ("id", "comment_text", *LABELS)
LABEL_VALUES = {"0": 0, "1": 1, "0.0": 0, "1.0": 1}
MAX_ID = 200
MAX_REPORTED_LINES = 5
# Longer lines are read in parts, so that memory is bounded for any file.
MAX_LINE = 1 << 24
# zipfile raises RuntimeError for an encrypted archive, KeyError for an empty one.
READ_ERRORS = (OSError, zipfile.BadZipFile, EOFError, zlib.error, NotImplementedError, RuntimeError, KeyError)


class LabeledComment(NamedTuple):
    """One comment with its labels, in the order of `LABELS`."""

    id: str
    text: str
    labels: tuple[int, ...]
    held_out: bool | None = None  # None: `datasets.split` decides
    weight: float = 1.0  # multiplied with the weight of rows without labels


class ImportReport:
    """The rows that were left out, counted by the kind of problem, with the first lines of each kind."""

    def __init__(self) -> None:
        self.problems: dict[str, dict[str, Any]] = {}

    def add(self, kind: str, line: int | None = None) -> None:
        """Count a row.

        Args:
            line: the line of the file on which the row begins; the header is on line 1.
        """
        problem = self.problems.setdefault(kind, {"rows": 0, "lines": []})
        problem["rows"] += 1
        if line is not None and len(problem["lines"]) < MAX_REPORTED_LINES:
            problem["lines"].append(line)

    def __len__(self) -> int:
        return sum(problem["rows"] for problem in self.problems.values())


def format_report(problems: Mapping[str, Any]) -> list[str]:
    """Return one sentence for each kind of problem in `ImportReport.problems`."""
    descriptions = []
    for kind, problem in problems.items():
        lines = ", ".join(map(str, problem["lines"]))
        more = ", …" if problem["rows"] > len(problem["lines"]) else ""
        descriptions.append(f"{kind}: {problem['rows']}" + (f" (line {lines}{more})" if lines else ""))
    return descriptions


class _SourceBytes(io.BufferedIOBase):
    """The bytes of an open file, whose read errors are raised as SourceError."""

    def __init__(self, path: Path, data: Any) -> None:
        self._path, self._data = path, data

    def readable(self) -> bool:
        return True

    def read1(self, size: int = -1) -> bytes:
        try:
            return self._data.read1(size)
        except READ_ERRORS as error:
            raise _to_source_error(self._path, error) from None


class Lines:
    """The lines of an open file."""

    def __init__(self, text: IO[str], raw: IO[bytes]) -> None:
        self._text, self._raw = text, raw

    def __iter__(self) -> Iterator[str]:
        return iter(partial(self._text.readline, MAX_LINE), "")

    @property
    def bytes_read(self) -> int:
        """The position in the file, compressed if it is."""
        return self._raw.tell()


@contextmanager
def open_text(path: Path, *, member: str = "", errors: str = "surrogateescape") -> Iterator[Lines]:
    """Open a text file; .gz and .zip are recognised by their content and decompressed.

    Args:
        member: the file to read inside a .zip, by default the first.
        errors: how to decode bytes that are not UTF-8, by default as lone surrogates.

    Raises:
        SourceError: the file can't be read or the archive is damaged. Reading lines raises it too.
    """
    with ExitStack() as stack:
        try:
            raw = stack.enter_context(path.open("rb"))
            magic = raw.read(4)
            raw.seek(0)
            data: Any = raw
            if magic[:2] == b"\x1f\x8b":
                data = gzip.GzipFile(fileobj=raw)
            elif magic[:2] == b"PK":
                archive = stack.enter_context(zipfile.ZipFile(raw))
                data = archive.open(member or next(iter(archive.namelist()), ""))
        except READ_ERRORS as error:
            raise _to_source_error(path, error) from None
        data = _SourceBytes(path, data)
        yield Lines(io.TextIOWrapper(data, encoding="utf-8-sig", errors=errors, newline=""), raw)


def _to_source_error(path: Path, error: Exception) -> SourceError:
    if isinstance(error, OSError) and error.strerror:
        return SourceError(f"{path.name} can't be read: {error.strerror}.")
    return SourceError(f"{path.name} is a damaged or unreadable archive ({error}): download it again.")


def read_comments(path: Path, report: ImportReport, *, max_bytes: int) -> Iterator[LabeledComment]:
    """Yield the valid rows of a file; only the ids are kept in memory.

    Args:
        report: receives the invalid rows.
        max_bytes: the limit of a text.

    Raises:
        SourceError: the file can't be read or lacks a column.
    """
    ids: set[str] = set()
    with (
        open_text(path, member=_member(path)) as lines,
        tqdm(total=path.stat().st_size, desc="Reading", unit="B", unit_scale=True, disable=None) as bar,
    ):
        reader = csv.reader(lines, strict=True)
        header = read_header(reader)
        if missing := [column for column in COLUMNS if column not in header]:
            raise SourceError(
                f"The file lacks the columns {', '.join(missing)}; it has {', '.join(header)[:200]}."
            )
        columns = [header.index(column) for column in COLUMNS]
        for line, cells in read_rows(reader):
            row = _parse_row(cells, columns, len(header), ids, max_bytes)
            if isinstance(row, LabeledComment):
                ids.add(row.id)
                yield row
            else:
                report.add(row, line)
            bar.update(lines.bytes_read - bar.n)


def read_header(reader: Iterator[list[str]]) -> list[str]:
    """Return the column names of a CSV file.

    Raises:
        SourceError: the file has none.
    """
    try:
        return [cell.strip().encode("utf-8", "replace").decode() for cell in next(reader, [])]
    except csv.Error:
        raise SourceError("The first line has no column names: is it a CSV file?") from None


def read_rows(reader: Any) -> Iterator[tuple[int, list[str] | csv.Error]]:
    """Yield the line on which each row that is not empty begins, and its cells or the error of the reader."""
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            yield line, error
            continue
        if cells is None:
            return
        if cells:
            yield line, cells


def _parse_row(
    cells: list[str] | csv.Error, columns: list[int], width: int, ids: set[str], max_bytes: int
) -> LabeledComment | str:
    """Return the row, or the problem."""
    if isinstance(cells, csv.Error):
        return f"not valid CSV ({cells})"
    if len(cells) != width:
        return "wrong number of columns"
    identifier, text, *values = (cells[column] for column in columns)
    identifier = identifier.strip()
    try:
        size = len(text.encode())
        identifier.encode()
    except UnicodeEncodeError:
        return "not UTF-8"
    if "\0" in text:
        return "NUL byte in the text"
    if not identifier or len(identifier) > MAX_ID:
        return f"no id, or one longer than {MAX_ID} characters"
    if identifier in ids:
        return "duplicate id"
    if not text.strip():
        return "empty text"
    if size > max_bytes:
        return f"text longer than {max_bytes} bytes"
    labels = tuple(LABEL_VALUES.get(value.strip(), -1) for value in values)
    return "label that is not 0 or 1" if -1 in labels else LabeledComment(identifier, text, labels)


def _member(path: Path) -> str:
    """Return the member of a .zip to read: a CSV with the columns, preferably with `train` in its name."""
    if not zipfile.is_zipfile(path):
        return ""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.lower().endswith(".csv")]
    except READ_ERRORS as error:
        raise _to_source_error(path, error) from None
    for name in sorted(names, key=lambda name: "train" not in name.rpartition("/")[2].lower()):
        with open_text(path, member=name) as lines:
            if set(COLUMNS) <= set(read_header(csv.reader(lines))):
                return name
    raise SourceError(f"{path.name} has no .csv file with the columns {', '.join(COLUMNS)}.")
