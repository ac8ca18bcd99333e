"""The data of the encoder, and the command's errors; nothing here needs PyTorch."""

import gzip
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from django.core.management import CommandError, call_command

from apps.classifier.encoder_training.config import EncoderConfig
from apps.classifier.encoder_training.examples import UNKNOWN, Examples
from apps.classifier.labels import LABELS
from apps.classifier.scorer import Scorer
from apps.registry.models import ModelVersion
from apps.training import datasets, encoder_data
from apps.training.encoder_data import Source
from apps.training.exceptions import SourceError, TrainingError
from apps.training.models import Dataset


def write_lines(path: Path, count: int) -> None:
    rows = [{"text": f"Satz Nummer {k}", "toxic": k % 2, "threat": 0} for k in range(count)]
    path.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))


def english(count: int) -> Source:
    labels = np.zeros((count, len(LABELS)), np.int8)
    labels[::3, 0] = 1
    return Source(
        "en", "0" * 64, Examples([f"Comment number {k}" for k in range(count)], labels, ["en"] * count)
    )


def test_read_files_reads_language_and_known_labels(tmp_path: Path) -> None:
    write_lines(tmp_path / "de_example.jsonl.gz", 3)
    (source,) = encoder_data.read_files(tmp_path)
    assert source.name == "de_example"
    assert source.examples.languages == ["de"] * 3
    assert source.examples.labels[1].tolist() == [1, UNKNOWN, UNKNOWN, 0, UNKNOWN, UNKNOWN]
    assert not source.has_all_labels
    assert len(source.sha256) == 64


@pytest.mark.parametrize("content", [b"{}", b"not json", b'{"text": '])
def test_read_files_rejects_other_content(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "de_example.jsonl").write_bytes(content)
    with pytest.raises(SourceError, match=r"de_example\.jsonl"):
        encoder_data.read_files(tmp_path / "de_example.jsonl")


def test_read_dataset_has_all_labels(dataset: Dataset) -> None:
    source = encoder_data.read_dataset(dataset)
    assert len(source.examples) == dataset.rows
    assert source.has_all_labels


def test_split_trains_on_no_text_that_is_held_out() -> None:
    examples = english(4_000).examples
    parts = encoder_data.split(examples)
    assert np.array_equal(parts["held_out"], datasets.split(examples.texts, examples.labels)[1])
    assert not set(parts["train"]) & (set(parts["held_out"]) | set(parts["second_level"]))
    assert not any(datasets.is_in_benchmark(examples.texts[row]) for row in parts["train"])
    assert 0.6 < len(parts["train"]) / 4_000 < 0.75
    assert 0.1 < len(parts["second_level"]) / 4_000 < 0.17


def test_split_of_a_subset_trains_on_no_text_that_the_whole_holds_out() -> None:
    examples = english(4_000).examples
    held_out = {examples.texts[row] for row in encoder_data.split(examples)["held_out"]}
    subset = examples.sample(700, seed=0)
    assert not held_out & {subset.texts[row] for row in encoder_data.split(subset)["train"]}


def test_is_in_benchmark_agrees_with_the_scorers_key(champion: ModelVersion) -> None:
    scorer = Scorer.load(champion.modelartifact.artifact())
    texts = ["", "…", *(f"Comment number {k}. A second sentence!" for k in range(200))]
    keys = [int.from_bytes(scorer.text_key(text[:300])[:4], "big") / 2**32 for text in texts]
    assert [datasets.is_in_benchmark(text) for text in texts] == [key < 0.1 for key in keys]


def test_english_phase_balances_flagged_and_clean_texts() -> None:
    phase = encoder_data.english_phase([english(900)], EncoderConfig(english_rows=400))
    assert len(phase) == 400
    assert phase.flagged.sum() == 200


def test_english_phase_without_complete_data_set_raises(tmp_path: Path) -> None:
    write_lines(tmp_path / "de_example.jsonl.gz", 3)
    with pytest.raises(TrainingError, match="all six labels"):
        encoder_data.english_phase(encoder_data.read_files(tmp_path), EncoderConfig())


def test_mixed_phase_has_every_kind_and_differs_by_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoder_data, "common_words", lambda language, count: ["window", "idiot"])
    monkeypatch.setattr(encoder_data, "common_names", lambda count, seed: ["Harshit"])
    write_lines(tmp_path / "de_example.jsonl.gz", 300)
    sources = [english(900), *encoder_data.read_files(tmp_path)]
    config = EncoderConfig(
        english_again=100, rows_per_source=50, obfuscated_copies=14, identity_sentences=20,
        everyday_sentences=30, contrast_sentences=10, meaning_repeats=0,
    )  # fmt: skip
    first, second = (encoder_data.mixed_phase(sources, config, number) for number in (2, 3))
    words = 2 * len(encoder_data.LANGUAGES_OF_WORDS) - 1  # a rude one does not count in English
    assert len(first) == 100 + 50 + 14 + 20 + 30 + words + 10
    assert {"en", "de"} <= set(first.languages)
    assert first.texts != second.texts


def test_train_encoder_without_pytorch_names_the_requirements(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "apps.training.encoder_runs", raising=False)
    with pytest.raises(CommandError, match=r"encoder_training/requirements\.txt"):
        call_command("train_encoder", base="e5", dataset=["made-up"])
