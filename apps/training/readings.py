"""The encoder's logits of training rows, cached so that training again takes no longer than without it."""

import hashlib
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
from django.conf import settings
from tqdm import tqdm

from apps.classifier import encoder
from apps.classifier.encoder import Encoder, EncoderError, Mode
from apps.classifier.labels import LABELS
from apps.training import datasets
from apps.training.exceptions import TrainingError

CACHE = "encoder_logits.sqlite3"
# The texts on which the levels are combined, as a fraction by hash. `train_encoder` does not train on them.
SECOND_LEVEL = 0.25
MAX_ROWS = 20_000
TEXTS_PER_COMMIT = 256


class CachedReadings:
    """Reads texts with an encoder, unless their logits are in the file.

    Args:
        report: called with the completed fraction while texts are read; it may raise an exception to stop.
    """

    def __init__(
        self, reader: Encoder, path: Path, report: Callable[[float], None] = lambda fraction: None
    ) -> None:
        self.sha256 = reader.sha256
        self._reader = reader
        self._path = path
        self._report = report

    def unseen(self, texts: Sequence[str]) -> np.ndarray:
        """Return the rows that are not in the encoder's training data, at most MAX_ROWS."""
        keys = np.fromiter(map(datasets.text_key, texts), np.uint64, len(texts))
        order = np.argsort(keys, kind="stable")[:MAX_ROWS]
        return np.sort(order[keys[order] / 2.0**64 < SECOND_LEVEL])

    def logits(self, texts: Sequence[str]) -> np.ndarray:
        """Return the (n, labels) float32 logits."""
        result = np.empty((len(texts), len(LABELS)), np.float32)
        keys = [hashlib.blake2b(text.encode("utf-8", "surrogatepass")).digest() for text in texts]
        with closing(sqlite3.connect(self._path, timeout=60)) as cache, cache:
            cache.execute(
                "CREATE TABLE IF NOT EXISTS logits (encoder TEXT, key BLOB PRIMARY KEY, value BLOB)"
            )
            cache.execute("DELETE FROM logits WHERE encoder != ?", [self.sha256])
            missing = []
            for row, key in enumerate(keys):
                cached = cache.execute("SELECT value FROM logits WHERE key = ?", [key]).fetchone()
                if cached:
                    result[row] = np.frombuffer(cached[0], np.float32)
                else:
                    missing.append(row)
            with tqdm(total=len(missing), desc="Reading", unit="text", leave=False, disable=None) as bar:
                for start in range(0, len(missing), TEXTS_PER_COMMIT):
                    self._report(start / len(missing))
                    rows = missing[start : start + TEXTS_PER_COMMIT]
                    result[rows] = self._reader.logits([texts[row] for row in rows])
                    cache.executemany(
                        "INSERT OR REPLACE INTO logits VALUES (?, ?, ?)",
                        [(self.sha256, keys[row], result[row].tobytes()) for row in rows],
                    )
                    cache.commit()
                    bar.update(len(rows))
        return result


def open_readings(report: Callable[[float], None] = lambda fraction: None) -> CachedReadings | None:
    """Return the readings of the site's encoder, or None if ENCODER is never.

    Args:
        report: see `CachedReadings`.

    Raises:
        TrainingError: the encoder can't be used.
    """
    if encoder.configuration.mode == Mode.NEVER:
        return None
    try:
        reader = encoder.load(encoder.configuration.folder)
    except EncoderError as error:
        raise TrainingError(str(error)) from None
    return CachedReadings(reader, settings.DATA_DIR / CACHE, report)
