"""Celery tasks of monitoring; each calls an action."""

import logging
from uuid import UUID

from celery import shared_task

from apps.core.enqueue import enqueue
from apps.mirror.exceptions import MirrorError
from apps.monitoring import actions
from apps.monitoring.exceptions import IncompleteRollupError, RuleEvaluationError

logger = logging.getLogger(__name__)


# These exceptions are expected: the task counts as failed, which the dashboard shows and an alert reports.
@shared_task(throws=(IncompleteRollupError, MirrorError))
def roll_up() -> None:
    """Count the hours that have changed."""
    actions.roll_up()


@shared_task
def refresh_baselines() -> None:
    """Store the champion's baseline, and compare last week's comments with it.

    The comparison is another task, so that the encoder and scikit-learn are not in memory together.
    """
    actions.refresh_baselines()
    enqueue(compare_last_week)


@shared_task
def compare_last_week() -> None:
    """Compare last week's comments with the champion's."""
    actions.compare_last_week()


@shared_task(throws=(RuleEvaluationError,))
def evaluate_rules() -> None:
    """Open and close alerts."""
    try:
        actions.evaluate_rules()
    except RuleEvaluationError as error:
        logger.error("%s", error)
        raise


@shared_task
def send_notifications() -> None:
    """Enqueue a task for each notification that is due, because a receiver may respond slowly."""
    for notification_id in actions.due_notifications():
        enqueue(send_notification, str(notification_id), expires=30)


@shared_task
def send_notification(notification_id: str) -> None:
    """Send a notification about an alert."""
    actions.send_notification(notification_id=UUID(notification_id))
