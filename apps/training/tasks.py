"""What a Celery worker does of training."""

import contextlib
import logging

from celery import shared_task

from apps.classifier.artifact import ArtifactError
from apps.core.enqueue import enqueue
from apps.registry.models import ModelVersion
from apps.training import actions, rollout, runs, shadow
from apps.training.models import Dataset, TrainingRun
from apps.training.sources import SourceError

logger = logging.getLogger(__name__)


@shared_task(time_limit=7_000, soft_time_limit=6_900)
def train_model(run_id: int) -> None:
    """Carry out a queued run. Delivered twice, it trains once; a failure is kept with the run."""
    with contextlib.suppress(runs.BusyError):
        run = actions.train(run=TrainingRun.objects.get(pk=run_id))
        if run.version:
            runs.send("measure_gates", run.version_id, expires=3_600)
        enqueue("apps.registry.tasks.sync_tracking", expires=300)
        runs.tend_runs()


@shared_task
def measure_gates(version_id: int) -> None:
    """Judge a version at its gates."""
    try:
        actions.measure_gates(version=ModelVersion.objects.get(pk=version_id))
    except (ArtifactError, SourceError) as error:
        logger.error("The gates of version %d were not measured: %s", version_id, error)


@shared_task
def tend_runs() -> None:
    """Give up runs whose worker was lost, and send the next in line."""
    runs.tend_runs()


@shared_task
def build_dataset(name: str, base_id: int | None) -> None:
    """Keep what people said as a data set; delivered twice, it is stored once."""
    try:
        actions.build_dataset(name=name, base=Dataset.objects.get(pk=base_id) if base_id else None)
    except (runs.TrainingError, SourceError) as error:
        logger.warning("The data set %s was not built: %s", name, error)


@shared_task(throws=(runs.TrainingError, SourceError))
def learn_when_due() -> None:
    """Build a data set and queue a run where enough was said since the last one.

    First it measures the last trained model, if the message that asked for this was lost.
    """
    if version := actions.unmeasured():
        measure_gates(version.pk)
    try:
        actions.learn_when_due()
    except (runs.TrainingError, SourceError) as error:
        logger.warning("Nothing was learned: %s", error)
        raise


@shared_task
def learn(because: str) -> None:
    """Build a data set and queue a run, for a reason that asks for a run once."""
    try:
        actions.learn(because=because)
    except (runs.TrainingError, SourceError) as error:
        logger.warning("Nothing was learned (%s): %s", because, error)


@shared_task
def score_in_shadow() -> None:
    """Have the challenger score some of what the champion has answered."""
    shadow.score_in_shadow()


@shared_task
def watch_canary() -> None:
    """End the canary where it has left a band or has served enough."""
    if rollout.watch_canary():
        enqueue("apps.registry.tasks.sync_tracking", expires=300)
