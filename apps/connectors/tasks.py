"""Celery tasks of connected platforms: thin wrappers around actions."""

from celery import shared_task

from apps.connectors import actions
from apps.core.enqueue import enqueue


@shared_task
def send_actions(connection_id: str) -> None:
    """Send the actions that are due to a platform."""
    actions.send_actions(connection_id=connection_id)


@shared_task
def enqueue_due() -> None:
    """Create actions for new decisions, and enqueue the connections with actions that are due."""
    actions.create_due_actions()
    for connection_id in actions.due_connections():
        enqueue(send_actions, str(connection_id))
