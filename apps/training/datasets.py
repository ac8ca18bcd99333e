"""The files of data sets: Parquet, written once and shared through S3, split in two for evaluation.

Every process imports this module, so pyarrow is imported where it is used: it takes 30 MB of memory.
"""

import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from django.conf import settings
from tqdm import tqdm

from apps.classifier.labels import LABELS
from apps.classifier.normalise import normalise
from apps.core import object_storage
from apps.training.exceptions import SourceError
from apps.training.jigsaw import LabeledComment

if TYPE_CHECKING:
    import pyarrow as pa

# Small groups, because the example comment reads a single row.
ROWS_PER_GROUP = 1024
HELD_OUT = 0.1
# The same for every run and version, so that all of them hold out the same rows.
SPLIT_SEED = b"toxicmod"


@dataclass(frozen=True)
class DatasetFile:
    """A new Parquet file, which has a temporary name until its row is in the database."""

    path: Path
    sha256: str
    rows: int
    labelled: int
    positives: dict[str, int]


@dataclass(frozen=True)
class Rows:
    """Labelled comments in memory."""

    texts: list[str]
    labels: np.ndarray  # (n, labels) int8
    weights: np.ndarray | None  # (n,) float64, None if all are 1
    held_out: np.ndarray | None = None  # (n,) bool, None if `split` decides

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, indices: np.ndarray) -> "Rows":
        """Return the rows with these indices."""
        weights = None if self.weights is None else self.weights[indices]
        return Rows([self.texts[row] for row in indices], self.labels[indices], weights)

    def split(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the indices of the rows to train on and of the held-out rows."""
        if self.held_out is None:
            return split(self.texts, self.labels)
        return np.flatnonzero(~self.held_out), np.flatnonzero(self.held_out)


def _schema() -> "pa.Schema":
    import pyarrow as pa

    return pa.schema(
        [
            ("id", pa.string()),
            ("comment_text", pa.string()),
            *((label, pa.int8()) for label in LABELS),
            ("held_out", pa.bool_()),  # if null or missing, `split` decides
            ("weight", pa.float64()),  # 1 if missing
        ]
    )


def write(rows: Iterable[LabeledComment], folder: Path) -> DatasetFile:
    """Write rows to a temporary Parquet file in the folder, and hash them in their order.

    The hash depends on the rows only: a CSV and a .zip of it have the same.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True, exist_ok=True)
    schema = _schema()
    digest = hashlib.sha256()
    counts = np.zeros(len(LABELS), np.int64)
    total = labelled = 0
    handle, name = tempfile.mkstemp(dir=folder, suffix=".tmp")
    os.close(handle)
    path = Path(name)
    try:
        with pq.ParquetWriter(path, schema, compression="zstd") as writer:
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
                    pa.record_batch([pa.array(column) for column in columns], schema=schema), ROWS_PER_GROUP
                )
                total += len(group)
                labelled += int(labels.any(axis=1).sum())
                counts += labels.sum(axis=0)
    except BaseException:
        path.unlink()
        raise
    positives = dict(zip(LABELS, counts.tolist(), strict=True))
    return DatasetFile(path, digest.hexdigest(), total, labelled, positives)


def upload(file: DatasetFile) -> None:
    """Upload a file to S3 for the other machines, if a bucket is configured and does not have it.

    Raises:
        SourceError: S3 can't be reached or denies access.
    """
    if not settings.S3_BUCKET:
        return
    url = _s3_url(f"{file.sha256}.parquet")
    try:
        try:
            object_storage.size(url)
        except object_storage.MissingError:
            object_storage.upload(file.path, url)
    except object_storage.StorageError as error:
        raise SourceError(str(error)) from None


def is_available(path: Path) -> bool:
    """Return whether a data set's file is on this machine; download it from S3 if necessary.

    Raises:
        SourceError: S3 can't be reached or denies access.
    """
    if path.is_file() or not settings.S3_BUCKET:
        return path.is_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        temporary = Path(folder) / path.name
        try:
            object_storage.download(_s3_url(path.name), temporary)
        except object_storage.MissingError:
            return False
        except object_storage.StorageError as error:
            raise SourceError(str(error)) from None
        temporary.replace(path)
    return True


def _s3_url(name: str) -> str:
    return f"s3://{settings.S3_BUCKET}/datasets/{name}"


@contextmanager
def _translate_errors(path: Path) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except (OSError, pa.ArrowException) as error:
        state = "missing" if isinstance(error, FileNotFoundError) else "damaged"
        raise SourceError(
            f"The data set's file {path.name} is {state}: import the same rows again."
        ) from None


