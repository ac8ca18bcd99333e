"""Celery's doors to the actions."""

import logging
from datetime import timedelta

from celery import shared_task

from apps.moderation import actions, insight
from apps.moderation.actions.background import enqueue
from apps.moderation.errors import ModerationError
from apps.moderation.models import Delivery
from apps.registry.exceptions import NoModelError

logger = logging.getLogger(__name__)


@shared_task
def deliver(delivery_id: str) -> None:
    """Send a webhook, and those to the same endpoint that are due as well."""
    delivery = Delivery.objects.filter(pk=delivery_id).first()
    if delivery:
        actions.deliver_endpoint(endpoint_id=delivery.endpoint_id)


@shared_task
def deliver_endpoint(endpoint_id: int) -> None:
    """Send the webhooks to an endpoint that are due."""
    actions.deliver_endpoint(endpoint_id=endpoint_id)


@shared_task
def deliver_due() -> None:
    """Enqueue the endpoints to which webhooks are due: retries, and those whose own message was lost."""
    for endpoint_id in actions.due_endpoints(late=timedelta(seconds=2)):
        enqueue("deliver_endpoint", endpoint_id)


@shared_task
def expire_leases() -> None:
    """Return items whose lease has run out."""
    actions.expire_leases()


@shared_task
def run_bulk(job_id: int) -> None:
    """Work a bulk job off."""
    actions.run_bulk(job_id=job_id)


@shared_task
def resume_bulk_jobs() -> None:
    """Go on with bulk jobs whose message or worker was lost."""
    actions.resume_bulk_jobs()


@shared_task(throws=(ModerationError, NoModelError))
def queue_to_learn() -> None:
    """Put the day's comments to learn from into the queue, once a day."""
    try:
        actions.queue_to_learn_when_due()
    except (ModerationError, NoModelError) as error:
        logger.warning("Nothing was queued to learn from: %s", error)
        raise


@shared_task
def log_queue_age() -> None:
    """Say in the log how long the oldest item has waited."""
    insight.log_queue_age()
