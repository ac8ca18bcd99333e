"""The cache of the encoder's logits, and which texts are read for training."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from django.core.management import call_command

from apps.classifier import encoder, everyday, meaning
from apps.classifier.bias_audit import Sentences, audit_sentences
from apps.classifier.encoder import Encoder, Mode
from apps.classifier.labels import LABELS
from apps.training import encoder_data, readings
from apps.training.encoder_data import Examples
from apps.training.exceptions import TrainingError
from apps.training.readings import CachedReadings

TEXTS = [f"Comment number {k} of many" for k in range(3_000)]


class CountingEncoder:
    """Returns the length of each text, and counts the texts."""

    def __init__(self, sha256: str = "a") -> None:
        self.sha256 = sha256
        self.count = 0

    def logits(self, texts: list[str]) -> np.ndarray:
        self.count += len(texts)
        return np.array([[len(text)] * len(LABELS) for text in texts], np.float32)


def test_unseen_texts_never_train_the_encoder() -> None:
    examples = Examples(TEXTS, np.zeros((len(TEXTS), len(LABELS)), np.int8), ["en"] * len(TEXTS))
    rows = CachedReadings(encoder.load(encoder.FOLDER), Path()).unseen(TEXTS)
    assert 0.2 < len(rows) / len(TEXTS) < 0.3
    assert not set(rows.tolist()) & set(encoder_data.split(examples)["train"].tolist())


def test_unseen_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    reader: Any = CountingEncoder()
    monkeypatch.setattr(readings, "MAX_ROWS", 100)
    assert len(CachedReadings(reader, Path()).unseen(TEXTS)) == 100


def test_logits_are_cached_until_the_encoder_changes(tmp_path: Path) -> None:
    path = tmp_path / "logits.sqlite3"
    first: Any = CountingEncoder()
    texts = ["a", "bb", "\ud800", *TEXTS[:300]]
    expected = CachedReadings(first, path).logits(texts)
    assert np.array_equal(CachedReadings(first, path).logits(texts[::-1]), expected[::-1])
    assert first.count == len(texts)
    second: Any = CountingEncoder("b")
    assert np.array_equal(CachedReadings(second, path).logits(texts), expected)
    assert second.count == len(texts)


def test_reading_can_be_stopped_and_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readings, "TEXTS_PER_COMMIT", 10)
    reader: Any = CountingEncoder()

    def stop(fraction: float) -> None:
        if fraction >= 0.5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        CachedReadings(reader, tmp_path / "logits.sqlite3", stop).logits(TEXTS[:100])
    CachedReadings(reader, tmp_path / "logits.sqlite3").logits(TEXTS[:100])
    assert reader.count == 100


def test_audit_sentences_are_read_once(
    monkeypatch: pytest.MonkeyPatch, settings: Any, tmp_path: Path
) -> None:
    settings.DATA_DIR = tmp_path
    reader = encoder.load(encoder.FOLDER)
    expected = [reader.logits(TEXTS[:2]), reader.logits(TEXTS[1:3], may_be_english=False)]
    read: list[str] = []
    original = Encoder._read
    monkeypatch.setattr(Encoder, "_read", lambda self, text: read.append(text) or original(self, text))

    def logits() -> list[np.ndarray]:
        return [reader.logits(TEXTS[:2]), reader.logits(TEXTS[1:3], may_be_english=False)]

    for _ in range(2):
        with readings.read_audits_once():
            assert np.array_equal(logits(), expected)
    assert len(read) == 4  # one text is read in both ways
    with encoder.read_once():
        for _ in range(2):
            assert np.array_equal(logits(), expected)
    assert len(read) == 8
    assert np.array_equal(logits(), expected)
    assert len(read) == 12


def test_the_encoder_comes_with_the_logits_of_all_audits(
    monkeypatch: pytest.MonkeyPatch, settings: Any, tmp_path: Path
) -> None:
    settings.DATA_DIR = tmp_path
    reader = encoder.load(encoder.FOLDER)
    english = [*everyday.audit_sentences(), *audit_sentences().texts]
    german = audit_sentences(language="de").texts
    some = [*english[::1_000], *german[::100]]
    expected = reader.logits(some)
    with monkeypatch.context() as patch, readings.read_audits_once():
        patch.delattr(Encoder, "_read")  # reading again: manage.py read_audits
        reader.logits([*english, *german])
        reader.logits(german, may_be_english=False)
        assert np.allclose(reader.logits(some), expected, atol=0.01)


def test_logits_of_another_encoder_are_ignored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    np.savez(
        tmp_path / readings.AUDITS, encoder="b", keys=np.zeros((1, 16), np.uint8), logits=np.zeros((1, 6))
    )
    monkeypatch.setattr(encoder.configuration, "folder", tmp_path)
    reader: Any = CountingEncoder()
    CachedReadings(reader, tmp_path / "logits.sqlite3").logits(TEXTS[:2])
    assert reader.count == 2


def test_read_audits(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for file in encoder.FOLDER.iterdir():
        if file.name != readings.AUDITS:
            (tmp_path / file.name).symlink_to(file)
    monkeypatch.setattr(encoder.configuration, "folder", tmp_path)
    monkeypatch.setattr(readings, "AUDITED_LANGUAGES", ("en", "de"))
    few = Sentences(["One sentence", "another one"], np.zeros(2, bool), ["", ""])
    monkeypatch.setattr(readings, "audit_sentences", lambda language="en": few)
    monkeypatch.setattr(everyday, "audit_sentences", lambda: ["The stairs are dirty."])
    monkeypatch.setattr(meaning, "load", lambda part: [])
    call_command("read_audits")
    assert "5 sentences" in capsys.readouterr().out
    monkeypatch.setattr(Encoder, "_read", lambda self, text: pytest.fail(text))
    cached = CachedReadings(encoder.load(tmp_path), tmp_path / "logits.sqlite3")
    assert cached.logits([*few.texts, "The stairs are dirty."]).shape == (3, len(LABELS))


def test_readings_without_an_encoder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(encoder.configuration, "folder", tmp_path)
    with readings.read_audits_once():
        pass


def test_open_readings_follows_the_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(encoder.configuration, "mode", Mode.NEVER)
    assert readings.open_readings() is None
    monkeypatch.setattr(encoder.configuration, "mode", Mode.ALWAYS)
    opened = readings.open_readings()
    assert opened
    assert isinstance(opened._reader, Encoder)
    monkeypatch.setattr(encoder.configuration, "folder", tmp_path)
    with pytest.raises(TrainingError, match="ENCODER=never"):
        readings.open_readings()
