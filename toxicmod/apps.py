from django.apps import AppConfig


class ToxicmodConfig(AppConfig):
    name = "toxicmod"

    def ready(self) -> None:
        from toxicmod import checks  # noqa: F401  (registers the checks; importable only once apps are loaded)
