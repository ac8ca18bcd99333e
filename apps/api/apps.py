"""Configuration of the app `api`."""

from django.apps import AppConfig


class APIConfig(AppConfig):
    name = "apps.api"
    verbose_name = "JSON API"
