"""Configuration of the app `moderation`."""

from django.apps import AppConfig


class ModerationConfig(AppConfig):
    name = "apps.moderation"
