"""Writes an encoder as ONNX with weights of few bits, its tokenizer and a manifest with their SHA-256."""

import copy
import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic
from transformers import BertConfig, BertModel

from apps.classifier.encoder import FORMAT, GRAPH, MANIFEST, OTHER_LANGUAGES, TOKENIZER
from apps.classifier.labels import LABELS

from .network import Encoder

OPSET = 20  # the first with an operator for GELU
# What `restore` needs to know of BERT's configuration, besides the sizes that the manifest contains anyway.
ARCHITECTURE = (
    "hidden_size", "num_attention_heads", "intermediate_size", "hidden_act", "layer_norm_eps",
    "type_vocab_size",
)  # fmt: skip
# The word embeddings have 4 bits a weight and a scale for so many weights of a piece.
EMBEDDING_BLOCK = 32


def export(
    model: Encoder,
    tokenizer: str,
    folder: Path,
    *,
    max_pieces: int,
    description: dict[str, Any],
) -> None:
    """Write `model.onnx`, `tokenizer.json` and `manifest.json`, without calibration.

    The graph has the inputs `input_ids` and `attention_mask`, int64 of (texts, pieces), and the output
    `logits`, float32 of (texts, labels). Matrices have 7 bits a weight and a scale per column, word
    embeddings 4 bits and a scale per block.

    Args:
        tokenizer: the content of `tokenizer.json`.
        folder: is created if it does not exist.
        max_pieces: the most pieces of a text that the encoder reads.
        description: what the manifest says besides the files: settings, data and figures.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        plain, quantised = Path(name) / "plain.onnx", Path(name) / "quantised.onnx"
        _export_plain(model, plain, max_pieces)
        quantize_dynamic(
            plain,
            quantised,
            per_channel=True,
            # Without it, processors without VNNI instructions overflow: they add two products in 16 bits.
            reduce_range=True,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=["MatMul", "Gemm"],
        )
        graph = onnx.load(quantised)
    _quantise_embedding(graph, model.body.embeddings.word_embeddings.weight.detach().cpu().numpy())
    (folder / GRAPH).write_bytes(graph.SerializeToString())
    (folder / TOKENIZER).write_text(tokenizer)
    manifest = {
        "format": FORMAT,
        "labels": list(LABELS),
        "max_pieces": max_pieces,
        "architecture": {name: getattr(model.body.config, name) for name in ARCHITECTURE},
        "files": {name: _describe(folder / name) for name in (GRAPH, TOKENIZER)},
        "languages": {},
        "calibration": {OTHER_LANGUAGES: {label: [1.0, 0.0] for label in LABELS}},
        **description,
    }
    write_manifest(folder, manifest)


def restore(folder: Path, dropout: float) -> Encoder:
    """Return the network of an exported encoder, to train it further. Its weights have few bits at first."""
    manifest = json.loads((folder / MANIFEST).read_text())
    graph = onnx.load(folder / GRAPH).graph
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    state = {name: tensor for name, tensor in tensors.items() if name.startswith(("body.", "head."))}
    users = {name: node for node in graph.node for name in node.input}
    for product in [node for node in graph.node if node.op_type == "MatMulInteger"]:
        node = product
        while node.op_type != "Add":  # of the bias
            node = users[node.output[0]]
        (bias,) = state.keys() & set(node.input)
        name = product.input[1].removesuffix("_quantized")
        levels = tensors[product.input[1]].astype(np.float32) - tensors[product.input[3]]
        state[bias.removesuffix("bias") + "weight"] = (levels * tensors[f"{name}_scale"]).T
    scales = tensors["word_scales"]
    words = tensors["words"].astype(np.float32).reshape(*scales.shape, EMBEDDING_BLOCK) * scales[..., None]
    words = words.reshape(len(words), -1)
    state["body.embeddings.word_embeddings.weight"] = words
    config = BertConfig(
        vocab_size=len(words),
        num_hidden_layers=len(manifest["config"]["layers"]),
        max_position_embeddings=manifest["max_pieces"],
        **manifest["architecture"],
    )
    model = Encoder(BertModel(config, add_pooling_layer=False), dropout)
    model.load_state_dict({name: torch.from_numpy(np.array(state[name])) for name in model.state_dict()})
    return model


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Write the manifest of exported files."""
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")


def _describe(path: Path) -> dict[str, Any]:
    data = path.read_bytes()
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def _export_plain(model: Encoder, path: Path, max_pieces: int) -> None:
    model = copy.deepcopy(model).train(False).cpu()
    embeddings = model.body.embeddings
    positions = embeddings.position_embeddings.weight.data[:max_pieces].clone()
    embeddings.position_embeddings = torch.nn.Embedding.from_pretrained(positions)
    embeddings.position_ids = embeddings.position_ids[:, :max_pieces]
    embeddings.token_type_ids = embeddings.token_type_ids[:, :max_pieces]
    model.body.set_attn_implementation("eager")
    ids = torch.tensor([[0, 5, 6, 7, 2], [0, 8, 2, 1, 1]])
    texts, pieces = torch.export.Dim("texts"), torch.export.Dim("pieces", max=max_pieces)
    program = torch.onnx.export(
        model,
        (ids, (ids != 1).long()),
        dynamo=True,
        opset_version=OPSET,
        input_names=["input_ids", "attention_mask"],
        output_names=["logits"],
        dynamic_shapes=({0: texts, 1: pieces}, {0: texts, 1: pieces}),
        verbose=False,
    )
    assert program is not None
    program.save(path)


def _quantise_embedding(graph: onnx.ModelProto, words: np.ndarray) -> None:
    """Replace the matrix of word embeddings and the node that reads it by ONNX Runtime's 4-bit operator."""
    matrices = [tensor for tensor in graph.graph.initializer if tuple(tensor.dims) == words.shape]
    (matrix,) = matrices
    (node,) = [node for node in graph.graph.node if matrix.name in node.input]
    blocks = words.reshape(len(words), -1, EMBEDDING_BLOCK)
    # The value of the largest magnitude becomes -8, so that 4 bits are used in full.
    largest = np.take_along_axis(blocks, np.abs(blocks).argmax(2)[..., None], 2)
    scales = (largest / -8).astype(np.float32)
    inverse = np.divide(1, scales, out=np.zeros_like(scales), where=scales != 0)
    levels = (np.clip(np.rint(blocks * inverse), -8, 7).astype(np.int8) & 15).astype(np.uint8)
    levels = levels.reshape(len(words), -1)
    packed = TensorProto(
        name="words",
        data_type=TensorProto.INT4,
        dims=words.shape,
        raw_data=(levels[:, ::2] | levels[:, 1::2] << 4).tobytes(),
    )
    node.CopyFrom(
        helper.make_node(
            "GatherBlockQuantized",
            ["words", node.input[1], "word_scales"],
            list(node.output),
            name=node.name,
            domain="com.microsoft",
            block_size=EMBEDDING_BLOCK,
            gather_axis=0,
            quantize_axis=1,
        )
    )
    graph.graph.initializer.remove(matrix)
    graph.graph.initializer.extend(
        [packed, numpy_helper.from_array(scales.reshape(len(words), -1), "word_scales")]
    )
    if not any(opset.domain == "com.microsoft" for opset in graph.opset_import):
        graph.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    graph.ir_version = max(graph.ir_version, 10)
