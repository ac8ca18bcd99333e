"""Reader of the text and CSV files that other tools write: any encoding, separator and compression.

The commands `import_dataset`, `score` and `compare_perspective` read their files with it. It reads a file of
any size in constant memory, and either reads it right or raises an error that names the line.
"""

import codecs
import csv
import gzip
import io
import logging
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

from charset_normalizer import from_bytes

from apps.core.exceptions import ToxicmodError

logger = logging.getLogger(__name__)

TEXT_COLUMNS = ("comment_text", "text", "comment", "body", "message", "content")
SUFFIXES = (".csv", ".tsv", ".zip")  # of files with columns; they may also end in .gz
MAX_LINE = 1 << 24  # characters; longer lines are read in parts, so that memory is bounded for any file
SEPARATORS = ",;\t|"
_SAMPLE = 1 << 18  # bytes from which the encoding is found
_SIGNATURES = (  # the longer one first
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_LEGACY_ENCODINGS = ["cp1252", "cp1250", "cp1251", "cp1253", "cp1254", "cp932", "gb18030", "big5", "euc_kr"]
_WESTERN = frozenset(
    "ÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏÑÒÓÔÕÖØÙÚÛÜßàáâãäåæçèéêëìíîïñòóôõöøùúûüÿœŒ€£§°´·«»¡¿–—‘’“”„…‚•™©®½²³\xa0"
)
_MAX_NAMES = 200  # characters of the names that an error message lists
_END_OF_FILE = "\x1a"  # Ctrl-Z, with which tools of CP/M and DOS end a file
# zipfile raises RuntimeError for an encrypted archive, KeyError for an empty one.
_READ_ERRORS = (
    OSError,
    zipfile.BadZipFile,
    EOFError,
    zlib.error,
    NotImplementedError,
    RuntimeError,
    KeyError,
)


class TableError(ToxicmodError):
    """A file can't be read; the message names the file or line, and says what to do."""


class _SourceBytes(io.BufferedIOBase):
    """The bytes of an open file after a sample, whose read errors are raised as TableError."""

    def __init__(self, path: Path, sample: bytes, data: Any) -> None:
        self._path, self._sample, self._data = path, sample, data

    def readable(self) -> bool:
        return True

    def read1(self, size: int = -1) -> bytes:
        if self._sample:
            sample, self._sample = self._sample, b""
            return sample
        with _errors_of(self._path):
            return self._data.read1(size)


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
def open_text(path: Path, *, has_columns: Callable[[Sequence[str]], bool] | None = None) -> Iterator[Lines]:
    """Open a text file; gzip and zip are recognised by their content and decompressed.

    Bytes that the encoding doesn't allow are decoded as lone surrogates.

    Args:
        has_columns: selects the member of a .zip with several tables by its column names; the first one is
            taken whose name contains `train`, otherwise the first one.

    Raises:
        TableError: the file can't be read, the archive is damaged or has several files, or the encoding is
            unknown. Reading lines raises it too.
    """
    with ExitStack() as stack:
        with _errors_of(path):
            raw: Any = stack.enter_context(path.open("rb"))
            member = _member(path, raw, has_columns)
        yield stack.enter_context(_open_member(path, raw, member))


@contextmanager
def _errors_of(path: Path) -> Iterator[None]:
    try:
        yield
    except TableError:
        raise
    except _READ_ERRORS as error:
        if isinstance(error, OSError) and error.strerror:
            raise TableError(f"{path.name} can't be read: {error.strerror}.") from None
        raise TableError(
            f"{path.name} is a damaged or unreadable archive ({error}): download it again."
        ) from None


def _is_zip(raw: IO[bytes]) -> bool:
    raw.seek(0)
    magic = raw.read(2)
    raw.seek(0)
    return magic == b"PK"


def _member(path: Path, raw: IO[bytes], has_columns: Callable[[Sequence[str]], bool] | None) -> str:
    """Return the name of the table in a zip archive; an empty string for another file."""
    if not _is_zip(raw):
        return ""
    with zipfile.ZipFile(raw) as archive:
        names = archive.namelist()
    if "[Content_Types].xml" in names:
        raise TableError(f"{path.name} is an Excel workbook: save it as “CSV UTF-8” and use that file.")
    tables = [
        name
        for name in names
        if name.lower().removesuffix(".gz").endswith((".csv", ".tsv", ".txt"))
        and not name.startswith("__MACOSX/")
    ]
    if has_columns:
        tables = [name for name in tables if not name.lower().endswith(".txt")]
        for name in sorted(tables, key=lambda name: "train" not in name.rpartition("/")[2].lower()):
            with _open_member(path, raw, name) as lines:
                if has_columns(Table(lines).header):
                    return name
        raise TableError(f"{path.name} has no .csv file with the columns that are needed.")
    tables = [name for name in tables if not name.lower().endswith(".txt")] or tables
    if len(tables) == 1:
        return tables[0]
    if not tables:
        raise TableError(f"{path.name} has no .csv, .tsv or .txt file, but {_list_names(names)}.")
    raise TableError(
        f"{path.name} has {len(tables)} files: {_list_names(tables)}. Unpack it and use one of them."
    )


@contextmanager
def _open_member(path: Path, raw: IO[bytes], member: str) -> Iterator[Lines]:
    with ExitStack() as stack:
        with _errors_of(path):
            raw.seek(0)
            data: Any = raw
            if member:
                data = stack.enter_context(stack.enter_context(zipfile.ZipFile(raw)).open(member))
            sample = data.read(_SAMPLE)
            while sample[:2] == b"\x1f\x8b":  # a file may be compressed twice
                data.seek(0)
                data = gzip.GzipFile("", "rb", fileobj=data)
                sample = data.read(_SAMPLE)
        encoding = _find_encoding(path, sample)
        source: Any = _SourceBytes(path, sample, data)
        yield Lines(io.TextIOWrapper(source, encoding=encoding, errors="surrogateescape", newline=""), raw)


def _find_encoding(path: Path, sample: bytes) -> str:
    """Return the encoding of a file by its first bytes.

    Raises:
        TableError: the encoding is unknown.
    """
    for signature, encoding in _SIGNATURES:
        if sample.startswith(signature):
            return encoding
    # UTF-16 without a signature: every second byte of Latin text is 0.
    for first, encoding in ((0, "utf-16-be"), (1, "utf-16-le")):
        zeros, characters = sample[first::2], sample[1 - first :: 2]
        if zeros.count(0) > len(zeros) / 2 and characters.count(0) < len(characters) / 20:
            return encoding
    decoder = codecs.getincrementaldecoder("utf-8")
    try:
        decoder().decode(sample)
    except UnicodeDecodeError:
        pass
    else:
        return "utf-8"
    # A file in UTF-8 with single damaged bytes has valid sequences of bytes above 0x7F, too.
    valid = sum(not char.isascii() for char in sample.decode("utf-8", "ignore"))
    invalid = sample.decode("utf-8", "replace").count("\ufffd")
    if valid >= invalid or b"\0" in sample:
        return "utf-8"
    # A few words in one of Western Europe's languages are too short for statistics.
    encoding = "cp1252"
    if invalid > len(sample) / 20 or not _is_western(sample):
        match = from_bytes(sample, cp_isolation=_LEGACY_ENCODINGS).best()
        encoding = match.encoding if match else ""
    if not encoding:
        raise TableError(f"The encoding of {path.name} is unknown: save it as UTF-8 and use that file.")
    logger.warning(
        "%s is not UTF-8. It is read as %s; if that is wrong, save it as UTF-8.", path.name, encoding
    )
    return encoding


def _is_western(sample: bytes) -> bool:
    """Return whether the bytes above 0x7F are letters and marks of Western European text in CP1252."""
    text = sample.decode("cp1252", "replace")
    return all(char.isascii() or char in _WESTERN for char in text)


def _list_names(names: Sequence[str]) -> str:
    listed = ", ".join(names) or "nothing"
    return listed if len(listed) <= _MAX_NAMES else f"{listed[:_MAX_NAMES]}…"


@dataclass(frozen=True)
class TableRow:
    """A row of a table: the line on which it begins (the first line is 1), and its cells or the problem."""

    line: int
    cells: list[str]
    problem: str = ""


class Table:
    """The rows of a CSV file, whose separator is found by its first line.

    Attributes:
        header: the names of the columns, without surrounding spaces.
    """

    def __init__(self, lines: Iterator[str] | Lines) -> None:
        self._lines = iter(lines)
        first, self._first_line = next(self._lines, ""), 1
        if first[:4].lower() == "sep=":  # Excel's
            separator, first, self._first_line = first[4:5], next(self._lines, ""), 2
        else:
            separator = max(SEPARATORS, key=lambda candidate: len(_split_line(first, candidate)))
        self._reader = csv.reader(
            _chain(first, self._lines), delimiter=separator if separator.strip("\r\n") else ",", strict=True
        )
        self.header = self._read_header()

    def _read_header(self) -> list[str]:
        try:
            names = [cell.strip().encode("utf-8", "replace").decode() for cell in next(self._reader, [])]
        except csv.Error:
            raise TableError("The first line has no column names: is it a CSV file?") from None
        while names and not names[-1]:  # the lines of some tools end with separators
            names.pop()
        return names

    def find_column(self, *names: str) -> int | None:
        """Return the index of the first column with one of the names, in any case; None if there is none.

        Raises:
            TableError: several columns have the name.
        """
        folded = [_fold_name(name) for name in self.header]
        for name in names:
            count = folded.count(_fold_name(name))
            if count > 1:
                raise TableError(f"The column {name} occurs {count} times: rename or delete one of them.")
            if count:
                return folded.index(_fold_name(name))
        return None

    def __iter__(self) -> Iterator[TableRow]:
        """Yield the rows that are not empty.

        Raises:
            TableError: a cell has a quotation mark that is never closed, so that the following rows are lost.
        """
        width = len(self.header)
        while True:
            line = self._reader.line_num + self._first_line
            try:
                cells = next(self._reader, None)
            except csv.Error as error:
                if str(error) == "unexpected end of data":
                    raise TableError(
                        f"Line {line}: a quotation mark begins a cell that never ends. "
                        "Close it, or double it if it belongs to the text."
                    ) from None
                yield TableRow(line, [], f"not valid CSV ({error})")
                continue
            if cells is None:
                return
            if not cells or (len(cells) == 1 < width and cells[0].strip() in ("", _END_OF_FILE)):
                continue
            if len(cells) > width and not any(cells[width:]):
                cells = cells[:width]
            yield TableRow(line, cells, "" if len(cells) == width else "wrong number of columns")


def _chain(first: str, lines: Iterator[str]) -> Iterator[str]:
    if first:
        yield first
    yield from lines


def _split_line(line: str, separator: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=separator), [])
    except csv.Error:
        return []


def _fold_name(name: str) -> str:
    return name.casefold().replace(" ", "_")
