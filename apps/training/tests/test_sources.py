"""Import of data sets: sources, formats and invalid rows."""

import gzip
import io
import threading
import zipfile
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from apps.core import aws as aws_clients
from apps.core.tables import TableError
from apps.training import actions, datasets, sources
from apps.training.actions.datasets import JIGSAW_LICENCE
from apps.training.exceptions import SourceError
from apps.training.models import Dataset
from toxicmod.testing.factories import csv_bytes, labeled_rows

ROWS = labeled_rows(5)
CSV = csv_bytes(ROWS)
LABELS = ["0"] * 6

pytestmark = pytest.mark.django_db


def zipped(**members: bytes) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name, content in members.items():
            archive.writestr(name.replace("__", "/") + ".csv", content)
    return data.getvalue()


def imported(tmp_path: Path, content: bytes, **options: Any) -> Dataset:
    path = tmp_path / "source"
    path.write_bytes(content)
    return actions.import_dataset(source=str(path), name="n", **options)[0]


def test_import_dataset_reports_invalid_rows_by_line(tmp_path: Path) -> None:
    good, other = ["a", "fine", *LABELS], ["b", "fine\ntoo", *LABELS]
    content = (
        csv_bytes(
            [
                good,  # line 2
                other,  # lines 3 and 4
                ["c", "one label", "2", *LABELS[1:]],  # 5
                ["d", "  ", *LABELS],  # 6
                ["a", "again", *LABELS],  # 7
                ["", "no id", *LABELS],  # 8
                ["e", "x" * 20_481, *LABELS],  # 9
                ["f", "too few"],  # 10
                ["g", "nul \0", *LABELS],  # 11
                ["h", "one label", "", *LABELS[1:]],  # 12
            ]
        )
        + (
            b"i,\xff\xfe,0,0,0,0,0,0\r\n"  # 13
            b'j,"closed" wrongly,0,0,0,0,0,0\r\n'  # 14
            b"k,last,0.0,1.0,0,0,0,0\r\n"
        )
    )

    dataset = imported(tmp_path, content)

    assert dataset.rows == 3
    assert dataset.positives["severe_toxic"] == 1
    lines = {kind: problem["lines"] for kind, problem in dataset.report.items()}
    assert lines.pop("not valid CSV (',' expected after '\"')") == [14]
    assert lines == {
        "label that is not 0 or 1": [5, 12],
        "empty text": [6],
        "duplicate id": [7],
        "no id, or one longer than 200 characters": [8],
        "text longer than 20480 bytes": [9],
        "wrong number of columns": [10],
        "NUL byte in the text": [11],
        "not UTF-8": [13],
    }


def test_import_dataset_open_quote(tmp_path: Path) -> None:
    dataset = imported(
        tmp_path,
        csv_bytes(ROWS[:1]) + b'x,"open,0,0,0,0,0,0\n' + b"y" * 140_000 + b"\n" + csv_bytes(ROWS[1:]),
    )
    assert dataset.rows == 5
    assert any("field larger than field limit" in kind for kind in dataset.report)


def test_import_dataset_strict(tmp_path: Path) -> None:
    with pytest.raises(
        SourceError, match=r"1 row is invalid, nothing was imported. empty text: 1 \(line 7\)"
    ):
        imported(tmp_path, CSV + b"x,,0,0,0,0,0,0\r\n", strict=True)
    assert not Dataset.objects.exists()
    assert list((tmp_path / "data/datasets").iterdir()) == []


