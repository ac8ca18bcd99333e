"""System checks of the settings for production (`manage.py check --deploy`)."""

from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register


@register(Tags.security, deploy=True)
def production_services(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """Check that the site uses PostgreSQL and Redis, and requires API keys."""
    messages: list[CheckMessage] = []
    if not settings.PRODUCTION:
        return [
            Error(
                "The settings are those of `make run`.",
                hint="Set PRODUCTION=1 in the environment.",
                id="toxicmod.E001",
            )
        ]
    if settings.DATABASES["default"]["ENGINE"].endswith("sqlite3"):
        messages.append(
            Error(
                "The database is SQLite.",
                hint="Set DATABASE_URL to the URL of a PostgreSQL database.",
                id="toxicmod.E002",
            )
        )
    if not settings.REDIS_URL:
        messages.append(
            Error(
                "There is no broker: background tasks would be lost, and rate limits apply per process.",
                hint="Set REDIS_URL.",
                id="toxicmod.E003",
            )
        )
    if settings.ANONYMOUS_API:
        messages.append(
            Warning(
                "The API accepts requests without an API key.",
                hint="Unset ANONYMOUS_API.",
                id="toxicmod.W001",
            )
        )
    return messages
