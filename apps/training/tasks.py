"""What a Celery worker does of training."""

import contextlib
import logging

from celery import shared_task

from apps.registry.tasks import sync_tracking
from apps.training import actions
from apps.training.models import Dataset, TrainingRun
from apps.training.sources import SourceError

logger = logging.getLogger(__name__)


@shared_task(time_limit=7_000, soft_time_limit=6_900)
def train_model(run_id: int) -> None:
    """Carry out a queued run. Delivered twice, it trains once; a failure is kept with the run."""
    with contextlib.suppress(actions.BusyError):
        actions.train(run=TrainingRun.objects.get(pk=run_id))
        sync_tracking.delay()
        actions.tend_runs()


@shared_task
def tend_runs() -> None:
    """Give up runs whose worker was lost, and send the next in line."""
    actions.tend_runs()


@shared_task
def build_dataset(name: str, base_id: int | None) -> None:
    """Keep what people said as a data set; delivered twice, it is stored once."""
    try:
        actions.build_dataset(name=name, base=Dataset.objects.get(pk=base_id) if base_id else None)
    except (actions.TrainingError, SourceError) as error:
        logger.warning("The data set %s was not built: %s", name, error)


@shared_task
def learn_when_due() -> None:
    """Build a data set and queue a run where enough was said since the last one."""
    try:
        actions.learn_when_due()
    except (actions.TrainingError, SourceError) as error:
        logger.warning("Nothing was learned: %s", error)
