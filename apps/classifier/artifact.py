"""A model as data: arrays and JSON, never code.

`manifest.json` tells what the model is and names the SHA-256 of `weights.npz`; the SHA-256 of the manifest
therefore identifies the whole model.
"""

import hashlib
import io
import json
import math
import struct
import tokenize
import zipfile
import zlib
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


# A model needs a tenth of these. Whatever a file claims, reading it takes no more memory than they allow.
MAX_MANIFEST_BYTES = 1 << 20
MAX_WEIGHTS_BYTES = 1 << 24
MAX_ARRAYS_BYTES = 1 << 26
MAX_TREES = 1 << 14
MAX_VALUE = 1e6  # of any coefficient: sums of them stay finite
_FINITE = ("scale", "intercept", "base", "slope", "offset", "node_value")
_ARRAYS = {"bits", "weights", "roots", "tree_end", *_NODE, *_FINITE}


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
            return cls(
                _read_bounded(folder / MANIFEST, MAX_MANIFEST_BYTES),
                _read_bounded(folder / WEIGHTS, MAX_WEIGHTS_BYTES),
            )
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
        for name, content, most in (
            (MANIFEST, self.manifest, MAX_MANIFEST_BYTES),
            (WEIGHTS, self.weights, MAX_WEIGHTS_BYTES),
        ):
            if len(content) > most:
                raise ArtifactError(f"{name} has more than {most:,} bytes: train anew.")
        try:
            manifest = json.loads(self.manifest, parse_constant=_finite, parse_float=_finite)
            version = manifest["format_version"]
            if type(version) is not int or version < 1:
                raise ValueError("format_version is no positive integer")
        except (ValueError, KeyError, TypeError, RecursionError) as error:
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
        thresholds = manifest["thresholds"]
        if (
            manifest["labels"] != list(LABELS)
            or manifest["features"] != features_settings()
            or manifest["normaliser"] != {"table_sha256": table_sha256()}
            or not isinstance(thresholds, dict)
            or set(thresholds) != set(LABELS)
        ):
            raise ArtifactError(
                "The model was made for other labels, features or normaliser rules: train anew."
            )
        if not all(type(value) in (int, float) and 0 <= value <= MAX_VALUE for value in thresholds.values()):
            raise ArtifactError("A threshold is no number of 0 or more: train anew.")
        try:
            arrays = _read_arrays(self.weights)
            lookup = index_of(arrays["bits"])
            _check(arrays)
            del arrays["bits"]
            nodes = nodes_of(**{name: arrays.pop(name) for name in _NODE})
            model = Model(lookup, nodes=nodes, **arrays)
        except (
            ValueError,
            KeyError,
            TypeError,
            OSError,
            EOFError,
            IndexError,
            OverflowError,
            RecursionError,
            MemoryError,
            RuntimeError,  # an encrypted member
            SyntaxError,  # of an array's header
            tokenize.TokenError,
            struct.error,
            zlib.error,
            zipfile.BadZipFile,
        ) as error:
            raise ArtifactError(f"{WEIGHTS} does not hold a model ({error}): train anew.") from error
        return manifest, model


def _read_bounded(path: Path, most: int) -> bytes:
    """Read a file, or one byte more than `most`: `Artifact.open` refuses that."""
    with path.open("rb") as file:
        return file.read(most + 1)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is no finite number")
    return value


def _read_arrays(weights: bytes) -> dict[str, np.ndarray]:
    """Return the arrays of an .npz file; raise when they are others than a model's, or larger than allowed.

    An array's header may claim any size, for which numpy would allocate memory: it is compared with the bytes
    that are there before the array is read.
    """
    arrays = {}
    with zipfile.ZipFile(io.BytesIO(weights)) as archive:
        members = archive.infolist()
        if sorted(member.filename for member in members) != sorted(f"{name}.npy" for name in _ARRAYS):
            raise ValueError("its arrays are not those of a model")
        if sum(member.file_size for member in members) > MAX_ARRAYS_BYTES:
            raise ValueError(f"its arrays have more than {MAX_ARRAYS_BYTES:,} bytes")
        for member in members:
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError("it is compressed in another way than numpy does")
            file = io.BytesIO(archive.read(member))
            if np.lib.format.read_magic(file) != (1, 0):
                raise ValueError("an array has another format than 1.0")
            shape, _, kind = np.lib.format.read_array_header_1_0(file)
            size = len(file.getbuffer()) - file.tell()
            if kind.hasobject or min(shape, default=0) < 0 or math.prod(shape) * kind.itemsize != size:
                raise ValueError("an array's header does not match its content")
            file.seek(0)
            arrays[member.filename.removesuffix(".npy")] = np.lib.format.read_array(file, allow_pickle=False)
    return arrays


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
    if any(not np.all(np.abs(arrays[name]) <= MAX_VALUE) for name in _FINITE):  # neither is NaN
        raise ValueError("a coefficient is no finite number, or too large")
    if np.any(np.isnan(arrays["node_threshold"]) | np.isneginf(arrays["node_threshold"])):
        raise ValueError("a tree's threshold is no number")
    leaf = np.isposinf(arrays["node_threshold"])
    if (
        trees > MAX_TREES
        or nodes >= 1 << 24
        or int(np.bitwise_count(arrays["bits"]).sum()) != features
        or np.any((roots < 0) | (roots >= nodes))
        or np.any(np.diff(tree_end, prepend=0) < 0)
        or tree_end[-1] != trees
        or np.any((wanted < 0) | (wanted >= len(INPUTS)))
        or np.any(left[leaf] != np.flatnonzero(leaf))
        or np.any((left[~leaf] < 0) | (left[~leaf] >= nodes - 1))
    ):
        raise ValueError("an index is out of bounds")
    node = np.repeat(roots[:, None], 2**DEPTH, axis=1)
    for step in range(DEPTH):
        node = left[node] + ((np.arange(2**DEPTH) >> step & 1) & ~leaf[node])
    if trees and not leaf[node].all():
        raise ValueError(f"a tree is deeper than {DEPTH}")
