"""What a Celery worker does of monitoring."""

import logging
from uuid import UUID

from celery import shared_task

from apps.core.enqueue import enqueue
from apps.monitoring import alerts, references, rollups
from apps.predictions.mirror import MirrorError

logger = logging.getLogger(__name__)


# What is raised on purpose makes the schedule fail, which the dashboard shows and an alert reports.
@shared_task(throws=(rollups.IncompleteCountError, MirrorError))
def roll_up() -> None:
    """Count the hours that have changed."""
    rollups.roll_up()


@shared_task
def refresh_baselines() -> None:
    """Prepare the champion's reference, and tell last week's words from it."""
    references.look_deeper()


@shared_task(throws=(alerts.EvaluationError,))
def evaluate_rules() -> None:
    """Open and close alerts."""
    try:
        alerts.evaluate()
    except alerts.EvaluationError as error:
        logger.error("%s", error)
        raise


@shared_task
def send_notifications() -> None:
    """Enqueue the notices of alerts that are due, each by itself: a receiver may be slow."""
    for notice_id in alerts.due_notices():
        enqueue("apps.monitoring.tasks.send_notification", str(notice_id), expires=30)


@shared_task
def send_notification(notification_id: str) -> None:
    """Send a notice of an alert."""
    alerts.send_notice(notice_id=UUID(notification_id))
