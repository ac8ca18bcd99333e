"""Configuration of the app `training`."""

from django.apps import AppConfig


class TrainingConfig(AppConfig):
    name = "apps.training"
