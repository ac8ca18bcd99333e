"""The only door to MLflow: records training runs, and keeps its model registry in step with ours.

Our database decides what is served; MLflow is told. Functions import mlflow themselves: that takes seconds
and 150 MB, which no web process should pay.
"""

import importlib.metadata
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from types import ModuleType
from typing import Any, ParamSpec, TypeVar
from urllib.parse import urlsplit

from django.conf import settings

from apps import classifier
from apps.classifier.artifact import Artifact
from apps.classifier.labels import LABELS
from apps.registry.exceptions import TrackingError
from apps.registry.models import Alias, ModelVersion

logger = logging.getLogger(__name__)

EXPERIMENT = REGISTERED_MODEL = "toxicmod"
VERSION_TAG = "toxicmod.version"
FACTS = ("dataset", "dataset_sha256", "git_commit")  # of a model's manifest
REQUIREMENTS = ("numpy", "numba", "pandas")
EXAMPLE = ("Thanks for the quick answer, that helped.", "Shut up, you idiot.")
P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class DataUsed:
    """The data set of a run, as MLflow shows it."""

    name: str
    sha256: str
    source: str


@dataclass(frozen=True)
class Logged:
    """What MLflow calls a run and, where one was registered, its model version."""

    run_id: str
    model_version: str = ""


def _tracked(function: Callable[P, R]) -> Callable[P, R]:
    """Turn whatever MLflow and the stores behind it raise into a TrackingError."""

    @wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        # An outage shows as errors of MLflow, SQLAlchemy, requests or boto; none may cost a trained model.
        except Exception as error:
            logger.debug("MLflow failed", exc_info=True)
            reason = str(error).partition("\n")[0][:300]
            raise TrackingError(f"MLflow could not be reached or refused ({reason})") from error

    return wrapper


def _mlflow() -> ModuleType:
    """Import and set up MLflow: no telemetry, no chatter, no minutes of retries."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    import mlflow

    mlflow.set_tracking_uri(settings.MLFLOW_TRACKING_URI)
    mlflow.set_registry_uri(settings.MLFLOW_TRACKING_URI)
    return mlflow


def _experiment(mlflow: ModuleType) -> str:
    """Return the experiment's id; a tracking server decides itself where artifacts lie."""
    found = mlflow.get_experiment_by_name(EXPERIMENT)
    if found:
        return found.experiment_id
    served = settings.MLFLOW_TRACKING_URI.startswith("http")
    return mlflow.create_experiment(EXPERIMENT, None if served else _location(settings.MLFLOW_ARTIFACTS))


def _location(place: str) -> str:
    return place if "://" in place else Path(place).resolve().as_uri()


def run_url(run_id: str) -> str:
    """Return a run's page on the tracking server, without credentials; empty where there is no server."""
    parts = urlsplit(settings.MLFLOW_TRACKING_URI)
    if not run_id or parts.scheme not in ("http", "https"):
        return ""
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}/#/runs/{run_id}"


@_tracked
def log_run(
    *,
    name: str,
    params: Mapping[str, Any],
    metrics: Mapping[str, Any],
    data: DataUsed | None = None,
    report: Path | None = None,
    artifact: Artifact | None = None,
    started: datetime | None = None,
    tags: Mapping[str, str] | None = None,
) -> Logged:
    """Record a finished run and, given an artifact, register it as a version of the model.

    Args:
        metrics: figures; a mapping by label, as `evaluate` gives, becomes `<metric>/<label>`.
        report: a folder whose files become the run's artifacts.

    Raises:
        TrackingError: MLflow could not be told, or only in part.
    """
    mlflow = _mlflow()
    client = mlflow.MlflowClient()
    start = (started or datetime.now(UTC)).timestamp()
    run = client.create_run(
        _experiment(mlflow), start_time=round(start * 1000), run_name=name, tags=dict(tags or {})
    )
    run_id = run.info.run_id
    with mlflow.start_run(run_id=run_id):
        mlflow.log_params(dict(params))
        mlflow.log_metrics(flatten(metrics))
        if data:
            mlflow.log_input(_dataset(data), context="training")
        if report:
            mlflow.log_artifacts(str(report))
        return Logged(run_id, _log_model(mlflow, artifact) if artifact else "")


