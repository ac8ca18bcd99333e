"""Configuration of the app `predictions`."""

from django.apps import AppConfig


class PredictionsConfig(AppConfig):
    name = "apps.predictions"
