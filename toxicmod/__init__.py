"""The project: settings, URLs, the Celery application and system checks."""

from toxicmod.celery import app as celery_app

__all__ = ["celery_app"]
