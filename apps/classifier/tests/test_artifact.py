import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from apps.classifier.artifact import Artifact, ArtifactError, unpack_arrays
from apps.classifier.labels import LABELS
from apps.classifier.scorer import Scorer
from apps.classifier.training import TwoLevelModel


@pytest.fixture(scope="module")
def artifact(fitted: TwoLevelModel) -> Artifact:
    return fitted.artifact(name="test", dataset_sha256="0" * 64)


def _changed(artifact: Artifact, **facts: object) -> Artifact:
    return Artifact(json.dumps(json.loads(artifact.manifest) | facts).encode(), artifact.weights)


def test_artifact_survives_write_and_read(artifact: Artifact, tmp_path: Path, scorer: Scorer) -> None:
    artifact.write(tmp_path / "model")
    again = Artifact.read(tmp_path / "model")
    assert again == artifact
    loaded = Scorer.load(again, artifact.sha256)
    assert np.array_equal(loaded.score("you are silly"), scorer.score("you are silly"))
    assert loaded.manifest["name"] == "test"
    assert set(loaded.manifest["thresholds"]) == set(LABELS)
    assert len(artifact.manifest) + len(artifact.weights) < 8_000_000


def test_read_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="restore both"):
        Artifact.read(tmp_path)


def test_load_unexpected_sha256(artifact: Artifact) -> None:
    with pytest.raises(ArtifactError, match="as recorded"):
        Scorer.load(artifact, "0" * 64)


@pytest.mark.parametrize("manifest", [b"", b"{", b"[]", b"{}", b"\xff", b'{"format_version": "x"}'])
def test_load_damaged_manifest(artifact: Artifact, manifest: bytes) -> None:
    with pytest.raises(ArtifactError, match="damaged"):
        Scorer.load(Artifact(manifest, artifact.weights))


@pytest.mark.parametrize(
    "change", [lambda w: w[:-1], lambda w: b"", lambda w: w[:99] + b"\0" + w[100:], lambda w: w * 2]
)
def test_load_damaged_weights(artifact: Artifact, change) -> None:
    with pytest.raises(ArtifactError, match="truncated"):
        Scorer.load(Artifact(artifact.manifest, change(artifact.weights)))


def test_load_newer_format(artifact: Artifact) -> None:
    with pytest.raises(ArtifactError, match="update the program"):
        Scorer.load(_changed(artifact, format_version=99))


def test_load_incomplete_manifest(artifact: Artifact) -> None:
    with pytest.raises(ArtifactError, match="lacks"):
        Scorer.load(Artifact(b'{"format_version": 1}', artifact.weights))


def test_load_other_normaliser(artifact: Artifact) -> None:
    with pytest.raises(ArtifactError, match="retrain the model"):
        Scorer.load(_changed(artifact, normaliser={"table_sha256": "other"}))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("node_left", np.array([2**30], np.int32)),
        ("roots", np.array([-5], np.int32)),
        ("weights", np.zeros((3, 8), np.int16)),
        ("scale", np.zeros(6, np.float32)),
        ("bits", np.array([{}], object)),
    ],
)
def test_load_arrays_with_indices_out_of_bounds(fitted: TwoLevelModel, tmp_path: Path, name, value) -> None:
    np.savez(tmp_path / "weights.npz", **unpack_arrays(fitted.arrays) | {name: value})
    weights = (tmp_path / "weights.npz").read_bytes()
    manifest = json.loads(fitted.artifact().manifest) | {
        "weights_sha256": hashlib.sha256(weights).hexdigest()
    }
    with pytest.raises(ArtifactError, match="does not hold a model"):
        Scorer.load(Artifact(json.dumps(manifest).encode(), weights))
