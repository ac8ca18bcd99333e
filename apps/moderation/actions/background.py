"""Handing work to Celery. What is lost with the broker is found again by the schedule."""

import logging
from functools import partial
from typing import Any

from celery import current_app
from django.db import transaction
from kombu.exceptions import OperationalError

logger = logging.getLogger(__name__)


def _send(task: str, args: tuple[Any, ...], countdown: float) -> None:
    try:
        current_app.send_task(f"apps.moderation.tasks.{task}", args=args, countdown=countdown)
    except (OperationalError, OSError) as error:
        logger.warning(
            "The broker can't be reached, the schedule will do %s: %s", task, error.__class__.__name__
        )


def enqueue(task: str, *args: Any, countdown: float = 0) -> None:
    """Have a task of this app run once the transaction has been committed."""
    transaction.on_commit(partial(_send, task, args, countdown), robust=True)
