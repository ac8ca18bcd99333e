"""Celery tasks of the model registry."""

import logging

from celery import shared_task

from apps.registry import tracking
from apps.registry.exceptions import TrackingError

logger = logging.getLogger(__name__)


@shared_task(throws=(TrackingError,))
def sync_tracking() -> None:
    """Copy the aliases of model versions to MLflow. The schedule repeats it after an outage."""
    try:
        tracking.sync()
    except TrackingError as error:
        logger.warning("%s. The schedule will try again.", error)
        raise
