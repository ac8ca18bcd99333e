"""Train queued runs: evaluate on held-out rows, fit on all rows, record and register the model."""

import logging
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
from django.conf import settings
from django.db import DatabaseError, IntegrityError, connection, transaction
from django.db.models import F
from django.utils import timezone

from apps.classifier.artifact import Artifact
from apps.classifier.config import TrainingConfig
from apps.classifier.evaluation import evaluate
from apps.classifier.labels import LABELS
from apps.classifier.scorer import Scorer
from apps.registry import actions as registry
from apps.registry import tracking
from apps.registry.exceptions import TrackingError
from apps.training import datasets, readings
from apps.training.exceptions import RunStoppedError, TrainingBusyError, TrainingError
from apps.training.models import TrainingRun

logger = logging.getLogger(__name__)

Progress = Callable[[str, float], None]
HEARTBEAT_SECONDS = 5.0
BASELINE_THRESHOLD = 0.5


def _start(run: TrainingRun) -> bool:
    """Change a queued run to running; return False if it is not queued any more.

    Raises:
        TrainingBusyError: another run is running.
    """
    try:
        with transaction.atomic():
            is_started = TrainingRun.objects.filter(pk=run.pk, status=TrainingRun.Status.QUEUED).update(
                status=TrainingRun.Status.RUNNING, heartbeat_at=timezone.now()
            )
    except IntegrityError:
        raise TrainingBusyError(f"{run} stays queued: another run is being trained.") from None
    run.refresh_from_db()
    return bool(is_started)


@contextmanager
def _heartbeat(run: TrainingRun) -> Iterator[None]:
    """Update the run's heartbeat from a thread, because a fit reports no progress for minutes."""
    stop = threading.Event()

    def update() -> None:
        try:
            while not stop.wait(HEARTBEAT_SECONDS):
                try:
                    TrainingRun.objects.running().filter(pk=run.pk).update(heartbeat_at=timezone.now())
                except DatabaseError as error:
                    logger.warning("The heartbeat of run %d failed: %s", run.pk, error.__class__.__name__)
                    connection.close()
        finally:
            connection.close()

    threading.Thread(target=update, name=f"heartbeat of run {run.pk}", daemon=True).start()
    try:
        yield
    finally:
        stop.set()


@contextmanager
def _sigterm_raises() -> Iterator[threading.Event]:
    """Make SIGTERM raise SystemExit, after what its handler does, such as Celery's in a worker's process.

    Yields an event that is set by the signal, because a library can swallow the exception (a bare `except`
    around an import, a finalizer).
    """
    received = threading.Event()
    earlier = signal.getsignal(signal.SIGTERM)
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or earlier is None or earlier is signal.SIG_IGN:
        yield received
        return

    def stop(number: int, frame: FrameType | None) -> None:
        received.set()
        if callable(earlier):
            earlier(number, frame)
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, stop)
    try:
        yield received
    finally:
        signal.signal(signal.SIGTERM, earlier)


def _requeue(run: TrainingRun) -> None:
    """Return an interrupted run to the queue, for the next worker that starts."""
    if threading.current_thread() is threading.main_thread():
        # The process is ending. A second signal must not end it before the run is stored.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
    TrainingRun.objects.running().filter(pk=run.pk).update(
        status=TrainingRun.Status.QUEUED,
        step="interrupted",
        progress=0,
        heartbeat_at=None,
        interruptions=F("interruptions") + 1,
    )
    logger.warning("Run %d was interrupted and is queued again", run.pk)


def train(*, run: TrainingRun, progress: Progress | None = None) -> TrainingRun:
    """Train a queued run: evaluate on held-out rows, fit on all, record in MLflow, register a challenger.

    One run is trained at a time, in all processes. A run that is cancelled, or marked as failed because its
    heartbeat stopped, registers nothing. Baselines are evaluated and recorded only.

    A run that is not queued any more is returned as it is, so that a task delivered twice trains once. Errors
    are stored in the run's `error`. If the process is stopped (SIGINT, SIGTERM), the run returns to the
    queue.

    Args:
        progress: is called with each step and the completed fraction.

    Raises:
        SourceError: the data set's file is missing or damaged.
        TrainingBusyError: another run is being trained; this one stays queued.
        TrainingError: this data can't be trained on.
    """
    if not _start(run):
        return run

    def step(name: str, fraction: float) -> None:
        if terminated.is_set():
            sys.exit(128 + signal.SIGTERM)
        if (
            not TrainingRun.objects.running()
            .filter(pk=run.pk)
            .update(step=name[:100], progress=fraction, heartbeat_at=timezone.now())
        ):
            raise RunStoppedError(f"Run {run.pk} was cancelled or marked as failed.")
        if progress:
            progress(name, fraction)

    try:
        with _sigterm_raises() as terminated, _heartbeat(run):
            _train(run, step)
        if progress:
            progress("done", 1.0)
    except RunStoppedError:
        run.refresh_from_db()
    except (KeyboardInterrupt, SystemExit):
        _requeue(run)
        run.refresh_from_db()
        raise
    except BaseException as error:
        TrainingRun.objects.running().filter(pk=run.pk).update(
            status=TrainingRun.Status.FAILED,
            error=str(error) or error.__class__.__name__,
            finished_at=timezone.now(),
        )
        run.refresh_from_db()
        if isinstance(error, ValueError):
            raise TrainingError(f"{run} can't be trained: {error}.") from error
        raise
    return run