@pytest.mark.parametrize(
    "content",
    [
        CSV,
        b"\xef\xbb\xbf" + CSV,
        CSV.decode().encode("utf-16"),
        b"sep=;\r\n" + csv_bytes(ROWS).replace(b",", b";"),
        gzip.compress(CSV),
        zipped(data=CSV),
        zipped(a=b"id,text\n", test=csv_bytes(ROWS[:1]), wikidata_train=CSV),
    ],
    ids=["plain", "bom", "UTF-16", "semicolons", "gzip", "zip", "zip with others"],
)
def test_import_dataset_same_rows_in_other_formats(tmp_path: Path, content: bytes) -> None:
    dataset = imported(tmp_path, content)
    read = datasets.read(dataset.path)
    assert read.texts == [row[1] for row in ROWS]
    assert read.labels.tolist() == [[int(value) for value in row[2:]] for row in ROWS]
    again, is_new = actions.import_dataset(source=str(tmp_path / "source"), name="n")
    assert (again, is_new) == (dataset, False)
    assert dataset.sha256 == imported(tmp_path, CSV).sha256


def test_import_dataset_other_rows_are_next_version(tmp_path: Path) -> None:
    first, second = imported(tmp_path, CSV), imported(tmp_path, csv_bytes(ROWS[:4]))
    assert (first.version, second.version) == (1, 2)
    assert Dataset.objects.named("n") == second
    assert Dataset.objects.named("n:1") == first
    assert Dataset.objects.named("n:9") is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "lacks the columns"),
        (b"id,comment_text,toxic\n1,x,0\n", "lacks the columns severe_toxic, obscene"),
        (CSV + b'last,"open,0,0,0,0,0,0\n', "Line 7: a quotation mark begins a cell that never ends"),
        (csv_bytes([]), "has no valid row"),
        (gzip.compress(CSV)[:-20], "damaged or unreadable archive"),
        (gzip.compress(CSV)[:20] + b"\0" * 50, "damaged or unreadable archive"),
        (zipped(data=CSV)[:-30], "damaged or unreadable archive"),
        (zipped(data=b"a,b\n"), "no .csv file with the columns"),
        (zipped(), "damaged|lacks the columns|no .csv"),
    ],
    ids=[
        "empty",
        "too few columns",
        "open quotation mark",
        "no rows",
        "cut gzip",
        "garbled gzip",
        "cut zip",
        "zip of another table",
        "empty zip",
    ],
)
def test_import_dataset_unreadable_file(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises((SourceError, TableError), match=message) as caught:
        imported(tmp_path, content)
    assert "\n" not in str(caught.value)
    assert not Dataset.objects.exists()


class Handler(BaseHTTPRequestHandler):
    """Serves the data set. The path of the request selects how."""

    failures = 0
    authorization: str | None = None

    def do_GET(self) -> None:
        Handler.authorization = self.headers.get("Authorization")
        path = self.path.partition("?")[0]
        if path == "/flaky" and Handler.failures:
            Handler.failures -= 1
            self.send_error(503)
        elif path == "/short":
            self.send_response(200)
            self.send_header("Content-Length", "1000000")
            self.end_headers()
            self.wfile.write(CSV)
        elif path in ("/data.csv", "/flaky"):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(CSV)
        else:
            self.send_error(403 if path == "/secret" else 404)

    def log_message(self, *args: Any) -> None:
        """Keep requests out of the output of the tests."""


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(sources, "FIRST_WAIT", timedelta(0))
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_fetch_http_retries_and_hides_secrets(address: str) -> None:
    Handler.failures = 2
    url = address.replace("http://", "http://user:pass@") + "/flaky?signature=secret"
    dataset, _ = actions.import_dataset(source=url, name="n")
    assert dataset.rows == 5
    assert dataset.source == f"{address}/flaky"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/none", "404 Not Found: check the address"),
        ("/secret", "403 Forbidden"),
        ("/short", "could not be downloaded"),
    ],
)
def test_fetch_http_errors(address: str, path: str, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        actions.import_dataset(source=address + path, name="n")


def test_fetch_invalid_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "FIRST_WAIT", timedelta(0))
    with pytest.raises(SourceError, match=r"could not be downloaded \(ConnectionError\), 3 times"):
        actions.import_dataset(source="http://127.0.0.1:9/x.csv", name="n")
    with pytest.raises(SourceError, match="not a valid address"):
        actions.import_dataset(source="http://", name="n")
    with pytest.raises(SourceError, match="not a known kind of source"):
        actions.import_dataset(source="ftp://example.org/x.csv", name="n")


