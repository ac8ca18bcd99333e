"""The loaded model is replaced when the champion changes, and kept if loading fails."""

from unittest.mock import patch

import pytest
from django.db import OperationalError

from apps.classifier.artifact import Artifact
from apps.core.permissions import SYSTEM
from apps.registry.actions import BASE_MODEL, promote, register_version
from apps.registry.exceptions import NoModelError
from apps.registry.models import Alias, ModelArtifact, ModelVersion
from apps.registry.serving import ModelServer

pytestmark = [pytest.mark.django_db, pytest.mark.database]


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch, champion: ModelVersion) -> ModelServer:
    """A model server that checks for a new champion on every call."""
    monkeypatch.setattr("apps.registry.serving.CHECK_SECONDS", 0.0)
    return ModelServer()


def _another() -> ModelVersion:
    version = register_version(artifact=Artifact.read(BASE_MODEL), recipe="two_level", metrics={})
    promote(version=version, reason="test", actor=SYSTEM)
    return version


def test_current_after_promotion(model: ModelServer, champion: ModelVersion) -> None:
    assert model.current().version_id == champion.pk
    version = _another()
    assert (model.current().version_id, model.current().number) == (version.pk, version.number)


def test_current_does_not_reload_same_version(model: ModelServer) -> None:
    assert model.current() is model.current()


def test_current_keeps_loaded_model_if_artifact_is_damaged(
    model: ModelServer, champion: ModelVersion, caplog: pytest.LogCaptureFixture
) -> None:
    model.current()
    version = _another()
    stored = ModelArtifact.objects.get(version=version)
    ModelArtifact.objects.filter(version=version).update(weights=bytes(stored.weights)[:-100])
    for _ in range(3):
        assert model.current().version_id == champion.pk
    errors = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert len(errors) == 1
    assert f"v{version.number} was rejected" in errors[0]
    ModelArtifact.objects.filter(version=version).update(weights=stored.weights)
    assert model.current().version_id == version.pk


def test_current_rejects_artifact_with_other_hash(model: ModelServer, champion: ModelVersion) -> None:
    ModelVersion.objects.filter(pk=champion.pk).update(sha256="0" * 64)
    with pytest.raises(NoModelError):
        model.current()


def test_current_keeps_loaded_model_if_database_is_down(model: ModelServer, champion: ModelVersion) -> None:
    model.current()
    with patch.object(ModelVersion.objects, "filter", side_effect=OperationalError):
        assert model.current().version_id == champion.pk


def test_current_without_champion(model: ModelServer) -> None:
    ModelVersion.objects.filter(alias=Alias.CHAMPION).update(alias=None)
    with pytest.raises(NoModelError, match="install_base_model"):
        model.current()
