"""Configuration of the app `connectors`."""

from django.apps import AppConfig


class ConnectorsConfig(AppConfig):
    name = "apps.connectors"
    verbose_name = "Connected platforms"