def test_fetch_jigsaw_uses_kaggle_credentials(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "JIGSAW_URL", f"{address}/data.csv")
    monkeypatch.setattr(sources, "KAGGLE_URL", f"{address}/flaky")
    monkeypatch.delenv("KAGGLE_USERNAME", raising=False)
    dataset, _ = actions.import_dataset(source="jigsaw", name="n")
    assert Handler.authorization is None
    assert dataset.licence == JIGSAW_LICENCE
    monkeypatch.setenv("KAGGLE_USERNAME", "me")
    monkeypatch.setenv("KAGGLE_KEY", "key")
    actions.import_dataset(source="jigsaw", name="n")
    assert Handler.authorization.startswith("Basic ")


def test_fetch_s3(bucket_of: Any) -> None:
    client = bucket_of("data")
    client.put_object(Bucket="data", Key="a/train.csv.gz", Body=gzip.compress(CSV))
    dataset, _ = actions.import_dataset(source="s3://data/a/train.csv.gz", name="n")
    assert (dataset.rows, dataset.source) == (5, "s3://data/a/train.csv.gz")
    with pytest.raises(SourceError, match="no such bucket or key"):
        actions.import_dataset(source="s3://nobody/none", name="n")


def test_datasets_are_shared_through_s3(
    bucket_of: Any, aws: Any, settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = bucket_of("shared")
    settings.S3_BUCKET = "shared"
    dataset = imported(tmp_path, CSV)
    key = f"datasets/{dataset.sha256}.parquet"
    assert client.head_object(Bucket="shared", Key=key)["ServerSideEncryption"] == "aws:kms"

    settings.DATA_DIR = tmp_path / "another machine"
    assert [row.text for row in datasets.stream(dataset.path)] == [row[1] for row in ROWS]
    dataset.path.unlink()
    assert len(datasets.read(dataset.path)) == 5
    assert list(dataset.path.parent.iterdir()) == [dataset.path]

    dataset.path.unlink()
    client.delete_object(Bucket="shared", Key=key)
    with pytest.raises(SourceError, match="is missing"):
        datasets.read(dataset.path)
    monkeypatch.setattr(aws_clients, "MAX_ATTEMPTS", 1)
    aws.fault = lambda operation: "cut"
    with pytest.raises(SourceError, match="Check endpoint and network"):
        datasets.read(dataset.path)
    with pytest.raises(SourceError, match="Check endpoint and network"):
        imported(tmp_path, csv_bytes(ROWS[:2]))
    assert Dataset.objects.count() == 1


def test_import_dataset_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "data.csv"
    path.write_bytes(CSV + b"x,,0,0,0,0,0,0\r\n")
    call_command("import_dataset", str(path), name="n", natural_rate=0.1)
    out, err = capsys.readouterr()
    assert "Imported n v1: 5 rows" in out
    assert "empty text: 1 (line 7)" in err
    call_command("import_dataset", str(path), name="n", natural_rate=0.1)
    assert "n v1 has the same rows" in capsys.readouterr().out
    with pytest.raises(CommandError, match="use another name"):
        call_command("import_dataset", str(path), name="n")
    with pytest.raises(CommandError, match="There is no file"):
        call_command("import_dataset", "nowhere.csv", name="n")
    with pytest.raises(CommandError, match="Name one source"):
        call_command("import_dataset", name="n")
    with pytest.raises(CommandError, match="made of letters"):
        call_command("import_dataset", str(path), name="../n")
    with pytest.raises(CommandError, match="must be between 0 and 1"):
        call_command("import_dataset", str(path), name="m", natural_rate=1.5)
