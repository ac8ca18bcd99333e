"""The files of a model: arrays and JSON, never code.

`manifest.json` describes the model and contains the SHA-256 of `weights.npz`; the SHA-256 of the manifest
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

from .kernels.layout import LABEL_COUNT, STACKING_NAMES, ScorerArrays
from .kernels.ngrams import HASH_BITS
from .kernels.scoring import MAX_DEPTH
from .labels import LABELS
from .normalise import table_sha256

# Models with an encoder have format 3, others 1. There was no format 2.
FORMAT_VERSION = 3
MANIFEST, WEIGHTS = "manifest.json", "weights.npz"
_NODE_ARRAYS = {"node_input": np.int32, "node_threshold": np.float32, "node_left": np.int32}
_REQUIRED = ("format_version", "labels", "weights_sha256", "thresholds", "normaliser", "features")

# Limits on what a file may contain, so that reading a hostile one takes little memory. A model needs a tenth.
MAX_MANIFEST_BYTES = 1 << 20
MAX_WEIGHTS_BYTES = 1 << 24
MAX_ARRAYS_BYTES = 1 << 26
MAX_TREES = 1 << 14
MAX_VALUE = 1e6  # the largest coefficient, so that sums stay finite
_FINITE = ("scale", "intercept", "base", "slope", "offset", "node_value")
_ARRAYS = {"bits", "weights", "roots", "tree_end", *_NODE_ARRAYS, *_FINITE}


class ArtifactError(ValueError):
    """The model cannot be used; the message is one sentence with the reason and what to do."""


@dataclass(frozen=True)
class Artifact:
    """The exact bytes of a model's two files."""

    manifest: bytes
    weights: bytes

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read both files from `folder`.

        Raises:
            ArtifactError: A file is missing or unreadable.
        """
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
        """Write both files into `folder`, which is created if it does not exist."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / WEIGHTS).write_bytes(self.weights)
        (folder / MANIFEST).write_bytes(self.manifest)

    @cached_property
    def sha256(self) -> str:
        """Hexadecimal digest of the manifest, which contains the digest of the weights."""
        return hashlib.sha256(self.manifest).hexdigest()

    @classmethod
    def build(cls, model: ScorerArrays, thresholds: np.ndarray, metadata: dict[str, Any]) -> Self:
        """Pack a model.

        Args:
            thresholds: (labels,) probability from which each label is given.
            metadata: Further entries of the manifest: metrics, hash of the data set, commit, versions, time.
        """
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **unpack_arrays(model))  # type: ignore[arg-type]  # numpy's own stub
        weights = buffer.getvalue()
        manifest = metadata | {
            "format_version": FORMAT_VERSION if "encoder" in metadata else 1,
            "labels": LABELS,
            "weights_sha256": hashlib.sha256(weights).hexdigest(),
            "normaliser": {"table_sha256": table_sha256()},
            "features": feature_settings(),
            "calibration": {"slope": model.slope.tolist(), "offset": model.offset.tolist()},
            "thresholds": dict(zip(LABELS, np.asarray(thresholds, float).tolist(), strict=True)),
        }
        return cls(json.dumps(manifest, indent=1, sort_keys=True, allow_nan=False).encode(), weights)

    def open(self, expected_sha256: str | None = None) -> tuple[dict[str, Any], ScorerArrays]:
        """Validate both files and return the manifest and the model.

        Raises:
            ArtifactError: A file is damaged, too large or made for other labels, features or rules, or the
                digest is not the expected one.
        """
        if expected_sha256 is not None and self.sha256 != expected_sha256:
            raise ArtifactError(
                f"The model's SHA-256 is {self.sha256}, not {expected_sha256} as recorded: "
                "fetch the artifact again or register it again."
            )
        for name, content, limit in (
            (MANIFEST, self.manifest, MAX_MANIFEST_BYTES),
            (WEIGHTS, self.weights, MAX_WEIGHTS_BYTES),
        ):
            if len(content) > limit:
                raise ArtifactError(f"{name} has more than {limit:,} bytes: retrain the model.")
        manifest = self._read_manifest()
        try:
            arrays = _read_arrays(self.weights)
            lookup = build_lookup(arrays["bits"])
            _check_arrays(arrays)
            del arrays["bits"]
            nodes = pack_nodes(**{name: arrays.pop(name) for name in _NODE_ARRAYS})
            model = ScorerArrays(lookup, nodes=nodes, **arrays)
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
            raise ArtifactError(f"{WEIGHTS} does not hold a model ({error}): retrain the model.") from error
        return manifest, model

    def _read_manifest(self) -> dict[str, Any]:
        try:
            manifest = json.loads(self.manifest, parse_constant=_parse_finite, parse_float=_parse_finite)
            version = manifest["format_version"]
            if type(version) is not int or version < 1:
                raise ValueError("format_version is not a positive integer")
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ArtifactError(
                f"{MANIFEST} is damaged: fetch the artifact again or retrain the model."
            ) from error
        if version > FORMAT_VERSION:
            raise ArtifactError(
                f"The model has format {version}, "
                f"this program reads up to {FORMAT_VERSION}: update the program."
            )
        missing = [name for name in _REQUIRED if name not in manifest]
        if missing:
            raise ArtifactError(
                f"{MANIFEST} lacks {', '.join(missing)}: fetch the artifact again or retrain the model."
            )
        if hashlib.sha256(self.weights).hexdigest() != manifest["weights_sha256"]:
            raise ArtifactError(
                f"{WEIGHTS} is damaged or truncated (its SHA-256 is not the manifest's): "
                "fetch the artifact again."
            )
        thresholds = manifest["thresholds"]
        if (
            manifest["labels"] != list(LABELS)
            or manifest["features"] != feature_settings()
            or manifest["normaliser"] != {"table_sha256": table_sha256()}
            or not isinstance(thresholds, dict)
            or set(thresholds) != set(LABELS)
        ):
            raise ArtifactError(
                "The model was made for other labels, features or normaliser rules: retrain the model."
            )
        if not all(type(value) in (int, float) and 0 <= value <= MAX_VALUE for value in thresholds.values()):
            raise ArtifactError("A threshold is not a number of 0 or more: retrain the model.")
        if "encoder" in manifest:
            _check_encoder(manifest["encoder"])
        return manifest


