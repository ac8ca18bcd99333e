"""Damaged and hostile artifacts: each is rejected with an ArtifactError, in bounded memory."""

import hashlib
import io
import json
import tracemalloc
import zipfile
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apps.classifier import artifact as module
from apps.classifier.artifact import Artifact, ArtifactError
from apps.classifier.labels import LABELS
from apps.classifier.scorer import Scorer
from apps.classifier.training import TwoLevelModel

BOUND = 3 * module.MAX_ARRAYS_BYTES


@pytest.fixture(scope="module")
def artifact(fitted: TwoLevelModel) -> Artifact:
    return fitted.artifact(name="test", dataset_sha256="0" * 64)


def arrays(artifact: Artifact) -> dict[str, np.ndarray]:
    with np.load(io.BytesIO(artifact.weights)) as data:
        return dict(data)


def sign(artifact: Artifact, weights: bytes) -> Artifact:
    """Return an artifact whose manifest names the checksum of other weights."""
    manifest = json.loads(artifact.manifest) | {"weights_sha256": hashlib.sha256(weights).hexdigest()}
    return Artifact(json.dumps(manifest).encode(), weights)


def with_arrays(artifact: Artifact, changed: dict[str, np.ndarray]) -> Artifact:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **changed)
    return sign(artifact, buffer.getvalue())


