"""The rows of data sets: written once as Parquet, read whole, split in two for evaluation."""

import hashlib
import os
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from apps.classifier.labels import LABELS
from apps.classifier.normalise import normalise
from apps.training.jigsaw import Row
from apps.training.sources import SourceError

# Small groups let a single row be read without the rest.
ROWS_PER_GROUP = 1024
HELD_OUT = 0.1
# One split for every run and version: what is held out from one is held out from all, to compare them by.
SPLIT_SEED = b"toxicmod"
SCHEMA = pa.schema(
    [("id", pa.string()), ("comment_text", pa.string()), *((label, pa.int8()) for label in LABELS)]
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
    """Comments in memory: n texts, (n, 6) int8 labels, (n,) float64 weights or None where all count alike."""

    texts: list[str]
    labels: np.ndarray
    weights: np.ndarray | None

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, chosen: np.ndarray) -> "Rows":
        """Return the rows with these numbers."""
        weights = None if self.weights is None else self.weights[chosen]
        return Rows([self.texts[row] for row in chosen], self.labels[chosen], weights)


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
                    for part in (row.id.encode(), row.text.encode(), bytes(row.labels)):
                        digest.update(len(part).to_bytes(8, "little"))
                        digest.update(part)
                columns = [[row.id for row in group], [row.text for row in group], *labels.T]
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


def read(path: Path, *, clean_weight: float = 1.0) -> Rows:
    """Read all rows of a data set's file.

    Raises:
        SourceError: the file is missing or damaged.
    """
    try:
        table = pq.read_table(path, schema=SCHEMA)
    except (OSError, pa.ArrowException) as error:
        what = "missing" if isinstance(error, FileNotFoundError) else "damaged"
        raise SourceError(f"The data set's file {path.name} is {what}: import the same rows again.") from None
    labels = np.column_stack([table[label].to_numpy() for label in LABELS])
    weights = None if clean_weight == 1.0 else np.where(labels.any(axis=1), 1.0, clean_weight)
    return Rows(table["comment_text"].to_pylist(), labels, weights)


def split(texts: Sequence[str], labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers of the rows to learn from and of those held out, a tenth of each kind.

    Texts that are equal once normalised stay together. Within a kind (a row's rarest label, or none) the rows
    with the smallest keyed hash are held out, so a row that is held out from one data set is almost always
    held out from another that contains it.
    """
    keys = b"".join(
        hashlib.blake2b(
            normalise(text)[0].encode("utf-8", "surrogatepass"), key=SPLIT_SEED, digest_size=8
        ).digest()
        for text in tqdm(texts, desc="Splitting", unit="row", leave=False, disable=None)
    )
    _, group = np.unique(np.frombuffer(keys, "<u8"), return_inverse=True)
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