def _check_encoder(encoder: Any) -> None:
    """Raise ArtifactError unless the manifest's entry has the weights of a `reading.Head`."""
    try:
        weights = np.array([encoder["head"][label] for label in LABELS], np.float64)
        is_valid = (
            set(encoder) == {"sha256", "head", "read_from"}
            and isinstance(encoder["sha256"], str)
            and weights.shape == (LABEL_COUNT, 3)
            and bool(np.all(np.abs(weights) <= MAX_VALUE))
            and type(encoder["read_from"]) in (int, float)
            and 0 <= encoder["read_from"] <= 1
        )
    except (KeyError, TypeError, ValueError, OverflowError):
        is_valid = False
    if not is_valid:
        raise ArtifactError("The weights of the encoder are damaged: retrain the model.")


def _read_bounded(path: Path, limit: int) -> bytes:
    """Read at most one byte more than `limit`, so that `Artifact.open` rejects a larger file."""
    with path.open("rb") as file:
        return file.read(limit + 1)


def _parse_finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is not a finite number")
    return value


def _read_arrays(weights: bytes) -> dict[str, np.ndarray]:
    """Return the arrays of an .npz file that holds exactly a model's arrays, within the size limits.

    The size that an array's header claims is compared with the bytes of the member before numpy allocates
    memory for it.
    """
    arrays = {}
    with zipfile.ZipFile(io.BytesIO(weights)) as archive:
        members = archive.infolist()
        if sorted(member.filename for member in members) != sorted(f"{name}.npy" for name in _ARRAYS):
            raise ValueError("its members are not the arrays of a model")
        if sum(member.file_size for member in members) > MAX_ARRAYS_BYTES:
            raise ValueError(f"its arrays have more than {MAX_ARRAYS_BYTES:,} bytes")
        for member in members:
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError("its compression is not one that numpy writes")
            file = io.BytesIO(archive.read(member))
            if np.lib.format.read_magic(file) != (1, 0):
                raise ValueError("an array's format is not 1.0")
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)
            size = len(file.getbuffer()) - file.tell()
            if dtype.hasobject or min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != size:
                raise ValueError("an array's header does not match its content")
            file.seek(0)
            arrays[member.filename.removesuffix(".npy")] = np.lib.format.read_array(file, allow_pickle=False)
    return arrays


def feature_settings() -> dict[str, Any]:
    """Return the settings besides the arrays that a score depends on; a model is valid for these only."""
    return {"hash_bits": HASH_BITS, "inputs": list(STACKING_NAMES)}


