"""What a Celery worker does of the registry."""

from celery import shared_task

from apps.registry import tracking


@shared_task(
    autoretry_for=(tracking.TrackingError,), retry_backoff=30, retry_backoff_max=3600, max_retries=None
)
def sync_tracking() -> None:
    """Bring MLflow's aliases in step with ours, again and again until MLflow answers."""
    tracking.sync()
