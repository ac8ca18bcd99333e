"""A model as data: arrays and JSON, never code.

`manifest.json` tells what the model is and names the SHA-256 of `weights.npz`; the SHA-256 of the manifest
therefore identifies the whole model.
"""

import hashlib
import io
import json
import zipfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np

from .kernels import DEPTH, HASH_BITS, INPUTS, LABEL_COUNT, Model
from .labels import LABELS
from .normalise import table_sha256

FORMAT_VERSION = 1
MANIFEST, WEIGHTS = "manifest.json", "weights.npz"
_NODE = {"node_input": np.int32, "node_threshold": np.float32, "node_left": np.int32}
_REQUIRED = ("format_version", "labels", "weights_sha256", "thresholds", "normaliser", "features")


class ArtifactError(ValueError):
    """A model that cannot be used; the message is one sentence that says why and what to do."""


@dataclass(frozen=True)
class Artifact:
    """The exact bytes of a model's two files."""

    manifest: bytes
    weights: bytes

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read both files from `folder`; raises ArtifactError when one is missing or unreadable."""
        try:
            return cls((folder / MANIFEST).read_bytes(), (folder / WEIGHTS).read_bytes())
        except OSError as error:
            raise ArtifactError(
                f"The model in {folder} cannot be read ({error.strerror}): "
                f"restore both {MANIFEST} and {WEIGHTS}."
            ) from error

    def write(self, folder: Path) -> None:
        """Write both files into `folder`, which is made when it does not exist."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / WEIGHTS).write_bytes(self.weights)
        (folder / MANIFEST).write_bytes(self.manifest)

    @cached_property
    def sha256(self) -> str:
        """Hexadecimal digest of the manifest, which holds that of the weights."""
        return hashlib.sha256(self.manifest).hexdigest()

    @classmethod
    def build(cls, model: Model, thresholds: np.ndarray, facts: dict[str, Any]) -> Self:
        """Pack a model. `facts` join the manifest: metrics, data set hash, commit, versions, time."""
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays_of(model))  # type: ignore[arg-type]  # numpy's own stub
        weights = buffer.getvalue()
        manifest = facts | {
            "format_version": FORMAT_VERSION,
            "labels": LABELS,
            "weights_sha256": hashlib.sha256(weights).hexdigest(),
            "normaliser": {"table_sha256": table_sha256()},
            "features": features_settings(),
            "calibration": {"slope": model.slope.tolist(), "offset": model.offset.tolist()},
            "thresholds": dict(zip(LABELS, np.asarray(thresholds, float).tolist(), strict=True)),
        }
        return cls(json.dumps(manifest, indent=1, sort_keys=True, allow_nan=False).encode(), weights)

    def open(self, expected_sha256: str | None = None) -> tuple[dict[str, Any], Model]:
        """The manifest and the model; raises ArtifactError when anything is not as it must be."""
        if expected_sha256 is not None and self.sha256 != expected_sha256:
            raise ArtifactError(
                f"The model's SHA-256 is {self.sha256}, not {expected_sha256} as recorded: "
                "fetch the artifact again or register it anew."
            )
        try:
            manifest = json.loads(self.manifest)
            version = int(manifest["format_version"])
        except (ValueError, KeyError, TypeError) as error:
            raise ArtifactError(f"{MANIFEST} is damaged: fetch the artifact again or train anew.") from error
        if version > FORMAT_VERSION:
            raise ArtifactError(
                f"The model has format {version}, "
                f"this program reads up to {FORMAT_VERSION}: update the program."
            )
        missing = [name for name in _REQUIRED if name not in manifest]
        if missing:
            raise ArtifactError(
                f"{MANIFEST} lacks {', '.join(missing)}: fetch the artifact again or train anew."
            )
        if hashlib.sha256(self.weights).hexdigest() != manifest["weights_sha256"]:
            raise ArtifactError(
                f"{WEIGHTS} is damaged or truncated (its SHA-256 is not the manifest's): "
                "fetch the artifact again."
            )
        if (
            tuple(manifest["labels"]) != LABELS
            or manifest["features"] != features_settings()
            or manifest["normaliser"] != {"table_sha256": table_sha256()}
            or set(manifest["thresholds"]) != set(LABELS)
        ):
            raise ArtifactError(
                "The model was made for other labels, features or normaliser rules: train anew."
            )
        try:
            with np.load(io.BytesIO(self.weights), allow_pickle=False) as data:
                arrays = {name: data[name] for name in data.files}
            lookup = index_of(arrays["bits"])
            _check(arrays)
            del arrays["bits"]
            nodes = nodes_of(**{name: arrays.pop(name) for name in _NODE})
            model = Model(lookup, nodes=nodes, **arrays)
        except (ValueError, KeyError, TypeError, OSError, EOFError, IndexError, zipfile.BadZipFile) as error:
            raise ArtifactError(f"{WEIGHTS} does not hold a model ({error}): train anew.") from error
        return manifest, model


