"""Celery tasks of this app, which call its actions."""

import contextlib
import logging

from celery import shared_task

from apps.classifier.artifact import ArtifactError
from apps.core.enqueue import enqueue
from apps.registry.models import ModelVersion
from apps.registry.tasks import sync_tracking
from apps.training import actions
from apps.training.exceptions import SourceError, TrainingBusyError, TrainingError
from apps.training.models import Dataset, TrainingRun

logger = logging.getLogger(__name__)


@shared_task(time_limit=7_000, soft_time_limit=6_900)
def train_model(run_id: int) -> None:
    """Train a queued run once, even if the task is delivered twice."""
    with contextlib.suppress(TrainingBusyError):
        run = actions.train(run=TrainingRun.objects.get(pk=run_id))
        if run.version:
            enqueue(measure_gates, run.version_id)
        enqueue(sync_tracking, expires=300)
        actions.recover_runs()


@shared_task
def measure_gates(version_id: int) -> None:
    """Measure the gates of a version."""
    try:
        actions.measure_gates(version=ModelVersion.objects.get(pk=version_id))
    except (ArtifactError, SourceError) as error:
        logger.error("The gates of version %d were not measured: %s", version_id, error)


@shared_task
def recover_runs() -> None:
    """Retry runs whose worker was lost, and enqueue the oldest queued run."""
    actions.recover_runs()


@shared_task
def build_dataset(name: str, base_id: int | None) -> None:
    """Build a data set; the same rows are stored once, even if the task is delivered twice."""
    try:
        actions.build_dataset(name=name, base=Dataset.objects.get(pk=base_id) if base_id else None)
    except (TrainingError, SourceError) as error:
        logger.warning("The data set %s was not built: %s", name, error)


@shared_task(throws=(TrainingError, SourceError))
def retrain_if_due() -> None:
    """Build a data set and create a run if there are enough new labels.

    First measure the gates of the last trained version if the task for that was lost.
    """
    if version := actions.find_unmeasured_version():
        measure_gates(version.pk)
    try:
        actions.retrain_if_due()
    except (TrainingError, SourceError) as error:
        logger.warning("No run was created: %s", error)
        raise


@shared_task
def retrain(trigger: str) -> None:
    """Build a data set and create a run, once for each trigger."""
    try:
        actions.retrain(trigger=trigger)
    except (TrainingError, SourceError) as error:
        logger.warning("No run was created (%s): %s", trigger, error)


@shared_task
def score_in_shadow() -> None:
    """Score some of the champion's comments with the challenger."""
    actions.score_in_shadow()


@shared_task
def check_canary() -> None:
    """End the canary if it violated a guardrail or has scored enough comments."""
    if actions.check_canary():
        enqueue(sync_tracking, expires=300)