def _train(run: TrainingRun, step: Progress) -> None:
    # Web processes import this module without scikit-learn and matplotlib.
    from apps.classifier.training import TwoLevelModel
    from apps.training import report

    started = datetime.now(UTC)
    dataset = run.dataset
    step("reading the rows", 0.0)
    rows = datasets.read(dataset.path, clean_weight=dataset.clean_weight)
    training_rows, held_out = (rows.take(part) for part in rows.split())
    config = TrainingConfig(recipe=run.recipe, seed=run.seed)
    run.git_commit = get_git_commit()
    metadata: dict[str, Any] = {
        "name": f"toxicmod {run.recipe}",
        "recipe": run.recipe,
        "dataset": str(dataset),
        "dataset_sha256": dataset.sha256,
        "git_commit": run.git_commit,
    }

    fitted, run.seconds = _fit(config, training_rows, step, 0.05, 0.45)
    evaluation_model = None
    if isinstance(fitted, TwoLevelModel):
        thresholds = fitted.thresholds
        evaluation_model = fitted.artifact(**metadata, purpose="evaluation", metrics={})
        probabilities = Scorer.load(evaluation_model).score_many(held_out.texts)
    else:
        thresholds = np.full(len(LABELS), BASELINE_THRESHOLD)
        probabilities = fitted.predict_proba(held_out.texts)
    del fitted  # frees its memory for the final model
    run.metrics = evaluate(held_out.labels, probabilities, thresholds, held_out.weights)

    with tempfile.TemporaryDirectory(prefix="toxicmod-") as folder_name:
        folder = Path(folder_name)
        step("plots", 0.5)
        report.write_plots(folder, held_out.labels, probabilities, held_out.weights)
        artifact, card, worst_groups = None, "", {}
        if evaluation_model:
            final, run.seconds = _fit(config, rows, step, 0.55, 0.95)
            assert isinstance(final, TwoLevelModel)
            artifact = final.artifact(**metadata, metrics=run.metrics)
            scorer = Scorer.load(artifact)
            worst_groups = report.write_groups(folder, scorer)
            card = report.build_card(run, scorer, len(training_rows), len(held_out), worst_groups)
            (folder / "MODEL_CARD.md").write_text(card)
            report.write_top_features(folder, scorer, rows)
        run.peak_memory_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        step("recording in MLflow", 0.96)
        logged = _log_to_mlflow(
            run, config, folder, artifact, started, len(training_rows), len(held_out), worst_groups
        )

    with transaction.atomic():
        if not TrainingRun.objects.running().select_for_update().filter(pk=run.pk):
            raise RunStoppedError(f"Run {run.pk} was cancelled or marked as failed.")
        if artifact:
            run.version = registry.register_version(
                artifact=artifact,
                evaluation=evaluation_model,
                recipe=run.recipe,
                metrics=run.metrics,
                card=card,
                mlflow_run_id=logged.run_id,
                mlflow_version=logged.model_version,
            )
        run.mlflow_run_id = logged.run_id
        run.status = TrainingRun.Status.SUCCEEDED
        run.step, run.progress = "", 1.0
        run.finished_at = timezone.now()
        run.save()


def _fit(
    config: TrainingConfig, rows: datasets.Rows, step: Progress, begin: float, end: float
) -> tuple[Any, float]:
    """Fit on the rows and report progress between `begin` and `end`; return the model and the seconds."""
    from apps.classifier.training import fit

    title = f"fit on {len(rows):,} rows"
    start = time.perf_counter()
    fitted = fit(
        rows.texts,
        rows.labels,
        config,
        sample_weight=rows.weights,
        readings=readings.open_readings(
            lambda fraction: step(f"{title}: reading {fraction:.0%}", begin + (end - begin) * 0.85)
        ),
        progress=lambda stage, fraction: step(f"{title}: {stage}", begin + (end - begin) * fraction),
    )
    return fitted, time.perf_counter() - start


def _log_to_mlflow(
    run: TrainingRun,
    config: TrainingConfig,
    folder: Path,
    artifact: Artifact | None,
    started: datetime,
    training_rows: int,
    held_out_rows: int,
    worst_groups: dict[str, tuple[str, float]],
) -> tracking.LoggedRun:
    """Record the run in MLflow. If MLflow is down, the run and its model are stored without it."""
    try:
        return tracking.log_run(
            name=str(run),
            params=asdict(config)
            | {
                "training_rows": training_rows,
                "held_out_rows": held_out_rows,
                "natural_rate": run.dataset.natural_rate,
                "dataset": str(run.dataset),
                "dataset_sha256": run.dataset.sha256,
                "git_commit": run.git_commit,
            },
            metrics=run.metrics
            | {"training_seconds": run.seconds, "peak_memory_mb": run.peak_memory_mb}
            | {"worst_group": {f"{metric}_auc": auc for metric, (_, auc) in worst_groups.items()}},
            data=tracking.DataUsed(str(run.dataset), run.dataset.sha256, run.dataset.source),
            report=folder,
            artifact=artifact,
            started=started,
            tags={"mlflow.source.git.commit": run.git_commit} if run.git_commit else {},
        )
    except TrackingError as error:
        logger.warning("%s. The run and its model are stored without it.", error)
        return tracking.LoggedRun("")


def get_git_commit() -> str:
    """Return the commit of the running code from GIT_COMMIT or git, or an empty string."""
    if commit := os.environ.get("GIT_COMMIT"):
        return commit[:40]
    try:
        completed = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=settings.BASE_DIR, capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return completed.stdout.strip() if completed.returncode == 0 else ""