def read(path: Path, *, clean_weight: float = 1.0) -> Rows:
    """Read all rows of a data set's file.

    Raises:
        SourceError: the file is missing or damaged.
    """
    import pyarrow.parquet as pq

    is_available(path)
    with _translate_errors(path):
        table = pq.read_table(path, schema=_schema())
    labels = np.column_stack([table[label].to_numpy() for label in LABELS])
    held_out = None if table["held_out"].null_count else table["held_out"].to_numpy()
    weights = _weights(labels, held_out, clean_weight)
    row_weights = table["weight"].fill_null(1.0).to_numpy()
    if np.any(row_weights != 1):
        weights = row_weights if weights is None else row_weights * weights
    return Rows(table["comment_text"].to_pylist(), labels, weights, held_out)


def _weights(labels: np.ndarray, held_out: np.ndarray | None, clean_weight: float) -> np.ndarray | None:
    if clean_weight == 1.0:
        return None
    labelled = labels.any(axis=1)
    weights = np.where(labelled, 1.0, clean_weight)
    if held_out is not None:
        # Added training rows may be enriched, so the held-out rows get the natural rate separately.
        odds = clean_weight * (~labelled).sum() / labelled.sum()
        clean = held_out & ~labelled
        weights[clean] = odds * (held_out & labelled).sum() / max(clean.sum(), 1)
    return weights


def stream(path: Path) -> Iterator[LabeledComment]:
    """Yield the rows of a data set's file in constant memory, and show a progress bar.

    Raises:
        SourceError: the file is missing or damaged.
    """
    import pyarrow.parquet as pq

    columns = ["id", "comment_text", *LABELS]
    is_available(path)
    with _translate_errors(path):
        file = pq.ParquetFile(path)
    with file, tqdm(total=file.metadata.num_rows, desc="Reading", unit="row", disable=None) as bar:
        for group in range(file.num_row_groups):
            with _translate_errors(path):
                table = file.read_row_group(group, columns=columns)
            for identifier, text, *labels in zip(*(table[name].to_pylist() for name in columns), strict=True):
                yield LabeledComment(identifier, text, tuple(labels))
            bar.update(table.num_rows)


def read_ids(path: Path, prefix: str) -> list[str]:
    """Return the ids that begin with the prefix, in the order of rows.

    Raises:
        SourceError: the file is missing or damaged.
    """
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    with _translate_errors(path):
        column = pq.read_table(path, columns=["id"])["id"]
    return column.filter(pc.starts_with(column, prefix)).to_pylist()


def text_key(text: str) -> int:
    """Return 64 bits that are equal for texts with the same normalised form; they decide the split."""
    normalised = normalise(text)[0].encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(normalised, key=SPLIT_SEED, digest_size=8).digest(), "little")


def is_in_benchmark(text: str) -> bool:
    """Return whether `make bench` holds the text out: a tenth, by the first 300 characters."""
    normalised = normalise(text[:300])[0]
    codes = (normalised and f"{normalised}\n").encode("utf-32-le", "surrogatepass")
    digest = hashlib.blake2b(codes, digest_size=16).digest()
    return int.from_bytes(digest[:4], "big") / 2**32 < HELD_OUT


def split(texts: Sequence[str], labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices of the rows to train on and of the held-out rows, a tenth of each stratum.

    Texts that are equal once normalised stay together. Within a stratum (a row's rarest label, or none) the
    rows with the smallest keyed hash are held out, so that a row that is held out from one data set is almost
    always held out from another one that contains it.
    """
    bar = tqdm(texts, desc="Splitting", unit="row", leave=False, disable=None)
    return split_keys(np.fromiter(map(text_key, bar), np.uint64, len(texts)), labels)


def split_keys(keys: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Do what `split` does, with the (n,) uint64 `text_key` of each row."""
    _, group = np.unique(keys, return_inverse=True)
    rarest_first = np.argsort(labels.sum(axis=0), kind="stable")
    row_stratum = np.where(labels.any(axis=1), np.argmax(labels[:, rarest_first], axis=1), len(LABELS))
    # `unique` sorts the keys, so groups are numbered in the order of their hash.
    sizes = np.bincount(group)
    stratum = np.full(len(sizes), len(LABELS))
    np.minimum.at(stratum, group, row_stratum)
    is_group_held_out = np.zeros(len(sizes), bool)
    for value in np.unique(stratum):
        members = np.flatnonzero(stratum == value)
        if len(members) < 2:
            continue
        rows_before = np.cumsum(sizes[members]) - sizes[members]
        is_group_held_out[members[rows_before < HELD_OUT * sizes[members].sum()]] = True
    held_out = is_group_held_out[group]
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)
