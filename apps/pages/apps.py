"""Configuration of the app `pages`."""

from django.apps import AppConfig


class PagesConfig(AppConfig):
    name = "apps.pages"
