"""The results of scheduled tasks."""

from django.db import models
from django.utils import timezone


class ScheduledTask(models.Model):
    """The result of a scheduled task's last runs; see `monitoring.schedules`."""

    task = models.CharField(max_length=200, primary_key=True)
    created_at = models.DateTimeField(
        default=timezone.now, help_text="The task is expected to run from this time on."
    )
    succeeded_at = models.DateTimeField(null=True, help_text="Last success, accurate to 30 seconds.")
    failures = models.PositiveIntegerField(default=0, help_text="Consecutive failures.")
    failing_since = models.DateTimeField(null=True)
    error = models.CharField(max_length=300, blank=True)

    class Meta:
        ordering = ("task",)

    def __str__(self) -> str:
        return self.task
