"""Celery beat's scheduler for the week: the product's, except that it looks for due schedules more often.

It waits by the monotonic clock, so it notices only after its interval that the test has moved the clock.
"""

from typing import Any

from celery.beat import PersistentScheduler


class Scheduler(PersistentScheduler):
    """Looks for due schedules five times a second."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.max_interval = 0.2