def features_settings() -> dict[str, Any]:
    """What a score depends on beside the arrays; a model made under other settings is refused."""
    return {"hash_bits": HASH_BITS, "inputs": list(INPUTS)}


def index_of(bits: np.ndarray) -> np.ndarray:
    """`Model.lookup` of a bitmap of live hash slots, (2**22 / 32,) uint32."""
    if bits.shape != (1 << HASH_BITS - 5,) or bits.dtype != np.uint32:
        raise ValueError(f"bits is {bits.dtype}{bits.shape}")
    counts = np.bitwise_count(bits)
    before = np.concatenate([np.zeros(1, np.uint32), np.cumsum(counts[:-1], dtype=np.uint32)])
    return np.column_stack([bits, before])


def nodes_of(node_input: np.ndarray, node_threshold: np.ndarray, node_left: np.ndarray) -> np.ndarray:
    """`Model.nodes` of each node's input to compare, threshold and left child.

    A larger input goes right, to the left child's neighbour. A leaf's threshold is inf, its left child
    itself. Packed, a step down costs one cache line: (nodes, 2) uint32, the threshold's bits, then
    left * 256 + input.
    """
    left, wanted = node_left.astype(np.uint32), node_input.astype(np.uint32)
    return np.column_stack([node_threshold.astype(np.float32).view(np.uint32), left << 8 | wanted])


def arrays_of(model: Model) -> dict[str, np.ndarray]:
    """A model's arrays as they are kept in a file."""
    arrays = model._asdict()
    nodes = arrays.pop("nodes")
    unpacked = (nodes[:, 1] & 255, nodes[:, 0].copy().view(np.float32), nodes[:, 1] >> 8)
    arrays |= {name: array.astype(kind) for (name, kind), array in zip(_NODE.items(), unpacked, strict=True)}
    return arrays | {"bits": arrays.pop("lookup")[:, 0]}


def _check(arrays: dict[str, np.ndarray]) -> None:
    """Raise ValueError unless every index the compiled code will follow is in bounds."""
    features, nodes, trees = (len(arrays[name]) for name in ("weights", "node_left", "roots"))
    shapes = {
        "weights": ((features, 8), np.int16),
        "roots": ((trees,), np.int32), "tree_end": ((LABEL_COUNT,), np.int32),
        **{name: ((nodes,), kind) for name, kind in _NODE.items()}, "node_value": ((nodes,), np.float64),
        **dict.fromkeys(("scale", "intercept", "base", "slope", "offset"), ((LABEL_COUNT,), np.float64)),
    }  # fmt: skip
    for name, (shape, kind) in shapes.items():
        array = arrays[name]
        if array.shape != shape or array.dtype != kind:
            raise ValueError(f"{name} is {array.dtype}{array.shape}")
    roots, tree_end, left, wanted = (
        arrays[name] for name in ("roots", "tree_end", "node_left", "node_input")
    )
    leaf = np.isposinf(arrays["node_threshold"])
    if (
        nodes >= 1 << 24
        or int(np.bitwise_count(arrays["bits"]).sum()) != features
        or np.any((roots < 0) | (roots >= nodes))
        or np.any(np.diff(tree_end, prepend=0) < 0)
        or tree_end[-1] != trees
        or np.any((wanted < 0) | (wanted >= len(INPUTS)))
        or np.any(left[leaf] != np.flatnonzero(leaf))
        or np.any((left[~leaf] < 0) | (left[~leaf] + 1 >= nodes))
    ):
        raise ValueError("an index is out of bounds")
    node = np.repeat(roots[:, None], 2**DEPTH, axis=1)
    for step in range(DEPTH):
        node = left[node] + ((np.arange(2**DEPTH) >> step & 1) & ~leaf[node])
    if trees and not leaf[node].all():
        raise ValueError(f"a tree is deeper than {DEPTH}")
