"""Configuration of the app `registry`."""

from pathlib import Path

from django.apps import AppConfig
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from apps.classifier import encoder
from apps.classifier.encoder import Mode


class RegistryConfig(AppConfig):
    name = "apps.registry"

    def ready(self) -> None:
        """Apply the settings of the encoder.

        Raises:
            ImproperlyConfigured: ENCODER has another value.
        """
        if settings.ENCODER not in list(Mode):
            raise ImproperlyConfigured(f"ENCODER must be auto, always or never, not {settings.ENCODER!r}.")
        encoder.configuration.mode = Mode(settings.ENCODER)
        if settings.ENCODER_DIR:
            encoder.configuration.folder = Path(settings.ENCODER_DIR)
