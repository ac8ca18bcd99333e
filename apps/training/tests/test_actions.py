"""From rows to a challenger: trained, evaluated, recorded, registered."""

import json
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from apps.classifier.labels import LABELS
from apps.classifier.scorer import Scorer
from apps.registry import tracking
from apps.registry.models import Alias, EvaluationArtifact, ModelVersion
from apps.training import actions, runs, tasks
from apps.training.models import Dataset, TrainingRun
from apps.training.sources import SourceError
from toxicmod.testing.factories import csv_bytes, labeled_rows

# MLflow, SQLAlchemy and what they import warn of their own deprecations.
pytestmark = [pytest.mark.django_db, pytest.mark.filterwarnings("ignore")]

PARAMETERS = {"recipe", "seed", "dataset", "dataset_sha256", "git_commit", "rows_held_out"}
METRICS = {"roc_auc", "pr_auc", "precision", "recall", "f1", "brier", "ece"}


@pytest.fixture
def small(db: None, tmp_path: Path) -> Dataset:
    """200 made-up comments with so few of each label that the fit is quick."""
    path = tmp_path / "small.csv"
    path.write_bytes(csv_bytes(labeled_rows(200, share=0.05)))
    return actions.import_dataset(source=str(path), name="small")[0]


@pytest.mark.slow
def test_real_comments_become_a_champion(
    champion: ModelVersion, real_csv: Path, mlflow_store: str, capsys: Any
) -> None:
    call_command("import_dataset", str(real_csv), name="real", natural_rate=0.1017, licence="CC BY-SA 3.0")
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
    for promised in (
        "CC BY-SA 3.0",
        "## Intended use",
        "HateCheck",
        "English only",
        "Bias",
        "| identity_hate |",
    ):
        assert promised in version.card

    client = tracking._mlflow().MlflowClient()
    logged = client.get_run(run.mlflow_run_id)
    assert set(logged.data.params) >= PARAMETERS
    assert logged.data.params["seed"] == "3"
    figures = {f"{metric}/{label}" for metric in METRICS - {"precision", "f1"} for label in (*LABELS, "mean")}
    figures |= {f"{measure}_auc/worst_group" for measure in ("subgroup", "bpsn", "bnsp")}
    assert set(logged.data.metrics) >= figures | {"training_seconds", "peak_memory_mb"}
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

    # 3,000 rows teach less than what the shipped model has learned, and the gates see it.
    with pytest.raises(CommandError, match=r"fails its gates: .*\(toxic\) .* measured -0\.\d+"):
        call_command("promote_model", "challenger", reason="first of our own")
    call_command("promote_model", "challenger", reason="first of our own", force=True)
    assert str(client.get_model_version_by_alias("toxicmod", "champion").version) == version.mlflow_version
    assert "is the champion" in capsys.readouterr().out


def test_a_reference_is_recorded_and_not_registered(dataset: Dataset, mlflow_store: str, capsys: Any) -> None:
    before = ModelVersion.objects.count()
    call_command("train_model", dataset="made-up", recipe="tfidf_baseline")
    run = TrainingRun.objects.get()
    assert (run.status, run.version) == (TrainingRun.Status.SUCCEEDED, None)
    assert run.metrics["toxic"]["roc_auc"] > 0.9
    assert ModelVersion.objects.count() == before
    logged = tracking._mlflow().MlflowClient().get_run(run.mlflow_run_id)
    assert logged.data.params["recipe"] == "tfidf_baseline"
    assert "A reference" in capsys.readouterr().out


def test_an_outage_of_mlflow_does_not_cost_the_model(
    small: Dataset, mlflow_outage: None, capsys: Any
) -> None:
    call_command("train_model", dataset="small")
    version = ModelVersion.objects.with_alias(Alias.CHALLENGER)
    assert version is not None
    assert version.mlflow_version == ""
    assert "MLflow was not told" in capsys.readouterr().err
    Scorer.load(version.modelartifact.artifact(), expected_sha256=version.sha256)


def test_a_failure_is_kept_with_its_run(small: Dataset) -> None:
    run = runs.queue_run(dataset=small)
    small.path.unlink()
    with pytest.raises(SourceError, match="is missing: import the same rows again"):
        actions.train(run=run)
    run.refresh_from_db()
    assert run.status == TrainingRun.Status.FAILED
    assert "is missing" in run.error
    assert run.finished_at is not None


def test_too_few_rows_are_one_sentence(db: None, tmp_path: Path) -> None:
    path = tmp_path / "tiny.csv"
    path.write_bytes(csv_bytes(labeled_rows(20)))
    call_command("import_dataset", str(path), name="tiny")
    with pytest.raises(CommandError, match="too few"):
        call_command("train_model", dataset="tiny")


def test_a_task_delivered_twice_trains_once(small: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[int] = []
    enqueued: list[str] = []
    monkeypatch.setattr(actions, "_train", lambda run, step: trained.append(run.pk))
    monkeypatch.setattr(tasks, "enqueue", lambda task, *args, **options: enqueued.append(task))
    run = runs.queue_run(dataset=small)
    tasks.train_model(run.pk)
    tasks.train_model(run.pk)
    assert trained == [run.pk]
    assert "apps.registry.tasks.sync_tracking" in enqueued


def test_what_train_model_refuses(small: Dataset) -> None:
    with pytest.raises(CommandError, match=r"There is no data set none \(there are: small v1\)"):
        call_command("train_model", dataset="none")
    with pytest.raises(CommandError, match="seed"):
        call_command("train_model", dataset="small", seed=-1)
    with pytest.raises(actions.TrainingError, match="no recipe"):
        runs.queue_run(dataset=small, recipe="magic")


def test_the_admin_shows_them_read_only_and_linked(
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
        f"training/trainingrun/?version__id__exact={champion.pk}": ["two_level on small v1"],
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
