"""System checks of the settings, most of them for production (`manage.py check --deploy`)."""

from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register


@register(Tags.urls)
def public_url(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """Check that PUBLIC_URL is the address of a site, which Perspective clients and authors get."""
    if not settings.PUBLIC_URL:
        return []
    try:
        url = urlsplit(settings.PUBLIC_URL)
        is_site = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
    except ValueError:
        is_site = False
    if is_site and not (url.path or url.query or url.fragment or url.username):
        return []
    return [
        Error(
            "PUBLIC_URL is not the address of a site.",
            hint="Set it to the scheme and host that clients use, such as https://toxicmod.example.org.",
            id="toxicmod.E004",
        )
    ]


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
    if not settings.PUBLIC_URL.startswith("https://"):
        messages.append(
            Warning(
                "PUBLIC_URL is not an HTTPS address: behind a proxy without X-Forwarded-Proto, the discovery "
                "document would send the API keys of clients through HTTP.",
                hint="Set PUBLIC_URL to the address of the site, such as https://toxicmod.example.org.",
                id="toxicmod.W002",
            )
        )
    return messages
