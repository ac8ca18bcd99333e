"""What a Celery worker does of monitoring."""

from celery import shared_task

from apps.monitoring import references, rollups


@shared_task
def roll_up() -> None:
    """Count the hours that have changed."""
    rollups.roll_up()


@shared_task
def look_deeper() -> None:
    """Prepare the champion's reference, and tell last week's words from it."""
    references.look_deeper()
