"""Records training runs in MLflow and copies the aliases of model versions to its model registry.

No other module uses MLflow. The project's database decides which version is served. Functions import mlflow
themselves, because the import takes seconds and 200 MB, which a web process does not need.
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
from apps.classifier.encoder import FOLDER, by_words_only, configuration
from apps.classifier.labels import LABELS
from apps.registry.exceptions import TrackingError
from apps.registry.models import Alias, ModelVersion

logger = logging.getLogger(__name__)

EXPERIMENT = REGISTERED_MODEL = "toxicmod"
VERSION_TAG = "toxicmod.version"
# Keys of a model's manifest that are logged as parameters of its run.
MANIFEST_PARAMS = ("dataset", "dataset_sha256", "git_commit")
REQUIREMENTS = ("numpy", "numba", "onnxruntime", "pandas", "py3langid", "sentencepiece")
EXAMPLE = ("Thanks for the quick answer, that helped.", "Shut up, you idiot.")
P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class DataUsed:
    """The data set of a run: its name, the SHA-256 of its rows and where it came from."""

    name: str
    sha256: str
    source: str


@dataclass(frozen=True)
class LoggedRun:
    """The IDs that MLflow gave to a run and, if a model was registered, to its version."""

    run_id: str
    model_version: str = ""


def _tracked(function: Callable[P, R]) -> Callable[P, R]:
    """Raise a `TrackingError` instead of any exception of MLflow and of the stores behind it."""

    @wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        # An outage raises errors of MLflow, SQLAlchemy, requests or boto. The trained model must be kept.
        except Exception as error:
            logger.debug("MLflow failed", exc_info=True)
            reason = str(error).partition("\n")[0][:300]
            raise TrackingError(f"MLflow could not be reached or rejected the request ({reason})") from error

    return wrapper


def _mlflow() -> ModuleType:
    """Import MLflow and configure it: no telemetry, only warnings in the log, two retries."""
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
    """Return the experiment's ID, after creating it if it does not exist.

    A tracking server decides itself where artifacts are stored.
    """
    experiment = mlflow.get_experiment_by_name(EXPERIMENT)
    if experiment:
        return experiment.experiment_id
    has_server = settings.MLFLOW_TRACKING_URI.startswith("http")
    return mlflow.create_experiment(EXPERIMENT, None if has_server else _location(settings.MLFLOW_ARTIFACTS))


def _location(folder_or_url: str) -> str:
    return folder_or_url if "://" in folder_or_url else Path(folder_or_url).resolve().as_uri()


def run_url(run_id: str) -> str:
    """Return a run's page on the tracking server, without credentials; or "" without a server."""
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
    curves: Mapping[str, Mapping[int, float]] | None = None,
    data: DataUsed | None = None,
    report: Path | None = None,
    artifact: Artifact | None = None,
    started: datetime | None = None,
    tags: Mapping[str, str] | None = None,
) -> LoggedRun:
    """Record a finished run and register its artifact, if there is one, as a version of the model.

    Args:
        metrics: numbers by metric, or by label and metric as `evaluate` returns them.
        curves: numbers by metric and step, such as the loss during training.
        data: the data set that the run was trained on.
        report: a folder whose files become the run's artifacts.
        started: when the run started; by default now.

    Raises:
        TrackingError: MLflow failed; it may have stored a part.
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
        for metric, curve in (curves or {}).items():
            for step, value in curve.items():
                mlflow.log_metric(metric, value, step=step)
        if data:
            mlflow.log_input(_dataset(data), context="training")
        if report:
            mlflow.log_artifacts(str(report))
        return LoggedRun(run_id, _log_model(mlflow, artifact) if artifact else "")


def flatten(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return metrics by label as one mapping without None: `{"toxic": {"ece": 1}}` as `{"ece/toxic": 1}`."""
    flat: dict[str, float] = {}
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            flat |= {f"{metric}/{name}": number for metric, number in value.items() if number is not None}
        elif value is not None:
            flat[name] = value
    return flat


def _dataset(data: DataUsed) -> Any:
    from mlflow.data.code_dataset_source import CodeDatasetSource
    from mlflow.data.meta_dataset import MetaDataset

    # MLflow's digest has at most 36 characters.
    source = CodeDatasetSource({"source": data.source, "sha256": data.sha256})
    return MetaDataset(source, name=data.name, digest=data.sha256[:32])  # type: ignore[abstract]


def _log_model(mlflow: ModuleType, artifact: Artifact) -> str:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    signature = ModelSignature(
        inputs=Schema([ColSpec("string", "text")]),
        outputs=Schema([ColSpec("double", label) for label in LABELS]),
    )
    # MLflow loads the model and scores the example. The encoder would take 120 MB for it.
    with tempfile.TemporaryDirectory(prefix="toxicmod-") as folder, by_words_only():
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
    """Copy the classifier, without its tests, and the site's encoder into a new package `apps`; return it."""
    package = folder / "apps"
    source = Path(classifier.__file__).parent
    ignored = shutil.ignore_patterns("tests", "__pycache__", FOLDER.name, "encoder_training")
    shutil.copytree(source, package / "classifier", ignore=ignored)
    if configuration.folder.is_dir():
        shutil.copytree(configuration.folder, package / "classifier" / FOLDER.relative_to(source))
    (package / "__init__.py").touch()
    return package


@_tracked
def sync() -> None:
    """Copy the aliases of model versions to MLflow, after registering the versions that it lacks.

    The function is idempotent.

    Raises:
        TrackingError: MLflow failed. A later call completes the copy.
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
    """Register a version that MLflow lacks: the shipped one, or one trained while MLflow was down."""
    with tempfile.TemporaryDirectory(prefix="toxicmod-") as folder:
        Path(folder, "MODEL_CARD.md").write_text(version.card)
        logged = log_run(
            name=f"{version.recipe} {version}",
            params={"recipe": version.recipe}
            | {name: version.manifest.get(name) for name in MANIFEST_PARAMS},
            metrics=version.metrics,
            report=Path(folder),
            artifact=version.modelartifact.artifact(),
            started=version.created_at,
        )
    version.mlflow_run_id, version.mlflow_version = logged.run_id, logged.model_version
    version.save(update_fields=["mlflow_run_id", "mlflow_version"])
