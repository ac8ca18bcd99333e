"""Enqueue the tasks of this app."""

from typing import Any

from apps.core import enqueue as core


def enqueue(task: str, *args: Any, countdown: float = 0) -> None:
    """Publish a task of this app once the transaction has been committed, see `apps.core.enqueue`."""
    core.enqueue(f"apps.moderation.tasks.{task}", *args, countdown=countdown)
