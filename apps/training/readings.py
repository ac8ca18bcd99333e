"""The encoder's logits of training rows and of the audits' sentences, cached in a file.

Training again, and auditing another model, then take no longer than without the encoder. The logits of the
audits' sentences come with the encoder.
"""

import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
from django.conf import settings
from tqdm import tqdm

from apps.classifier import encoder, everyday, meaning
from apps.classifier.bias_audit import AUDITED_LANGUAGES, audit_sentences
from apps.classifier.encoder import KEY_BYTES, Encoder, EncoderError, Mode, reading_key
from apps.classifier.labels import LABELS
from apps.training import datasets
from apps.training.exceptions import TrainingError

CACHE = "encoder_logits.sqlite3"
AUDITS = "audits.npz"
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
        keys = list(map(reading_key, texts))
        with closing(_open_cache(self._path, self.sha256)) as cache, cache:
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
                    _store(cache, self.sha256, {keys[row]: result[row] for row in rows})
                    cache.commit()
                    bar.update(len(rows))
        return result


def _open_cache(path: Path, sha256: str) -> sqlite3.Connection:
    """Open the file, and delete the logits of other encoders."""
    cache = sqlite3.connect(path, timeout=60)
    with cache:
        cache.execute("CREATE TABLE IF NOT EXISTS logits (encoder TEXT, key BLOB PRIMARY KEY, value BLOB)")
        cache.execute("DELETE FROM logits WHERE encoder != ?", [sha256])
        if not cache.execute("SELECT 1 FROM logits").fetchone():
            _store(cache, sha256, _load_audits(sha256))
    return cache


def _load_audits(sha256: str) -> dict[bytes, np.ndarray]:
    """Return the logits that come with the encoder, none if it has none."""
    try:
        with np.load(encoder.configuration.folder / AUDITS) as audits:
            if audits["encoder"] != sha256:
                return {}
            return dict(zip(map(bytes, audits["keys"]), audits["logits"], strict=True))
    except FileNotFoundError:
        return {}


def write_audits() -> tuple[Path, int]:
    """Read the audits' sentences with the site's encoder, and write the logits beside it.

    Returns:
        The file, and the number of sentences in it. Those that are not surely English are read in two ways.

    Raises:
        EncoderError: the encoder can't be used.
    """
    reader = encoder.load(encoder.configuration.folder)
    english = [sentence.text for sentence in meaning.load("test") if sentence.language == "en"]
    english += [*everyday.audit_sentences(), *audit_sentences().texts]
    foreign = [
        text for code in AUDITED_LANGUAGES if code != "en" for text in audit_sentences(language=code).texts
    ]
    known: dict[bytes, np.ndarray] = {}
    with reader.read_once(known):
        reader.logits(tqdm([*english, *foreign], desc="Reading", unit="text", leave=False, disable=None))
        reader.logits(foreign, may_be_english=False)
    path = encoder.configuration.folder / AUDITS
    keys = np.frombuffer(b"".join(known), np.uint8).reshape(-1, KEY_BYTES)
    np.savez(path, encoder=reader.sha256, keys=keys, logits=np.array(list(known.values())))
    return path, len(known)


def _store(cache: sqlite3.Connection, sha256: str, logits: Mapping[bytes, np.ndarray]) -> None:
    cache.executemany(
        "INSERT OR REPLACE INTO logits VALUES (?, ?, ?)",
        [(sha256, key, values.tobytes()) for key, values in logits.items()],
    )


@contextmanager
def read_audits_once() -> Iterator[None]:
    """Within the context, read a text only if its logits are not in the file, and store those of the others.

    This is for the sentences of audits, with which each model is scored. Comments must not be stored: see
    `encoder.read_once`.
    """
    reader = encoder.load_if_usable()
    if reader is None:
        yield
        return
    with closing(_open_cache(settings.DATA_DIR / CACHE, reader.sha256)) as cache:
        known = {
            key: np.frombuffer(values, np.float32)
            for key, values in cache.execute("SELECT key, value FROM logits")
        }
    stored = set(known)
    with reader.read_once(known):
        yield
    with closing(_open_cache(settings.DATA_DIR / CACHE, reader.sha256)) as cache, cache:
        _store(cache, reader.sha256, {key: values for key, values in known.items() if key not in stored})


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
