"""Celery tasks of the mirror; the schedule calls them."""

from celery import shared_task

from apps.mirror import sender, triggers


@shared_task
def flush() -> None:
    """Copy the records of the change log to DynamoDB."""
    sender.flush()


@shared_task
def sync_triggers() -> None:
    """Install or remove the triggers of the change log and log the replication lag."""
    triggers.sync_triggers()
