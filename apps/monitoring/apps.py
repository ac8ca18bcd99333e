"""Configuration of the app `monitoring`."""

from django.apps import AppConfig
from django.db.models.signals import post_migrate


class MonitoringConfig(AppConfig):
    name = "apps.monitoring"

    def ready(self) -> None:
        from apps.monitoring import checks, schedules  # noqa: F401  (registers checks and signal handlers)

        post_migrate.connect(schedules.create_rows, sender=self)
