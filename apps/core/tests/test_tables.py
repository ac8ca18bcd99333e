"""Files as spreadsheets, databases and other tools write them."""

import gzip
import io
import zipfile
from pathlib import Path

import pytest

from apps.core.tables import Table, TableError, TableRow, open_text

ROWS = [
    ["1", "You are a stupid idiot"],
    ["2", "Thank you, that was kind"],
    ["3", 'He said "no"; then left'],
    ["4", "two\nlines"],
    ["5", "café, naïve"],
]


def table(separator: str = ",", end: str = "\r\n") -> str:
    def quote(cell: str) -> str:
        needs_quotes = any(char in cell for char in f'{separator}"\n')
        return f'"{cell.replace(chr(34), chr(34) * 2)}"' if needs_quotes else cell

    return "".join(separator.join(map(quote, row)) + end for row in [["id", "text"], *ROWS])


def zipped(**members: bytes) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name, content in members.items():
            archive.writestr(name.replace("_csv", ".csv"), content)
    return data.getvalue()


def read(tmp_path: Path, content: bytes, name: str = "in.csv") -> tuple[list[str], list[TableRow]]:
    path = tmp_path / name
    path.write_bytes(content)
    with open_text(path) as lines:
        result = Table(lines)
        return result.header, list(result)


@pytest.mark.parametrize(
    "content",
    [
        table().encode(),
        table(end="\n").encode(),
        table(";").encode(),
        table("\t").encode(),
        table("|").encode(),
        f"sep=;\r\n{table(';')}".encode(),
        f"sep=|\n{table('|')}".encode(),
        table().encode("utf-8-sig"),
        table(";").encode("utf-8-sig"),
        table("\t").encode("utf-16"),
        table().encode("utf-16-le"),
        table().encode("utf-16-be"),
        table().encode("utf-32"),
        table().encode("cp1252"),
        table(";").encode("latin-1"),
        table().encode() + b"\x1a",
        table().encode() + b"\r\n\r\n  \r\n",
        gzip.compress(table().encode()),
        gzip.compress(gzip.compress(table().encode())),
        zipped(a_csv=table().encode()),
        zipped(**{"folder/a.csv": table(";").encode("cp1252")}),
        zipped(a_csv=table().encode(), readme=b"x", **{"__MACOSX/._a.csv": b"x"}),
        table().replace("id,text", " id , text ,").encode(),
        table().replace("id,text\r\n", "id,text,,\r\n").replace("idiot\r\n", "idiot,,\r\n").encode(),
    ],
)
def test_table_reads_what_tools_write(tmp_path: Path, content: bytes) -> None:
    header, rows = read(tmp_path, content)
    assert header == ["id", "text"]
    assert [row.cells for row in rows if not row.problem] == ROWS
    assert not any(row.problem for row in rows)
    offset = 1 if b"sep=" in content[:4] else 0
    assert [row.line - offset for row in rows] == [2, 3, 4, 5, 7]


def test_table_reads_files_of_old_macintosh(tmp_path: Path) -> None:
    assert [row.cells for row in read(tmp_path, b"id,text\r1,a b\r2,c d\r")[1]] == [
        ["1", "a b"],
        ["2", "c d"],
    ]


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("cp1251", "Ты дурак и никто тебя не любит и уходи отсюда и больше не возвращайся к нам"),
        ("cp1253", "Είσαι πολύ ηλίθιος και κανείς δεν σε συμπαθεί εδώ μέσα και φύγε από εδώ"),
        ("cp932", "あなたはとてもばかで、ここではだれもあなたのことが好きではありません。"),
    ],
)
def test_open_text_finds_legacy_encoding(tmp_path: Path, encoding: str, text: str) -> None:
    content = f"id,text\n1,{text}\n2,{text}\n".encode(encoding)
    assert read(tmp_path, content)[1][0].cells == ["1", text]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b'id,text\n1,ok\n2,"never closed\n3,thanks\n',
            "Line 3: a quotation mark begins a cell that never ends",
        ),
        (zipped(a_csv=b"id,text\n", b_csv=b"id,text\n"), r"has 2 files: a.csv, b.csv. Unpack it"),
        (zipped(readme=b"x"), "has no .csv, .tsv or .txt file, but readme"),
        (zipped(**{"[Content_Types].xml": b"x"}), "is an Excel workbook: save it as"),
        (gzip.compress(table().encode())[:-10], "damaged or unreadable archive"),
        (b'"id"x,text\n', "has no column names: is it a CSV file"),
    ],
)
def test_table_names_the_problem(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(TableError, match=message):
        read(tmp_path, content)


def test_table_names_line_of_invalid_row(tmp_path: Path) -> None:
    rows = read(tmp_path, b'id,text\n1\n"2,"x"y\n3,ok\n4,a,b\n')[1]
    assert [(row.line, row.problem[:9]) for row in rows] == [
        (2, "wrong num"),
        (3, "not valid"),
        (4, ""),
        (5, "wrong num"),
    ]


def test_damaged_bytes_in_utf8_are_surrogates(tmp_path: Path) -> None:
    rows = read(tmp_path, "id,text\n1,é é\n2,x".encode() + b"\xff\n")[1]
    assert rows[0].cells == ["1", "é é"]
    assert rows[1].cells == ["2", "x\udcff"]


def test_find_column_ignores_case_and_spaces(tmp_path: Path) -> None:
    columns = Table(iter(["ID,Comment Text,text,Text\n"]))
    assert columns.find_column("comment_text", "text") == 1
    assert columns.find_column("body") is None
    with pytest.raises(TableError, match="The column text occurs 2 times"):
        columns.find_column("body", "text")
