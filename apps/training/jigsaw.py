"""Reader of labelled comments in the format of the Jigsaw data: CSV with id, text and six labels.

`apps.core.tables` finds the encoding and the separator; the file may be compressed as .gz or .zip.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from apps.classifier.labels import LABELS
from apps.core.tables import Table, open_text
from apps.training.exceptions import SourceError

COLUMNS = ("id", "comment_text", *LABELS)
LABEL_VALUES = {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "0,0": 0, "1,0": 1, "false": 0, "true": 1}
MAX_ID = 200
MAX_REPORTED_LINES = 5


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


def read_comments(path: Path, report: ImportReport, *, max_bytes: int) -> Iterator[LabeledComment]:
    """Yield the valid rows of a file; only the ids are kept in memory.

    Args:
        report: receives the invalid rows.
        max_bytes: the limit of a text.

    Raises:
        TableError: the file can't be read.
        SourceError: the file lacks a column.
    """
    ids: set[str] = set()
    with (
        open_text(path, has_columns=lambda header: set(COLUMNS) <= set(header)) as lines,
        tqdm(total=path.stat().st_size, desc="Reading", unit="B", unit_scale=True, disable=None) as bar,
    ):
        table = Table(lines)
        columns = [table.find_column(name) for name in COLUMNS]
        if missing := [name for name, column in zip(COLUMNS, columns, strict=True) if column is None]:
            raise SourceError(
                f"The file lacks the columns {', '.join(missing)}; it has {', '.join(table.header)[:200]}."
            )
        for row in table:
            values = [row.cells[column or 0] for column in columns] if not row.problem else []
            comment = row.problem or _parse_row(values, ids, max_bytes)
            if isinstance(comment, LabeledComment):
                ids.add(comment.id)
                yield comment
            else:
                report.add(comment, row.line)
            bar.update(lines.bytes_read - bar.n)


def _parse_row(cells: list[str], ids: set[str], max_bytes: int) -> LabeledComment | str:
    """Return the comment in the cells of `COLUMNS`, or the problem."""
    identifier, text, *values = cells
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
    labels = tuple(LABEL_VALUES.get(value.strip().lower(), -1) for value in values)
    return "label that is not 0 or 1" if -1 in labels else LabeledComment(identifier, text, labels)
