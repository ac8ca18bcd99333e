"""What a Celery worker does of training."""

from celery import shared_task

from apps.registry.tasks import sync_tracking
from apps.training import actions
from apps.training.models import TrainingRun


@shared_task
def train_model(run_id: int) -> None:
    """Carry out a queued run. Delivered twice, it trains once; a failure is kept with the run."""
    actions.train(run=TrainingRun.objects.get(pk=run_id))
    sync_tracking.delay()
