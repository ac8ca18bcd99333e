"""Training: evaluation, MLflow, registration, errors."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from celery import Task
from django.core.management import CommandError, call_command

from apps.classifier.config import TrainingConfig
from apps.classifier.labels import LABELS
from apps.classifier.scorer import Scorer
from apps.core.permissions import SYSTEM
from apps.registry import tracking
from apps.registry.models import Alias, EvaluationArtifact, ModelVersion
from apps.registry.tasks import sync_tracking
from apps.training import actions, tasks
from apps.training.actions import training
from apps.training.exceptions import SourceError, TrainingError
from apps.training.models import Dataset, TrainingRun
from toxicmod.testing.factories import csv_bytes, labeled_rows

# MLflow, SQLAlchemy and what they import warn of their own deprecations.
pytestmark = [pytest.mark.django_db, pytest.mark.filterwarnings("ignore")]

PARAMETERS = {"dataset", "dataset_sha256", "git_commit", "held_out_rows", *asdict(TrainingConfig())}
METRICS = {"roc_auc", "pr_auc", "precision", "recall", "f1", "brier", "ece"}


@pytest.fixture
def small(db: None, tmp_path: Path) -> Dataset:
    """200 generated comments with few of each label, so that the fit is quick."""
    path = tmp_path / "small.csv"
    path.write_bytes(csv_bytes(labeled_rows(200, share=0.05)))
    return actions.import_dataset(source=str(path), name="small")[0]


@pytest.mark.slow
def test_train_and_promote_real_comments(
    champion: ModelVersion, real_csv: Path, mlflow_store: str, capsys: Any
) -> None:
    call_command("import_dataset", str(real_csv), name="real", natural_rate=0.1017, licence="CC BY-SA 3.0.")
    call_command("train_model", dataset="real", seed=3)

    run = TrainingRun.objects.get()
    version = ModelVersion.objects.with_alias(Alias.CHALLENGER)
    assert version is not None
    assert run.status == TrainingRun.Status.SUCCEEDED
    assert run.version == version
    assert run.seconds > 0
    assert run.peak_memory_mb > 50
    assert version.metrics["toxic"]["roc_auc"] > 0.9
    assert version.manifest["dataset_sha256"] == run.dataset.sha256
    assert version.manifest["metrics"] == version.metrics
    assert EvaluationArtifact.objects.filter(version=version).exists()
    for text in (
        "CC BY-SA 3.0",
        "## Intended use",
        "English sentences in ",
        "It reads English best.",
        "Bias",
        "| identity_hate |",
    ):
        assert text in version.card
    assert "3.0.." not in version.card

    client = tracking._mlflow().MlflowClient()
    logged = client.get_run(run.mlflow_run_id)
    assert set(logged.data.params) >= PARAMETERS
    assert logged.data.params["seed"] == "3"
    names = {f"{metric}/{label}" for metric in METRICS - {"precision", "f1"} for label in (*LABELS, "mean")}
    names |= {f"{measure}_auc/worst_group" for measure in ("subgroup", "bpsn", "bnsp")}
    assert set(logged.data.metrics) >= names | {"training_seconds", "peak_memory_mb"}
    assert logged.inputs.dataset_inputs[0].dataset.name == "real v1"
    assert logged.inputs.dataset_inputs[0].dataset.digest == run.dataset.sha256[:32]
    files = {file.path for file in client.list_artifacts(run.mlflow_run_id)}
    assert files >= {"MODEL_CARD.md", "top_features.json", "groups.json", "plots"}
    plots = {file.path for file in client.list_artifacts(run.mlflow_run_id, "plots")}
    assert plots == {f"plots/{name}.png" for name in ("roc", "precision_recall", "calibration", "scores")}
    words = json.loads(Path(client.download_artifacts(run.mlflow_run_id, "top_features.json")).read_text())
    assert list(words) == list(LABELS)
    assert words["toxic"][0][1] > words["toxic"][-1][1]
    groups = json.loads(Path(client.download_artifacts(run.mlflow_run_id, "groups.json")).read_text())
    worst = min(group["bpsn"] for group in groups.values())
    assert logged.data.metrics["bpsn_auc/worst_group"] == worst
    assert f"BPSN {worst:.3f}" in version.card

    model = client.get_model_version_by_alias("toxicmod", "challenger")
    assert str(model.version) == version.mlflow_version
    assert model.tags[tracking.VERSION_TAG] == str(version.number)
    info = tracking._mlflow().models.get_model_info(f"models:/toxicmod/{model.version}")
    assert info.signature.inputs.input_names() == ["text"]
    assert info.signature.outputs.input_names() == list(LABELS)
    assert info.saved_input_example_info is not None

    # A model of 3,000 rows is worse than the base model, so its gates fail.
    with pytest.raises(CommandError, match=r"fails its gates: .*\(toxic\) .* measured -0\.\d+"):
        call_command("promote_model", "challenger", reason="first of our own")
    call_command("promote_model", "challenger", reason="first of our own", force=True)
    assert str(client.get_model_version_by_alias("toxicmod", "champion").version) == version.mlflow_version
    assert "is the champion" in capsys.readouterr().out


def test_train_baseline_registers_nothing(dataset: Dataset, mlflow_store: str, capsys: Any) -> None:
    before = ModelVersion.objects.count()
    call_command("train_model", dataset="made-up", recipe="tfidf_baseline")
    run = TrainingRun.objects.get()
    assert (run.status, run.version) == (TrainingRun.Status.SUCCEEDED, None)
    assert run.metrics["toxic"]["roc_auc"] > 0.9
    assert ModelVersion.objects.count() == before
    logged = tracking._mlflow().MlflowClient().get_run(run.mlflow_run_id)
    assert logged.data.params["recipe"] == "tfidf_baseline"
    assert "A baseline" in capsys.readouterr().out


def test_train_without_mlflow_registers_model(small: Dataset, mlflow_outage: None, capsys: Any) -> None:
    call_command("train_model", dataset="small")
    version = ModelVersion.objects.with_alias(Alias.CHALLENGER)
    assert version is not None
    assert version.mlflow_version == ""
    assert "MLflow can't be reached" in capsys.readouterr().err
    Scorer.load(version.modelartifact.artifact(), expected_sha256=version.sha256)


def test_train_failure_is_stored(small: Dataset) -> None:
    run = actions.create_run(actor=SYSTEM, dataset=small)
    small.path.unlink()
    with pytest.raises(SourceError, match="is missing: import the same rows again"):
        actions.train(run=run)
    run.refresh_from_db()
    assert run.status == TrainingRun.Status.FAILED
    assert "is missing" in run.error
    assert run.finished_at is not None


def test_train_too_few_rows(db: None, tmp_path: Path) -> None:
    path = tmp_path / "tiny.csv"
    path.write_bytes(csv_bytes(labeled_rows(20)))
    call_command("import_dataset", str(path), name="tiny")
    with pytest.raises(CommandError, match="too few"):
        call_command("train_model", dataset="tiny")


def test_train_model_task_delivered_twice(small: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[int] = []
    enqueued: list[Task] = []
    monkeypatch.setattr(training, "_train", lambda run, step: trained.append(run.pk))
    monkeypatch.setattr(tasks, "enqueue", lambda task, *args, **options: enqueued.append(task))
    run = actions.create_run(actor=SYSTEM, dataset=small)
    tasks.train_model(run.pk)
    tasks.train_model(run.pk)
    assert trained == [run.pk]
    assert sync_tracking in enqueued


def test_train_model_invalid_arguments(small: Dataset) -> None:
    with pytest.raises(CommandError, match=r"There is no data set none \(there are: small v1\)"):
        call_command("train_model", dataset="none")
    with pytest.raises(CommandError, match="seed"):
        call_command("train_model", dataset="small", seed=-1)
    with pytest.raises(TrainingError, match="no recipe"):
        actions.create_run(actor=SYSTEM, dataset=small, recipe="magic")


def test_admin_pages_are_read_only_and_linked(
    small: Dataset, champion: ModelVersion, admin_client: Any
) -> None:
    run = TrainingRun.objects.create(
        dataset=small, recipe="two_level", version=champion, metrics=champion.metrics, mlflow_run_id="abc"
    )
    pages = {
        f"training/dataset/{small.pk}/change/": [small.sha256, f"dataset__id__exact={small.pk}"],
        f"training/trainingrun/{run.pk}/change/": [
            f"/dataset/{small.pk}/",
            f"/modelversion/{champion.pk}/",
            "abc",
        ],
        f"registry/modelversion/{champion.pk}/change/": [
            champion.sha256,
            f"version__id__exact={champion.pk}",
            "roc_auc",
        ],
        f"registry/promotion/{champion.promotion_set.get().pk}/change/": [f"/modelversion/{champion.pk}/"],
        "training/dataset/": ["small v1"],
        f"training/trainingrun/?version__id__exact={champion.pk}": [f"two_level on small v1 (run {run.pk})"],
        "registry/modelversion/": [str(champion)],
        "registry/promotion/": ["install"],
    }
    for path, expected in pages.items():
        response = admin_client.get(f"/admin/{path}")
        assert response.status_code == 200, path
        for text in expected:
            assert text in response.text, (path, text)
        assert 'name="_save"' not in response.text
    assert admin_client.get("/admin/training/dataset/add/").status_code == 403
