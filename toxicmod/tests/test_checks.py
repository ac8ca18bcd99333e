"""The system checks of the settings."""

import pytest
from pytest_django import Settings

from toxicmod.checks import production_services, public_url


@pytest.mark.parametrize(
    ("url", "is_valid"),
    [
        ("", True),
        ("https://toxicmod.example.org", True),
        ("http://127.0.0.1:8000", True),
        ("toxicmod.example.org", False),
        ("https://", False),
        ("https://toxicmod.example.org/path", False),
        ("https://user@toxicmod.example.org", False),
        ("https://[::1", False),
        ("https://a:b", False),
        ("ftp://toxicmod.example.org", False),
    ],
)
def test_public_url_is_address_of_site(settings: Settings, url: str, is_valid: bool) -> None:
    settings.PUBLIC_URL = url
    assert [message.id for message in public_url(None)] == ([] if is_valid else ["toxicmod.E004"])


def test_production_services_warns_without_https(settings: Settings) -> None:
    settings.PRODUCTION = True
    settings.PUBLIC_URL = "http://toxicmod.example.org"
    assert "toxicmod.W002" in [message.id for message in production_services(None)]
    settings.PUBLIC_URL = "https://toxicmod.example.org"
    assert "toxicmod.W002" not in [message.id for message in production_services(None)]
