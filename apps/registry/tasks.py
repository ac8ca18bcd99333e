"""What a Celery worker does of the registry."""

import logging

from celery import shared_task

from apps.registry import tracking
from apps.registry.exceptions import TrackingError

logger = logging.getLogger(__name__)


@shared_task(throws=(TrackingError,))
def sync_tracking() -> None:
    """Bring MLflow's aliases in step with ours; after an outage the schedule makes up for it."""
    try:
        tracking.sync()
    except TrackingError as error:
        logger.warning("%s. The schedule will try again.", error)
        raise
