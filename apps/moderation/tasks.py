"""Celery tasks of moderation: thin wrappers around actions."""

import logging
from datetime import timedelta

from celery import shared_task

from apps.core.enqueue import enqueue
from apps.moderation import actions, statistics
from apps.moderation.exceptions import ModerationError
from apps.moderation.models import Delivery
from apps.registry.exceptions import NoModelError

logger = logging.getLogger(__name__)


@shared_task
def deliver(delivery_id: str) -> None:
    """Send a webhook and the others that are due to the same endpoint."""
    delivery = Delivery.objects.filter(pk=delivery_id).first()
    if delivery:
        actions.deliver_endpoint(endpoint_id=delivery.endpoint_id)


@shared_task
def deliver_endpoint(endpoint_id: int) -> None:
    """Send the webhooks that are due to an endpoint."""
    actions.deliver_endpoint(endpoint_id=endpoint_id)


@shared_task
def deliver_due() -> None:
    """Enqueue the endpoints to which webhooks are due: retries, and those whose message was lost."""
    for endpoint_id in actions.due_endpoints(overdue=timedelta(seconds=2)):
        enqueue(deliver_endpoint, endpoint_id)


@shared_task
def expire_leases() -> None:
    """End expired leases."""
    actions.expire_leases()


@shared_task
def run_bulk(job_id: int) -> None:
    """Apply or undo a bulk job."""
    actions.run_bulk(job_id=job_id)


@shared_task
def resume_bulk_jobs() -> None:
    """Continue bulk jobs whose message or worker was lost."""
    actions.resume_bulk_jobs()


@shared_task(throws=(ModerationError, NoModelError))
def queue_for_labeling() -> None:
    """Queue comments for active learning, once a day."""
    try:
        actions.queue_for_labeling_if_due()
    except (ModerationError, NoModelError) as error:
        logger.warning("No comments were queued for active learning: %s", error)
        raise


@shared_task
def log_queue_age() -> None:
    """Log how long the oldest open item has waited."""
    statistics.log_queue_age()
