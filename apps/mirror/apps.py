"""Configuration of the app `mirror`."""

from django.apps import AppConfig


class MirrorConfig(AppConfig):
    name = "apps.mirror"
