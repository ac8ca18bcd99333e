"""Data sets of generated and of real comments, and versions that are better or worse than the champion."""

import csv
import gzip
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from django.conf import settings as project

from apps.classifier.artifact import Artifact
from apps.classifier.bias_audit import Sentences, audit_sentences
from apps.classifier.labels import LABELS
from apps.registry import actions as registry
from apps.registry.models import EvaluationArtifact, ModelVersion
from apps.training import actions, gates, report
from apps.training.models import Dataset
from toxicmod.testing.factories import csv_bytes, labeled_rows


@pytest.fixture(autouse=True)
def folders(settings: Any, tmp_path: Path) -> None:
    """Keep what a test stores away from the project's own data."""
    settings.DATA_DIR = tmp_path / "data"


@pytest.fixture(autouse=True)
def few_audited_groups(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Audit two groups in English. Slow tests audit all groups, which takes half a minute."""
    if request.node.get_closest_marker("slow"):
        return
    sentences = audit_sentences()
    rows = [row for row, group in enumerate(sentences.groups) if group in ("gay", "muslim", "")]
    few = Sentences(
        [sentences.texts[row] for row in rows], sentences.toxic[rows], [sentences.groups[row] for row in rows]
    )
    monkeypatch.setattr(gates, "AUDITED_LANGUAGES", ("en",))
    for module in (gates, report):
        monkeypatch.setattr(module, "audit_sentences", lambda language="en": few)


@pytest.fixture
def dataset(db: None, tmp_path: Path) -> Dataset:
    """400 made-up comments, imported."""
    path = tmp_path / "made-up.csv"
    path.write_bytes(csv_bytes(labeled_rows(400)))
    return actions.import_dataset(source=str(path), name="made-up")[0]


@pytest.fixture
def real_csv(tmp_path: Path) -> Path:
    """3,000 rows of the Jigsaw data."""
    source = Path(os.environ.get("JIGSAW_CSV", project.BASE_DIR / "../shared/data/jigsaw/train.csv.gz"))
    if not source.is_file():
        pytest.skip(
            f"NOT TESTED ON REAL COMMENTS: there is no {source}; set JIGSAW_CSV to Jigsaw's train.csv.gz"
        )
    path = tmp_path / "real.csv"
    with gzip.open(source, "rt", newline="") as text, path.open("w", newline="") as out:
        rows = csv.reader(text)
        csv.writer(out).writerows(row for row, _ in zip(rows, range(3001), strict=False))
    return path


def variant(champion: ModelVersion, **arrays: Any) -> Artifact:
    """The champion's model with some arrays changed."""
    manifest, model = champion.modelartifact.artifact().open()
    thresholds = np.array([manifest["thresholds"][label] for label in LABELS])
    return Artifact.build(
        model._replace(**arrays), thresholds, {"metrics": {}, "encoder": manifest["encoder"]}
    )


@pytest.fixture
def reversed_version(champion: ModelVersion) -> ModelVersion:
    """A version that scores polite comments as toxic and toxic ones as polite."""
    slope = champion.modelartifact.artifact().open()[1].slope
    artifact = variant(champion, slope=-slope)
    manifest = json.loads(artifact.manifest)
    del manifest["encoder"]
    manifest["format_version"] = 1
    artifact = Artifact(json.dumps(manifest).encode(), artifact.weights)
    return registry.register_version(artifact=artifact, recipe="two_level", metrics={})


@pytest.fixture
def equal_version(champion: ModelVersion, monkeypatch: pytest.MonkeyPatch) -> ModelVersion:
    """A copy of the champion. No gate fails on calibration, which the generated comments do not test."""
    monkeypatch.setattr(gates, "MAX_CALIBRATION_ERROR", 1.0)
    EvaluationArtifact.objects.filter(version=champion).delete()
    return registry.register_version(artifact=variant(champion), recipe="two_level", metrics={})
