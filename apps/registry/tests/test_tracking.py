"""MLflow gets runs, versions and aliases; its copy of a model runs without the project."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from django.core.cache import cache
from django.core.management import call_command

from apps.classifier.labels import LABELS
from apps.classifier.scorer import Scorer
from apps.core.permissions import SYSTEM
from apps.registry import actions, tracking
from apps.registry.exceptions import TrackingError
from apps.registry.models import Alias, ModelVersion
from apps.registry.tasks import sync_tracking
from toxicmod.testing.factories import register_copy

# MLflow, SQLAlchemy and what they import warn of their own deprecations.
pytestmark = [pytest.mark.django_db, pytest.mark.filterwarnings("ignore")]

TEXTS = ["Thanks, that was kind of you.", "You are a complete idiot.", "", "y0u  st*pid  mor0n \U0001f595"]
LOAD = """
import json, sys
import mlflow.pyfunc, pandas
model = mlflow.pyfunc.load_model(sys.argv[1])
answer = model.predict(pandas.DataFrame({"text": json.loads(sys.argv[2])}, index=[5, 6, 7, 8]))
assert "django" not in sys.modules
print(json.dumps([list(answer.columns), list(answer.index), answer.to_numpy().tolist()]))
"""


def mlflow_aliases() -> dict[str, str]:
    client = tracking._mlflow().MlflowClient()
    return {alias: str(version) for alias, version in client.get_registered_model("toxicmod").aliases.items()}


def test_sync_copies_aliases(champion: ModelVersion, mlflow_store: str) -> None:
    tracking.sync()
    champion.refresh_from_db()
    assert mlflow_aliases() == {"champion": champion.mlflow_version}

    version = register_copy(champion)
    actions.promote(version=version, reason="better", actor=SYSTEM)
    for _ in range(2):
        tracking.sync()
        version.refresh_from_db()
        assert mlflow_aliases() == {"champion": version.mlflow_version, "previous": champion.mlflow_version}
    client = tracking._mlflow().MlflowClient()
    published = client.get_model_version("toxicmod", version.mlflow_version)
    assert published.tags[tracking.VERSION_TAG] == str(version.number)
    assert client.get_run(version.mlflow_run_id).data.metrics["roc_auc/mean"] == pytest.approx(
        version.metrics["mean"]["roc_auc"]
    )

    actions.rollback(reason="worse", actor=SYSTEM)
    ModelVersion.objects.filter(alias=Alias.PREVIOUS).update(alias=None)
    tracking.sync()
    assert mlflow_aliases() == {"champion": champion.mlflow_version}


def test_sync_task_copies_aliases_again_only_if_they_changed(
    champion: ModelVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    failures = [TrackingError("MLflow is down.")]

    def sync() -> None:
        calls.append(1)
        if failures:
            raise failures.pop()

    monkeypatch.setattr(tracking, "sync", sync)
    cache.clear()
    for expected in (1, 2, 2):  # the first fails, so it is repeated
        sync_tracking.apply()
        assert len(calls) == expected
    actions.promote(version=register_copy(champion), reason="better", actor=SYSTEM)
    for _ in range(2):
        sync_tracking.apply()
        assert len(calls) == 3


@pytest.mark.slow
def test_sync_registers_model_that_loads_without_project(
    champion: ModelVersion, mlflow_store: str, tmp_path: Path
) -> None:
    tracking.sync()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    answer = subprocess.run(
        [sys.executable, "-c", LOAD, "models:/toxicmod@champion", json.dumps(TEXTS)],
        cwd=tmp_path,
        env=environment | {"MLFLOW_TRACKING_URI": mlflow_store},
        capture_output=True,
        text=True,
    )
    assert answer.returncode == 0, answer.stderr
    columns, index, probabilities = json.loads(answer.stdout.splitlines()[-1])
    assert columns == list(LABELS)
    assert index == [5, 6, 7, 8]
    expected = Scorer.load(champion.modelartifact.artifact()).score_many(TEXTS)
    np.testing.assert_allclose(probabilities, expected, atol=1e-12)


def test_sync_outage_prevents_no_promotion(
    champion: ModelVersion, mlflow_outage: None, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(TrackingError, match="MLflow could not be reached or rejected the request"):
        tracking.sync()
    actions.promote(version=register_copy(champion), reason="better", actor=SYSTEM)
    call_command("rollback_model", reason="worse")
    out, err = capsys.readouterr()
    assert f"{champion} is the champion again" in out
    assert "MLflow could not be reached" in err
    assert ModelVersion.objects.with_alias(Alias.CHAMPION) == champion


def test_log_run_encrypts_artifacts_in_s3(
    mlflow_store: str, bucket_of: Any, settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = bucket_of("artifacts")
    settings.MLFLOW_ARTIFACTS = "s3://artifacts/mlflow"
    monkeypatch.setattr(tracking, "EXPERIMENT", "in S3")
    (tmp_path / "plot.txt").write_text("a plot")
    run_id = tracking.log_run(name="run", params={}, metrics={}, report=tmp_path).run_id
    (stored,) = client.list_objects_v2(Bucket="artifacts")["Contents"]
    assert stored["Key"] == f"mlflow/{run_id}/artifacts/plot.txt"
    head = client.head_object(Bucket="artifacts", Key=stored["Key"], ChecksumMode="ENABLED")
    assert head["ServerSideEncryption"] == "aws:kms"
    assert head["ChecksumCRC32"]


def test_flatten_joins_metric_and_label() -> None:
    assert tracking.flatten({"toxic": {"ece": 0.1, "f1": None}, "seconds": 2, "none": None}) == {
        "ece/toxic": 0.1,
        "seconds": 2,
    }


def test_web_process_imports_no_heavy_library() -> None:
    code = (
        "import sys, toxicmod.asgi, toxicmod.urls\n"
        "heavy = {'mlflow', 'sklearn', 'scipy.special', 'matplotlib', 'pandas', 'boto3'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.splitlines()[-1] == "[]"
