"""The rows of data sets: written once as Parquet, read whole, split in two for evaluation."""

import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from django.conf import settings
from tqdm import tqdm

from apps.classifier.labels import LABELS
from apps.classifier.normalise import normalise
from apps.core import object_storage
from apps.training.jigsaw import Row
from apps.training.sources import SourceError

# Small groups let a single row be read without the rest.
ROWS_PER_GROUP = 1024
HELD_OUT = 0.1
# One split for every run and version: what is held out from one is held out from all, to compare them by.
SPLIT_SEED = b"toxicmod"
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("comment_text", pa.string()),
        *((label, pa.int8()) for label in LABELS),
        ("held_out", pa.bool_()),  # null, or not there: `split` says it
        ("weight", pa.float64()),  # not there: 1
    ]
)


@dataclass(frozen=True)
class Stored:
    """A Parquet file just written: still under a temporary name, until its row is in the database."""

    path: Path
    sha256: str
    rows: int
    labelled: int
    positives: dict[str, int]


@dataclass(frozen=True)
class Rows:
    """Comments in memory: n texts, (n, 6) int8 labels, (n,) float64 weights or None where all count alike.

    `held_out` is (n,) bool, or None where the file leaves it to `split`.
    """

    texts: list[str]
    labels: np.ndarray
    weights: np.ndarray | None
    held_out: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, chosen: np.ndarray) -> "Rows":
        """Return the rows with these numbers."""
        weights = None if self.weights is None else self.weights[chosen]
        return Rows([self.texts[row] for row in chosen], self.labels[chosen], weights)

    def parts(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the numbers of the rows to learn from and of those held out."""
        if self.held_out is None:
            return split(self.texts, self.labels)
        return np.flatnonzero(~self.held_out), np.flatnonzero(self.held_out)


def write(rows: Iterable[Row], folder: Path) -> Stored:
    """Write rows, one group at a time, to a temporary Parquet file in the folder, and hash them.

    The hash is of the rows in their order: the same rows from a CSV and from a .zip of it have the same.
    """
    folder.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    counts = np.zeros(len(LABELS), np.int64)
    total = labelled = 0
    handle, name = tempfile.mkstemp(dir=folder, suffix=".tmp")
    os.close(handle)
    path = Path(name)
    try:
        with pq.ParquetWriter(path, SCHEMA, compression="zstd") as writer:
            rows = iter(rows)
            while group := list(islice(rows, ROWS_PER_GROUP)):
                labels = np.array([row.labels for row in group], np.int8)
                for row in group:
                    flag = () if row.held_out is None else (bytes([row.held_out]),)
                    weight = () if row.weight == 1 else (str(row.weight).encode(),)
                    for part in (row.id.encode(), row.text.encode(), bytes(row.labels), *flag, *weight):
                        digest.update(len(part).to_bytes(8, "little"))
                        digest.update(part)
                columns = [[row.id for row in group], [row.text for row in group], *labels.T]
                columns += [[row.held_out for row in group], [row.weight for row in group]]
                writer.write_batch(
                    pa.record_batch([pa.array(column) for column in columns], schema=SCHEMA), ROWS_PER_GROUP
                )
                total += len(group)
                labelled += int(labels.any(axis=1).sum())
                counts += labels.sum(axis=0)
    except BaseException:
        path.unlink()
        raise
    positives = dict(zip(LABELS, counts.tolist(), strict=True))
    return Stored(path, digest.hexdigest(), total, labelled, positives)


def share(stored: Stored) -> None:
    """Keep a file where the other boxes find it: in S3, once, where there is a bucket.

    Raises:
        SourceError: S3 can't be reached or refuses.
    """
    if not settings.S3_BUCKET:
        return
    address = _address(f"{stored.sha256}.parquet")
    try:
        try:
            object_storage.size(address)
        except object_storage.MissingError:
            object_storage.upload(stored.path, address)
    except object_storage.StorageError as error:
        raise SourceError(str(error)) from None


def is_here(path: Path) -> bool:
    """Return whether a data set's file is on this box, having fetched it from S3 where it was only there.

    Raises:
        SourceError: S3 can't be reached or refuses.
    """
    if path.is_file() or not settings.S3_BUCKET:
        return path.is_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        fetched = Path(folder) / path.name
        try:
            object_storage.download(_address(path.name), fetched)
        except object_storage.MissingError:
            return False
        except object_storage.StorageError as error:
            raise SourceError(str(error)) from None
        fetched.replace(path)
    return True


def _address(name: str) -> str:
    return f"s3://{settings.S3_BUCKET}/datasets/{name}"


@contextmanager
def _refusing(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        what = "missing" if isinstance(error, FileNotFoundError) else "damaged"
        raise SourceError(f"The data set's file {path.name} is {what}: import the same rows again.") from None


def read(path: Path, *, clean_weight: float = 1.0) -> Rows:
    """Read all rows of a data set's file.

    Raises:
        SourceError: the file is missing or damaged.
    """
    is_here(path)
    with _refusing(path):
        table = pq.read_table(path, schema=SCHEMA)
    labels = np.column_stack([table[label].to_numpy() for label in LABELS])
    held_out = None if table["held_out"].null_count else table["held_out"].to_numpy()
    weights = _weights(labels, held_out, clean_weight)
    own = table["weight"].fill_null(1.0).to_numpy()
    if np.any(own != 1):
        weights = own if weights is None else own * weights
    return Rows(table["comment_text"].to_pylist(), labels, weights, held_out)


def _weights(labels: np.ndarray, held_out: np.ndarray | None, clean_weight: float) -> np.ndarray | None:
    if clean_weight == 1.0:
        return None
    labelled = labels.any(axis=1)
    weights = np.where(labelled, 1.0, clean_weight)
    if held_out is not None:
        # What was added may be enriched: the rows held out have the natural share by themselves.
        odds = clean_weight * (~labelled).sum() / labelled.sum()
        clean = held_out & ~labelled
        weights[clean] = odds * (held_out & labelled).sum() / max(clean.sum(), 1)
    return weights


def stream(path: Path) -> Iterator[Row]:
    """Yield the rows of a data set's file in constant memory, with a progress bar.

    Raises:
        SourceError: the file is missing or damaged.
    """
    columns = ["id", "comment_text", *LABELS]
    is_here(path)
    with _refusing(path):
        file = pq.ParquetFile(path)
    with file, tqdm(total=file.metadata.num_rows, desc="Reading", unit="row", disable=None) as bar:
        for group in range(file.num_row_groups):
            with _refusing(path):
                table = file.read_row_group(group, columns=columns)
            for identifier, text, *labels in zip(*(table[name].to_pylist() for name in columns), strict=True):
                yield Row(identifier, text, tuple(labels))
            bar.update(table.num_rows)


def ids(path: Path, prefix: str) -> list[str]:
    """Return the rows' ids that begin with the prefix, in order.

    Raises:
        SourceError: the file is missing or damaged.
    """
    with _refusing(path):
        column = pq.read_table(path, columns=["id"])["id"]
    return column.filter(pc.starts_with(column, prefix)).to_pylist()


def text_key(text: str) -> int:
    """Return 64 bits that are equal for texts that are equal once normalised; they decide the split."""
    normalised = normalise(text)[0].encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(normalised, key=SPLIT_SEED, digest_size=8).digest(), "little")


def split(texts: Sequence[str], labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers of the rows to learn from and of those held out, a tenth of each kind.

    Texts that are equal once normalised stay together. Within a kind (a row's rarest label, or none) the rows
    with the smallest keyed hash are held out, so a row that is held out from one data set is almost always
    held out from another that contains it.
    """
    bar = tqdm(texts, desc="Splitting", unit="row", leave=False, disable=None)
    return split_keys(np.fromiter(map(text_key, bar), np.uint64, len(texts)), labels)


def split_keys(keys: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Do what `split` does, from the (n,) uint64 `text_key` of each row."""
    _, group = np.unique(keys, return_inverse=True)
    rarest_first = np.argsort(labels.sum(axis=0), kind="stable")
    kinds = np.where(labels.any(axis=1), np.argmax(labels[:, rarest_first], axis=1), len(LABELS))
    # `unique` sorts by key, so groups are numbered in the order of their hash.
    sizes = np.bincount(group)
    kind = np.full(len(sizes), len(LABELS))
    np.minimum.at(kind, group, kinds)
    held_out = np.zeros(len(sizes), bool)
    for each in np.unique(kind):
        members = np.flatnonzero(kind == each)
        if len(members) < 2:
            continue
        before = np.cumsum(sizes[members]) - sizes[members]
        held_out[members[before < HELD_OUT * sizes[members].sum()]] = True
    chosen = held_out[group]
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)
