"""A small run of `manage.py train_encoder`, which needs PyTorch."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from django.core.management import CommandError, call_command

from apps.registry.tracking import EXPERIMENT
from apps.training import encoder_data
from apps.training.models import Dataset

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

CHARACTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,!?'"


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A folder with a BERT-like model of two layers and a tokenizer of single letters."""
    transformers = pytest.importorskip(
        "transformers", reason="PyTorch is not installed; only training needs it"
    )
    tokenizers = pytest.importorskip("tokenizers")
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "▁", *CHARACTERS, "▁the", "▁you"]
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.Unigram([(piece, -1.0) for piece in pieces], unk_id=3, byte_fallback=False)
    )
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    tokenizer.add_special_tokens(pieces[:4])
    folder = tmp_path / "base"
    config = transformers.BertConfig(
        vocab_size=len(pieces),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
    )
    transformers.BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def test_train_encoder_exports_evaluates_and_is_recorded(
    base: Path,
    dataset: Dataset,
    tmp_path: Path,
    settings: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import mlflow
    import onnxruntime
    import torch

    from apps.classifier.encoder_training.export import restore

    settings.MLFLOW_TRACKING_URI = f"sqlite:///{tmp_path / 'mlflow.sqlite3'}"
    settings.MLFLOW_ARTIFACTS = str(tmp_path / "artifacts")
    monkeypatch.setattr("apps.classifier.encoder_training.fitting.SECONDS_PER_REPORT", -1)
    monkeypatch.setattr("apps.training.encoder_runs.MIN_ROWS", 1)
    monkeypatch.setattr(encoder_data, "common_words", lambda language, count: ["window", "eat"])
    monkeypatch.setattr(encoder_data, "common_names", lambda count, seed: ["Harshit"])
    monkeypatch.setattr(encoder_data, "vocabulary_sources", lambda sources: iter([("en", ["the"], [1.0])]))
    output = tmp_path / "encoder"
    arguments: dict[str, Any] = {
        "base": str(base), "dataset": ["made-up"], "work_dir": tmp_path / "work", "output": output,
        "layers": [1], "vocabulary": 73, "english_rows": 60, "mixtures": 1, "english_again": 40,
        "obfuscated_copies": 7, "identity_sentences": 10, "everyday_sentences": 10, "contrast_sentences": 10,
        "meaning_repeats": 0,
    }  # fmt: skip
    call_command("train_encoder", **arguments)
    printed = capsys.readouterr().out
    assert "Phase 2 of 2: batch" in printed
    assert "toxic 0." in printed or "toxic 1." in printed

    manifest = json.loads((output / "manifest.json").read_text())
    assert set(manifest["files"]) == {"model.onnx", "tokenizer.json"}
    assert manifest["config"]["vocabulary"] == 73
    assert manifest["phases"] == 2
    session = onnxruntime.InferenceSession(output / "model.onnx")
    ids = np.array([[0, 4, 6, 2]], np.int64)
    (logits,) = session.run(["logits"], {"input_ids": ids, "attention_mask": np.ones_like(ids)})
    assert logits.shape == (1, 6)
    assert np.isfinite(logits).all()
    assert manifest["languages"]["de"] == {"state": "experimental"}

    (run,) = mlflow.MlflowClient(settings.MLFLOW_TRACKING_URI).search_runs(
        [mlflow.MlflowClient(settings.MLFLOW_TRACKING_URI).get_experiment_by_name(EXPERIMENT).experiment_id]
    )
    assert run.data.params["layers"] == "[1]"
    assert "roc_auc/toxic/en" in run.data.metrics
    assert "loss/phase 2" in run.data.metrics

    with pytest.raises(CommandError, match="other settings"):
        call_command("train_encoder", **arguments | {"seed": 1})

    further = tmp_path / "further"
    options = {"base": str(output), "work_dir": further, "output": further, "base_weight": 1.0}
    call_command("train_encoder", **arguments | options)
    assert "Phase 1" not in capsys.readouterr().out
    continued = json.loads((further / "manifest.json").read_text())
    assert continued["base"] == manifest["base"]
    assert continued["earlier"] == [{"config": manifest["config"], "phases": 2}]
    assert (further / "tokenizer.json").read_bytes() == (output / "tokenizer.json").read_bytes()
    session = onnxruntime.InferenceSession(further / "model.onnx")
    (same,) = session.run(["logits"], {"input_ids": ids, "attention_mask": np.ones_like(ids)})
    assert np.allclose(same, logits, atol=0.05)  # only the base's weights count
    tensor = torch.from_numpy(ids)
    restored = restore(output, 0.0).train(False)(tensor, torch.ones_like(tensor))
    assert np.allclose(restored.detach(), logits, atol=0.05)