def build_lookup(bits: np.ndarray) -> np.ndarray:
    """Return `ScorerArrays.lookup` for a bitmap of the hash slots with a feature, (2**22 / 32,) uint32."""
    if bits.shape != (1 << HASH_BITS - 5,) or bits.dtype != np.uint32:
        raise ValueError(f"bits is {bits.dtype}{bits.shape}")
    counts = np.bitwise_count(bits)
    before = np.concatenate([np.zeros(1, np.uint32), np.cumsum(counts[:-1], dtype=np.uint32)])
    return np.column_stack([bits, before])


def pack_nodes(node_input: np.ndarray, node_threshold: np.ndarray, node_left: np.ndarray) -> np.ndarray:
    """Return `ScorerArrays.nodes`, (nodes, 2) uint32: the bits of the threshold, then left * 256 + input.

    Packed, a node is in one cache line.

    Args:
        node_input: Column of the input to compare.
        node_threshold: Larger inputs go to the right child; infinity for a leaf.
        node_left: Left child, whose neighbour is the right child; a leaf is its own left child.
    """
    left, column = node_left.astype(np.uint32), node_input.astype(np.uint32)
    return np.column_stack([node_threshold.astype(np.float32).view(np.uint32), left << 8 | column])


def unpack_arrays(model: ScorerArrays) -> dict[str, np.ndarray]:
    """Return a model's arrays as a file holds them."""
    arrays = model._asdict()
    nodes = arrays.pop("nodes")
    unpacked = (nodes[:, 1] & 255, nodes[:, 0].copy().view(np.float32), nodes[:, 1] >> 8)
    arrays |= {
        name: array.astype(dtype) for (name, dtype), array in zip(_NODE_ARRAYS.items(), unpacked, strict=True)
    }
    return arrays | {"bits": arrays.pop("lookup")[:, 0]}


def _check_arrays(arrays: dict[str, np.ndarray]) -> None:
    """Raise ValueError unless every index that the compiled code follows is in bounds."""
    features, nodes, trees = (len(arrays[name]) for name in ("weights", "node_left", "roots"))
    expected_arrays = {
        "weights": ((features, 8), np.int16),
        "roots": ((trees,), np.int32), "tree_end": ((LABEL_COUNT,), np.int32),
        **{name: ((nodes,), dtype) for name, dtype in _NODE_ARRAYS.items()},
        "node_value": ((nodes,), np.float64),
        **dict.fromkeys(("scale", "intercept", "base", "slope", "offset"), ((LABEL_COUNT,), np.float64)),
    }  # fmt: skip
    for name, (shape, dtype) in expected_arrays.items():
        array = arrays[name]
        if array.shape != shape or array.dtype != dtype:
            raise ValueError(f"{name} is {array.dtype}{array.shape}")
    roots, tree_end, left, column = (
        arrays[name] for name in ("roots", "tree_end", "node_left", "node_input")
    )
    if any(not np.all(np.abs(arrays[name]) <= MAX_VALUE) for name in _FINITE):  # false for NaN
        raise ValueError("a coefficient is not a finite number, or too large")
    if np.any(np.isnan(arrays["node_threshold"]) | np.isneginf(arrays["node_threshold"])):
        raise ValueError("a tree's threshold is not a number")
    leaf = np.isposinf(arrays["node_threshold"])
    if (
        trees > MAX_TREES
        or nodes >= 1 << 24
        or int(np.bitwise_count(arrays["bits"]).sum()) != features
        or np.any((roots < 0) | (roots >= nodes))
        or np.any(np.diff(tree_end, prepend=0) < 0)
        or tree_end[-1] != trees
        or np.any((column < 0) | (column >= len(STACKING_NAMES)))
        or np.any(left[leaf] != np.flatnonzero(leaf))
        or np.any((left[~leaf] < 0) | (left[~leaf] >= nodes - 1))
    ):
        raise ValueError("an index is out of bounds")
    node = np.repeat(roots[:, None], 2**MAX_DEPTH, axis=1)
    for step in range(MAX_DEPTH):
        node = left[node] + ((np.arange(2**MAX_DEPTH) >> step & 1) & ~leaf[node])
    if trees and not leaf[node].all():
        raise ValueError(f"a tree is deeper than {MAX_DEPTH}")
