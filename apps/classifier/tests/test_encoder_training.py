"""The vocabulary, the examples and the network of the encoder. The last needs PyTorch."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from apps.classifier.encoder_training.config import EncoderConfig, Progress
from apps.classifier.encoder_training.examples import (
    UNKNOWN,
    Examples,
    concatenate,
    contrast_sentences,
    drop_rude_words,
    everyday_sentences,
    identity_sentences,
    label_matrix,
    meaning_sentences,
    obfuscated_copies,
    words_alone,
)
from apps.classifier.encoder_training.vocabulary import cut_tokenizer, select_pieces
from apps.classifier.labels import LABELS
from apps.classifier.meaning import load

PIECES = ["<s>", "<pad>", "</s>", "<unk>", "▁", "a", "b", "▁ab", "ba", "▁bab", "<mask>"]


@pytest.fixture
def tokenizer() -> dict[str, Any]:
    return {
        "truncation": {"max_length": 512},
        "padding": None,
        "added_tokens": [{"id": k, "content": piece} for k, piece in enumerate(PIECES) if piece[0] == "<"],
        "post_processor": {
            "type": "TemplateProcessing",
            "special_tokens": {"<s>": {"ids": [0]}, "</s>": {"ids": [2]}},
        },
        "model": {
            "type": "Unigram",
            "unk_id": 3,
            "vocab": [[piece, -index / 3] for index, piece in enumerate(PIECES)],
        },
    }


def labelled(*rows: tuple[str, int]) -> Examples:
    """Examples that are toxic or not."""
    labels = np.zeros((len(rows), len(LABELS)), np.int8)
    labels[:, 0] = [toxic for _, toxic in rows]
    return Examples([text for text, _ in rows], labels, ["en"] * len(rows))


def test_select_pieces_keeps_characters_then_takes_turns(tokenizer: dict[str, Any]) -> None:
    counts = {"x": {8: 9, 7: 5}, "y": {9: 1}}
    kept = {size: [PIECES[index] for index in select_pieces(tokenizer, counts, size)] for size in (9, 10)}
    assert kept == {
        9: [*PIECES[:7], "ba", "<mask>"],
        10: [*PIECES[:7], "ba", "▁bab", "<mask>"],
    }


def test_select_pieces_without_counts_follows_the_order_of_the_vocabulary(tokenizer: dict[str, Any]) -> None:
    assert 7 in select_pieces(tokenizer, {}, 9)


def test_cut_tokenizer_numbers_pieces_anew(tokenizer: dict[str, Any]) -> None:
    cut = cut_tokenizer(tokenizer, [0, 1, 2, 3, 4, 5, 6, 9, 10])
    assert [piece for piece, _ in cut["model"]["vocab"]][-2:] == ["▁bab", "<mask>"]
    assert cut["added_tokens"][-1] == {"id": 8, "content": "<mask>"}
    assert cut["model"]["unk_id"] == 3
    assert cut["truncation"] is None
    assert tokenizer["model"]["vocab"][8][0] == "ba"  # unchanged


def test_label_matrix_distinguishes_unknown_from_no() -> None:
    rows = [{"toxic": 1, "threat": 0}, {"labels": ["insult"]}]
    assert label_matrix(rows).tolist() == [[1, UNKNOWN, UNKNOWN, 0, UNKNOWN, UNKNOWN], [0, 0, 0, 0, 1, 0]]


def test_obfuscated_copies_keep_labels() -> None:
    examples = labelled(*[(f"Some longer words {k}", k % 2) for k in range(40)])
    copies = obfuscated_copies(examples, 20, seed=0)
    assert len(copies) == 20
    assert copies.labels[:, 0].sum() == 10
    assert not set(copies.texts) <= set(examples.texts)


def test_identity_sentences_state_only_toxic_where_it_applies() -> None:
    sentences = identity_sentences(200, seed=0)
    toxic = sentences.labels[:, 0] == 1
    assert 0 < toxic.sum() < 200
    assert np.all(sentences.labels[toxic, 1:] == UNKNOWN)
    assert np.all(sentences.labels[~toxic] == 0)


def test_everyday_sentences_fill_every_slot() -> None:
    words = {"en": ["window", "eat"], "de": ["Fenster"]}
    sentences = everyday_sentences(words, ["Harshit", "Dick"], 400, seed=0)
    assert len(sentences) == 400
    assert not any("{" in text for text in sentences.texts)
    assert not sentences.flagged.any()
    assert any("harshit" in text.lower() for text in sentences.texts)
    assert {"en", "de"} <= set(sentences.languages)


def test_words_alone_has_every_word_once() -> None:
    examples = words_alone({"en": ["window", "eat"], "de": ["Fenster"]})
    assert examples.texts == ["window", "eat", "Fenster"]
    assert examples.languages == ["en", "en", "de"]
    assert not examples.labels.any()


def test_contrast_sentences_state_the_labels_of_their_template() -> None:
    sentences = contrast_sentences(2_000, seed=0)
    assert len(sentences) == 2_000
    assert not any("{" in text for text in sentences.texts)
    assert {"en", "de", "es", "fr", "pt", "ar", "hi", "zh"} <= set(sentences.languages)
    assert 0.45 < sentences.flagged.mean() < 0.55
    assert np.all((sentences.labels == 0).all(axis=1) | (sentences.labels[:, 0] == 1))
    assert 1 < (sentences.labels[sentences.flagged] == 1).sum(axis=1).mean() < 2
    assert not set(sentences.texts) & {sentence.text for sentence in load("test")}
    is_threat = np.array(["watch your back" in text for text in sentences.texts])
    assert is_threat.any()
    assert np.all(sentences.labels[is_threat, LABELS.index("threat")] == 1)


def test_drop_rude_words_by_their_texts() -> None:
    examples = labelled(("you idiot", 1), ("what an idiot", 1), ("what a day", 0), ("you rock", 0))
    assert drop_rude_words(["idiot", "what", "day", "new"], examples) == ["what", "day", "new"]


def test_meaning_sentences_know_all_labels() -> None:
    sentences = meaning_sentences()
    assert len(sentences) == len(load("train"))
    assert not np.any(sentences.labels == UNKNOWN)
    assert 0.3 < sentences.flagged.mean() < 0.7


def test_sample_and_concatenate_keep_rows_together() -> None:
    examples = labelled(("a", 0), ("b", 1), ("c", 0))
    both = concatenate([examples.sample(2, seed=0), examples])
    assert len(both) == 5
    assert [bool(flag) for flag in both.flagged] == [text == "b" for text in both.texts]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_fit_resumes_and_exported_graph_agrees(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed; only training needs it")
    transformers = pytest.importorskip("transformers")
    onnxruntime = pytest.importorskip("onnxruntime")
    from apps.classifier.encoder_training.export import export
    from apps.classifier.encoder_training.fitting import Texts, fit
    from apps.classifier.encoder_training.network import Encoder

    torch.manual_seed(0)
    base = transformers.BertConfig(
        vocab_size=40, hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64
    )
    transformers.BertModel(base, add_pooling_layer=False).save_pretrained(tmp_path / "base")
    config = EncoderConfig(batch_size=4, learning_rate=1e-3)
    examples = labelled(*[("x" if k % 2 else "y", k % 2) for k in range(64)])
    texts = Texts(examples, lambda rows: [[0, 5 if row == "x" else 6, 7, 2] for row in rows], pad=1)

    def trained(checkpoint: Path, stop_after: int | None = None) -> Encoder:
        model = Encoder.from_base(tmp_path / "base", list(range(30)), (1,), dropout=0.1)
        reports: list[Progress] = []

        def report(progress: Progress) -> None:
            reports.append(progress)
            if stop_after and len(reports) == stop_after:
                raise KeyboardInterrupt

        fit(model, texts, config, checkpoint=checkpoint, seed=1, report=report)
        return model

    monkeypatch = pytest.MonkeyPatch()
    with monkeypatch.context() as patch:
        patch.setattr("apps.classifier.encoder_training.fitting.SECONDS_PER_CHECKPOINT", -1)
        patch.setattr("apps.classifier.encoder_training.fitting.SECONDS_PER_REPORT", -1)
        torch.manual_seed(0)
        whole = trained(tmp_path / "whole.pt")
        torch.manual_seed(0)
        with pytest.raises(KeyboardInterrupt):
            trained(tmp_path / "parts.pt", stop_after=5)
        resumed = trained(tmp_path / "parts.pt")
    for name, weights in whole.state_dict().items():
        assert torch.allclose(weights, resumed.state_dict()[name], atol=1e-5), name

    export(whole, "{}", tmp_path / "out", max_pieces=16, description={})
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx")
    ids = np.array([[0, 5, 7, 2, 1], [0, 6, 7, 9, 2]], np.int64)
    mask = (ids != 1).astype(np.int64)
    (logits,) = session.run(["logits"], {"input_ids": ids, "attention_mask": mask})
    with torch.inference_mode():
        expected = whole.train(False)(torch.from_numpy(ids), torch.from_numpy(mask)).numpy()
    assert logits.dtype == np.float32
    assert np.abs(logits - expected).max() < 0.2
    assert logits[0, 0] > logits[1, 0]
