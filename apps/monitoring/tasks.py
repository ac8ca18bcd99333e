"""What a Celery worker does of monitoring."""

from celery import shared_task

from apps.monitoring import alerts, references, rollups


@shared_task
def roll_up() -> None:
    """Count the hours that have changed."""
    rollups.roll_up()


@shared_task
def look_deeper() -> None:
    """Prepare the champion's reference, and tell last week's words from it."""
    references.look_deeper()


@shared_task
def watch() -> None:
    """Open and close alerts."""
    alerts.evaluate()


@shared_task
def tell() -> None:
    """Send what is to be told of alerts."""
    alerts.send_due_notices()
