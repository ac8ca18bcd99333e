"""System checks: a misconfiguration fails at the start, with a hint."""

from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register


@register(Tags.security, deploy=True)
def production_services(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """Production runs on PostgreSQL and Redis, and asks for keys."""
    found: list[CheckMessage] = []
    if not settings.PRODUCTION:
        return [
            Error(
                "These are the embedded defaults.",
                hint="Set PRODUCTION=1 in the environment.",
                id="toxicmod.E001",
            )
        ]
    if settings.DATABASES["default"]["ENGINE"].endswith("sqlite3"):
        found.append(
            Error("The database is SQLite.", hint="Set DATABASE_URL to PostgreSQL's.", id="toxicmod.E002")
        )
    if not settings.REDIS_URL:
        found.append(
            Error(
                "There is no broker: background work would be lost and rate limits kept per process.",
                hint="Set REDIS_URL.",
                id="toxicmod.E003",
            )
        )
    if settings.ANONYMOUS_API:
        found.append(
            Warning("Anybody may use the API without a key.", hint="Unset ANONYMOUS_API.", id="toxicmod.W001")
        )
    return found
