"""Registration, promotion, rollback and export of versions."""

from pathlib import Path

import pytest
from django.core.management import CommandError, call_command
from django.db import IntegrityError, transaction

from apps.classifier.artifact import Artifact, ArtifactError
from apps.core.models import AppendOnlyError
from apps.core.permissions import SYSTEM
from apps.registry import actions, serving, tracking
from apps.registry.actions import RegistryError
from apps.registry.models import Alias, ModelArtifact, ModelVersion, Promotion
from toxicmod.testing.factories import promote_version, register_copy

pytestmark = pytest.mark.django_db


def aliases() -> dict[str, int]:
    return dict(ModelVersion.objects.exclude(alias=None).values_list("alias", "number"))


@pytest.mark.database
def test_promote_moves_aliases_and_creates_promotion(champion: ModelVersion) -> None:
    version = register_copy(champion)
    assert aliases() == {"champion": champion.number, "challenger": version.number}
    promotion = promote_version(version)
    assert aliases() == {"champion": version.number, "previous": champion.number}
    assert (promotion.version, promotion.replaced, promotion.actor) == (version, champion, "ann")
    assert serving.ModelServer().current().number == version.number


@pytest.mark.database
def test_rollback_twice(champion: ModelVersion) -> None:
    version = register_copy(champion)
    promote_version(version)
    before = Promotion.objects.count()
    for expected in (champion, version):
        promotion = actions.rollback(reason="too many false alarms", actor=SYSTEM)
        assert (promotion.kind, promotion.version) == (Promotion.Kind.ROLLBACK, expected)
    assert Promotion.objects.count() == before + 2


def test_register_version_replaces_challenger(champion: ModelVersion) -> None:
    register_copy(champion)
    newer = register_copy(champion, "newer")
    assert aliases() == {"champion": champion.number, "challenger": newer.number}


def test_promote_rejects_invalid_requests(champion: ModelVersion) -> None:
    version = register_copy(champion)
    before = aliases(), Promotion.objects.count()
    failed = [{"name": "mean ROC-AUC", "figure": 0.9, "bound": 0.95, "passed": False}]
    for message, options in {
        "Give a reason": {"reason": " "},
        "fails its gates: mean ROC-AUC": {"gates": failed},
    }.items():
        with pytest.raises(RegistryError, match=message):
            promote_version(version, **options)
    with pytest.raises(RegistryError, match="is the champion already"):
        promote_version(champion)
    with pytest.raises(RegistryError, match="no previous champion"):
        actions.rollback(reason="back", actor=SYSTEM)
    assert (aliases(), Promotion.objects.count()) == before
    promotion = promote_version(version, gates=failed, force=True)
    assert promotion.forced
    assert promotion.gates == failed


@pytest.mark.parametrize("part", ["manifest", "weights"])
def test_promote_rejects_damaged_artifact(champion: ModelVersion, part: str) -> None:
    version = register_copy(champion)
    stored = ModelArtifact.objects.get(version=version)
    setattr(stored, part, bytes(getattr(stored, part))[:-100])
    stored.save()
    with pytest.raises(ArtifactError):
        promote_version(version)
    assert aliases()["champion"] == champion.number
    # Even if the damaged version is the champion, the server keeps the model that it has loaded.
    model = serving.ModelServer()
    model.current()
    ModelVersion.objects.filter(pk=champion.pk).update(alias=None)
    ModelVersion.objects.filter(pk=version.pk).update(alias=Alias.CHAMPION)
    model._checked = float("-inf")
    assert model.current().number == champion.number


def test_register_version_rejects_damaged_artifact(champion: ModelVersion) -> None:
    artifact = champion.modelartifact.artifact()
    before = ModelVersion.objects.count()
    with pytest.raises(ArtifactError):
        actions.register_version(
            artifact=Artifact(artifact.manifest, artifact.weights[:-9]), recipe="two_level", metrics={}
        )
    assert ModelVersion.objects.count() == before


@pytest.mark.database
def test_database_rejects_second_champion(champion: ModelVersion) -> None:
    version = register_copy(champion)
    with pytest.raises(IntegrityError), transaction.atomic():
        ModelVersion.objects.filter(pk=version.pk).update(alias=Alias.CHAMPION)


def test_promotion_rejects_changes(champion: ModelVersion) -> None:
    promotion = promote_version(register_copy(champion))
    promotion.reason = "other"
    for change in (
        promotion.save,
        promotion.delete,
        Promotion.objects.all().delete,
        lambda: Promotion.objects.update(reason="other"),
    ):
        with pytest.raises(AppendOnlyError):
            change()


def test_install_base_model_twice(champion: ModelVersion) -> None:
    assert actions.install_base_model() is None
    call_command("install_base_model")
    assert ModelVersion.objects.count() == 1


def test_named_finds_number_and_alias(champion: ModelVersion) -> None:
    for name in (str(champion.number), f"v{champion.number}", f"V{champion.number}", "champion"):
        assert ModelVersion.objects.named(name) == champion
    for name in ("v99", "challenger", "", "v", "9" * 40):
        assert ModelVersion.objects.named(name) is None


def test_registry_commands(
    champion: ModelVersion,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    synced: list[bool] = []
    monkeypatch.setattr(tracking, "sync", lambda: synced.append(True))
    version = register_copy(champion)
    promote_version(version)

    call_command("list_models")
    header, newest, _ = capsys.readouterr().out.splitlines()
    assert header.split()[:3] == ["version", "alias", "recipe"]
    assert newest.split()[:3] == [str(version), "champion", "two_level"]

    call_command("rollback_model", reason="too strict")
    assert f"{champion} is the champion again, in place of {version}" in capsys.readouterr().out
    assert synced

    call_command("export_model", "champion", tmp_path / "out")
    assert Artifact.read(tmp_path / "out").sha256 == champion.sha256
    assert (tmp_path / "out/MODEL_CARD.md").read_text() == champion.card
    with pytest.raises(CommandError, match="There is no model version v99: see"):
        call_command("export_model", "v99", tmp_path)
    with pytest.raises(CommandError, match="Give a reason"):
        call_command("rollback_model", reason="")


def test_list_models_without_any(db: None, capsys: pytest.CaptureFixture[str]) -> None:
    ModelArtifact.objects.all().delete()
    Promotion.objects.all()._raw_delete("default")
    ModelVersion.objects.all().delete()
    call_command("list_models")
    assert "run install_base_model or train_model" in capsys.readouterr().out