def with_members(artifact: Artifact, changed: dict[str, bytes], kind: int = zipfile.ZIP_DEFLATED) -> Artifact:
    """Replace files in the .npz."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(artifact.weights)) as old, zipfile.ZipFile(buffer, "w", kind) as new:
        for name in old.namelist():
            new.writestr(name, changed.pop(name, None) or old.read(name))
        for name, content in changed.items():
            new.writestr(name, content)
    return sign(artifact, buffer.getvalue())


def header(shape: str, kind: str = "<f8", content: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    text = f"{{'descr': {kind!r}, 'fortran_order': False, 'shape': {shape}, }}"
    size = len(text) + 1
    return b"\x93NUMPY" + version + size.to_bytes(2, "little") + text.encode() + b"\n" + content


def assert_rejected(artifact: Artifact) -> None:
    """Assert that an artifact is rejected, and that this takes little memory."""
    tracemalloc.start()
    try:
        with pytest.raises(ArtifactError):
            Scorer.load(artifact)
        assert tracemalloc.get_traced_memory()[1] < BOUND
    finally:
        tracemalloc.stop()


FLOATS = ["scale", "intercept", "base", "slope", "offset", "node_value"]


@pytest.mark.parametrize("name", [*FLOATS, "node_threshold"])
@pytest.mark.parametrize("value", [np.nan, -np.inf, np.inf, 1e30])
def test_load_array_with_number_that_is_not_finite(artifact: Artifact, name: str, value: float) -> None:
    changed = arrays(artifact)
    if name == "node_threshold" and value > 0:
        pytest.skip("infinity marks a leaf, and any other threshold is allowed")
    changed[name][-1] = value
    assert_rejected(with_arrays(artifact, changed))


@pytest.mark.parametrize("name", sorted(module._ARRAYS))
@pytest.mark.parametrize(
    "change",
    [
        lambda a: a[:-1],
        lambda a: np.concatenate([a, a]),
        lambda a: a[None],
        lambda a: a.astype(np.complex128),
        lambda a: a.astype(np.float16),
        lambda a: a.astype(a.dtype.newbyteorder()),
        lambda a: np.array(7),
        lambda a: a[:0],
        lambda a: a.astype("U8"),
    ],
    ids=["shorter", "longer", "dimension", "complex", "half", "byteorder", "scalar", "empty", "text"],
)
def test_load_array_with_other_shape_or_type(
    artifact: Artifact, name: str, change: Callable[[np.ndarray], np.ndarray]
) -> None:
    changed = arrays(artifact)
    with np.errstate(all="ignore"):
        changed[name] = change(changed[name])
    assert_rejected(with_arrays(artifact, changed))


@pytest.mark.parametrize(
    "content",
    [
        header("(1000000000000,)"),
        header("(6,)", "<f8", b"\0" * 47),
        header("(6,)", "<f8", b"\0" * 49),
        header("(-6,)", "<f8", b"\0" * 48),
        header("(10**9,)"),
        header("(" * 2_000),
        header("(4294967296, 4294967296, 4294967296)"),
        header("(6,)", "|O", b"\0" * 48),
        header("(6,)", "V1000000000"),
        header("(6,)", "<f8", b"\0" * 48, b"\x02\x00"),
        header("(6,)", "<f8", b"\0" * 48, b"\x09\x09"),
        header("(True,)"),
        b"",
        b"\x93NUMPY",
        b"\x93NUMPY\x01\x00\xff\xff{",
        b"\x80\x04N.",
    ],
    ids=range(16),
)
def test_load_array_with_false_header(artifact: Artifact, content: bytes) -> None:
    assert_rejected(with_members(artifact, {"scale.npy": content or b"x"}))


def test_load_archive_bomb(artifact: Artifact) -> None:
    size = 1 << 28
    bomb = header(f"({size // 8},)", content=bytes(size))
    assert_rejected(with_members(artifact, {"scale.npy": bomb}))


@pytest.mark.parametrize("kind", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_load_other_compression(artifact: Artifact, kind: int) -> None:
    assert_rejected(with_members(artifact, {}, kind))


def test_load_unknown_members(artifact: Artifact) -> None:
    assert_rejected(with_members(artifact, {"../evil.npy": b"x"}))
    assert_rejected(with_members(artifact, {f"{number}.npy": b"" for number in range(5_000)}))


def test_load_encrypted_member(artifact: Artifact) -> None:
    weights = bytearray(artifact.weights)
    for signature, offset in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
        position = 0
        while (position := weights.find(signature, position)) >= 0:
            weights[position + offset] |= 1
            position += 4
    assert_rejected(sign(artifact, bytes(weights)))


def test_load_files_that_are_too_large(artifact: Artifact) -> None:
    assert_rejected(Artifact(artifact.manifest + b" " * module.MAX_MANIFEST_BYTES, artifact.weights))
    assert_rejected(sign(artifact, artifact.weights + bytes(module.MAX_WEIGHTS_BYTES)))


def test_load_too_many_trees(artifact: Artifact) -> None:
    changed = arrays(artifact)
    changed["roots"] = np.resize(changed["roots"], module.MAX_TREES + 1)
    changed["tree_end"][-1] = module.MAX_TREES + 1
    assert_rejected(with_arrays(artifact, changed))


VALUES = [None, True, "x", 5, -1, 1.5, [], {}, [1], {"a": 1}, "NaN", 10**400]


@pytest.mark.parametrize("name", module._REQUIRED)
@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_load_manifest_entry_of_other_type(artifact: Artifact, name: str, value: object) -> None:
    assert_rejected(
        Artifact(json.dumps(json.loads(artifact.manifest) | {name: value}).encode(), artifact.weights)
    )


@pytest.mark.parametrize(
    "value", ["NaN", "Infinity", "-Infinity", "1e999", "null", '"0.5"', "true", "-1", "[]"]
)
def test_load_threshold_that_is_not_a_number(artifact: Artifact, value: str) -> None:
    manifest = json.loads(artifact.manifest) | {"thresholds": dict.fromkeys(LABELS, 0.25)}
    assert_rejected(Artifact(json.dumps(manifest).replace("0.25", value).encode(), artifact.weights))


@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
def test_load_deeply_nested_manifest(artifact: Artifact, opening: bytes) -> None:
    assert_rejected(Artifact(opening * 100_000, artifact.weights))
    nested = artifact.manifest.rstrip().removesuffix(b"}") + b', "more": ' + opening * 100_000
    assert_rejected(Artifact(nested, artifact.weights))


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_load_changed_bytes_raises_or_scores(artifact: Artifact, data: st.DataObject) -> None:
    """Flip bytes or cut the weights, with a matching checksum: ArtifactError, or scores that are numbers."""
    weights = bytearray(artifact.weights)
    for _ in range(data.draw(st.integers(1, 4))):
        weights[data.draw(st.integers(0, len(weights) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.one_of(st.none(), st.integers(0, len(weights))))
    try:
        scorer = Scorer.load(sign(artifact, bytes(weights[:cut])))
    except ArtifactError:
        return
    assert np.isfinite(scorer.score("you silly person")).all()