def flatten(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return figures by label as flat ones: `{"toxic": {"ece": 1}}` as `{"ece/toxic": 1}`, None left out."""
    flat: dict[str, float] = {}
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            flat |= {f"{metric}/{name}": figure for metric, figure in value.items() if figure is not None}
        elif value is not None:
            flat[name] = value
    return flat


def _dataset(data: DataUsed) -> Any:
    from mlflow.data.code_dataset_source import CodeDatasetSource
    from mlflow.data.meta_dataset import MetaDataset

    # MLflow's digest has room for 36 characters.
    source = CodeDatasetSource({"source": data.source, "sha256": data.sha256})
    return MetaDataset(source, name=data.name, digest=data.sha256[:32])  # type: ignore[abstract]


def _log_model(mlflow: ModuleType, artifact: Artifact) -> str:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    signature = ModelSignature(
        inputs=Schema([ColSpec("string", "text")]),
        outputs=Schema([ColSpec("double", label) for label in LABELS]),
    )
    with tempfile.TemporaryDirectory(prefix="toxicmod-") as folder:
        artifact.write(Path(folder, "model"))
        info = mlflow.pyfunc.log_model(
            name="model",
            python_model=str(Path(__file__).with_name("pyfunc_model.py")),
            artifacts={"model": str(Path(folder, "model"))},
            code_paths=[str(_code(Path(folder)))],
            model_config={"sha256": artifact.sha256},
            signature=signature,
            input_example=_example(),
            pip_requirements=[f"{name}=={importlib.metadata.version(name)}" for name in REQUIREMENTS],
            registered_model_name=REGISTERED_MODEL,
        )
    return str(info.registered_model_version)


def _example() -> Any:
    import pandas

    return pandas.DataFrame({"text": EXAMPLE})


def _code(folder: Path) -> Path:
    """Lay out the classifier as the package `apps.classifier` with nothing else of the project in it."""
    package = folder / "apps"
    source = Path(classifier.__file__).parent
    shutil.copytree(source, package / "classifier", ignore=shutil.ignore_patterns("tests", "__pycache__"))
    (package / "__init__.py").touch()
    return package


@_tracked
def sync() -> None:
    """Bring MLflow's aliases in step with ours, registering what it lacks. Doing it twice changes nothing.

    Raises:
        TrackingError: MLflow could not be told; calling it again later makes up for it.
    """
    mlflow = _mlflow()
    client = mlflow.MlflowClient()
    wanted = {}
    for version in ModelVersion.objects.exclude(alias=None):
        if not version.mlflow_version:
            _publish(version)
        client.set_model_version_tag(REGISTERED_MODEL, version.mlflow_version, VERSION_TAG, version.number)
        wanted[version.alias] = version.mlflow_version
    present = client.get_registered_model(REGISTERED_MODEL).aliases if wanted else {}
    for alias in Alias.values:
        if alias in wanted and str(present.get(alias)) != wanted[alias]:
            client.set_registered_model_alias(REGISTERED_MODEL, alias, wanted[alias])
        elif alias not in wanted and alias in present:
            client.delete_registered_model_alias(REGISTERED_MODEL, alias)


def _publish(version: ModelVersion) -> None:
    """Register a version that MLflow has not seen: the shipped one, or one trained during an outage."""
    with tempfile.TemporaryDirectory(prefix="toxicmod-") as folder:
        Path(folder, "MODEL_CARD.md").write_text(version.card)
        logged = log_run(
            name=f"{version.recipe} {version}",
            params={"recipe": version.recipe} | {name: version.manifest.get(name) for name in FACTS},
            metrics=version.metrics,
            report=Path(folder),
            artifact=version.modelartifact.artifact(),
            started=version.created_at,
        )
    version.mlflow_run_id, version.mlflow_version = logged.run_id, logged.model_version
    version.save(update_fields=["mlflow_run_id", "mlflow_version"])
