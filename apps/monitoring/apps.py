from django.apps import AppConfig


class MonitoringConfig(AppConfig):
    name = "apps.monitoring"

    def ready(self) -> None:
        from apps.monitoring import checks  # noqa: F401  (registers the check; importable once apps are loaded)
