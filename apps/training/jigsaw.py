"""Read comments in the format of the Jigsaw data: CSV with id, text and six labels, plain, .gz or .zip."""

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
from apps.training.sources import SourceError

COLUMNS = ("id", "comment_text", *LABELS)
LABEL_VALUES = {"0": 0, "1": 1, "0.0": 0, "1.0": 1}
MAX_ID = 200
LINES_KEPT = 5
# Longer lines are read in parts: memory is bounded whatever the file is.
LONGEST_LINE = 1 << 24
# RuntimeError is zipfile's word for a password, KeyError for an empty archive.
READ_ERRORS = (OSError, zipfile.BadZipFile, EOFError, zlib.error, NotImplementedError, RuntimeError, KeyError)


class Row(NamedTuple):
    """One comment with its labels, in the order of `LABELS`."""

    id: str
    text: str
    labels: tuple[int, ...]
    held_out: bool | None = None  # None: `datasets.split` says it
    weight: float = 1.0  # how much it counts, beside what balances the clean ones


class Problems:
    """Rows that were left out, counted by kind, with the first lines of each kind."""

    def __init__(self) -> None:
        self.found: dict[str, dict[str, Any]] = {}

    def add(self, kind: str, line: int | None = None) -> None:
        """Count a row, one of a file by the line on which it begins, the header's being 1."""
        problem = self.found.setdefault(kind, {"rows": 0, "lines": []})
        problem["rows"] += 1
        if line is not None and len(problem["lines"]) < LINES_KEPT:
            problem["lines"].append(line)

    def __len__(self) -> int:
        return sum(problem["rows"] for problem in self.found.values())


def sentences(found: Mapping[str, Any]) -> list[str]:
    """Return one sentence for each kind of problem in `Problems.found`."""
    told = []
    for kind, problem in found.items():
        lines = ", ".join(map(str, problem["lines"]))
        more = ", …" if problem["rows"] > len(problem["lines"]) else ""
        told.append(f"{kind}: {problem['rows']}" + (f" (line {lines}{more})" if lines else ""))
    return told


class _Bytes(io.BufferedIOBase):
    """The bytes of an open file. What goes wrong in reading them, and only that, becomes a SourceError."""

    def __init__(self, path: Path, data: Any) -> None:
        self._path, self._data = path, data

    def readable(self) -> bool:
        return True

    def read1(self, size: int = -1) -> bytes:
        try:
            return self._data.read1(size)
        except READ_ERRORS as error:
            raise _refusal(self._path, error) from None


class Lines:
    """The lines of an open file."""

    def __init__(self, text: IO[str], raw: IO[bytes]) -> None:
        self._text, self._raw = text, raw

    def __iter__(self) -> Iterator[str]:
        return iter(partial(self._text.readline, LONGEST_LINE), "")

    @property
    def bytes_read(self) -> int:
        """How far the reading is in the file as it lies there, packed or not."""
        return self._raw.tell()


@contextmanager
def opened(path: Path, *, member: str = "", errors: str = "surrogateescape") -> Iterator[Lines]:
    """Open a text file, unpacking .gz and .zip by their content.

    Args:
        member: the file to read inside a .zip, the first one by default.
        errors: what becomes of bytes that are not UTF-8; by default lone surrogates.

    Raises:
        SourceError: the file can't be read or the archive is damaged; the lines raise it too.
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
            raise _refusal(path, error) from None
        data = _Bytes(path, data)
        yield Lines(io.TextIOWrapper(data, encoding="utf-8-sig", errors=errors, newline=""), raw)


def _refusal(path: Path, error: Exception) -> SourceError:
    if isinstance(error, OSError) and error.strerror:
        return SourceError(f"{path.name} can't be read: {error.strerror}.")
    return SourceError(f"{path.name} is a damaged or unreadable archive ({error}): get it again.")


def read_rows(path: Path, problems: Problems, *, max_bytes: int) -> Iterator[Row]:
    """Yield the sound rows of a file in constant memory (but for the ids); count the others in `problems`.

    Raises:
        SourceError: the file can't be read or lacks a column.
    """
    ids: set[str] = set()
    with (
        opened(path, member=_member(path)) as lines,
        tqdm(total=path.stat().st_size, desc="Reading", unit="B", unit_scale=True, disable=None) as bar,
    ):
        reader = csv.reader(lines, strict=True)
        header = _header(reader)
        if missing := [column for column in COLUMNS if column not in header]:
            raise SourceError(
                f"The file lacks the columns {', '.join(missing)}; it has {', '.join(header)[:200]}."
            )
        where = [header.index(column) for column in COLUMNS]
        while True:
            line = reader.line_num + 1
            try:
                cells = next(reader, None)
            except csv.Error as error:
                problems.add(f"not valid CSV ({error})", line)
                continue
            if cells is None:
                break
            if not cells:
                continue
            row = _row(cells, where, len(header), ids, max_bytes)
            if isinstance(row, Row):
                ids.add(row.id)
                yield row
            else:
                problems.add(row, line)
            bar.update(lines.bytes_read - bar.n)


def _header(reader: Iterator[list[str]]) -> list[str]:
    try:
        return [cell.strip().encode("utf-8", "replace").decode() for cell in next(reader, [])]
    except csv.Error:
        raise SourceError("The first line holds no column names: is it a CSV file?") from None


def _row(cells: list[str], where: list[int], width: int, ids: set[str], max_bytes: int) -> Row | str:
    """Return the row, or what is wrong with it."""
    if len(cells) != width:
        return "wrong number of columns"
    identifier, text, *values = (cells[column] for column in where)
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
    return "label that is not 0 or 1" if -1 in labels else Row(identifier, text, labels)


def _member(path: Path) -> str:
    """Return the name of the member to read in a .zip: a CSV with our columns, `train` before others."""
    if not zipfile.is_zipfile(path):
        return ""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.lower().endswith(".csv")]
    except READ_ERRORS as error:
        raise _refusal(path, error) from None
    for name in sorted(names, key=lambda name: "train" not in name.rpartition("/")[2].lower()):
        with opened(path, member=name) as lines:
            if set(COLUMNS) <= set(_header(csv.reader(lines))):
                return name
    raise SourceError(f"{path.name} holds no .csv file with the columns {', '.join(COLUMNS)}.")
