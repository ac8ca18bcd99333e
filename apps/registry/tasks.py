"""Celery tasks of the model registry."""

import logging

from celery import shared_task
from django.core.cache import cache

from apps.registry import tracking
from apps.registry.exceptions import TrackingError
from apps.registry.models import ModelVersion

logger = logging.getLogger(__name__)

_SYNCED, _SYNC_SECONDS = "registry:synced", 3_600


@shared_task(throws=(TrackingError,))
def sync_tracking() -> None:
    """Copy the aliases of model versions to MLflow. The schedule repeats it after an outage.

    Aliases that have not changed are copied once an hour, because MLflow's client takes 200 MB.
    """
    aliases = dict(ModelVersion.objects.exclude(alias=None).values_list("alias", "number"))
    if cache.get(_SYNCED) == aliases:
        return
    try:
        tracking.sync()
        cache.set(_SYNCED, aliases, _SYNC_SECONDS)
    except TrackingError as error:
        logger.warning("%s. The schedule will try again.", error)
        raise
