"""API keys are created, found by their secrets and revoked."""

from datetime import timedelta

import pytest
from django.core.exceptions import ValidationError
from django.utils import timezone

from apps.accounts.actions import create_api_key, revoke_api_key, update_last_used
from apps.accounts.models import APIKey
from apps.core.permissions import SYSTEM

pytestmark = [pytest.mark.django_db, pytest.mark.database]


def test_for_secret_returns_only_active_key() -> None:
    key, secret = create_api_key(actor=SYSTEM, name="forum")
    assert len(secret) > 40
    assert APIKey.objects.for_secret(secret) == key
    assert APIKey.objects.for_secret(secret[:-1]) is None
    revoke_api_key(actor=SYSTEM, key=key)
    assert APIKey.objects.for_secret(secret) is None


def test_revoke_api_key_twice_keeps_first_time() -> None:
    key, _ = create_api_key(actor=SYSTEM, name="forum")
    revoke_api_key(actor=SYSTEM, key=key)
    key.refresh_from_db()
    first = key.revoked_at
    revoke_api_key(actor=SYSTEM, key=key)
    key.refresh_from_db()
    assert key.revoked_at == first


def test_create_api_key_rejects_rate_of_zero() -> None:
    with pytest.raises(ValidationError, match="at least one request a minute"):
        create_api_key(actor=SYSTEM, name="forum", rate_per_minute=0)
    assert not APIKey.objects.exists()


@pytest.mark.parametrize("scopes", [["everything"], "predict", [1], {"predict": True}])
def test_create_api_key_rejects_unknown_scopes(scopes: list[str]) -> None:
    with pytest.raises(ValidationError):
        create_api_key(actor=SYSTEM, name="forum", scopes=scopes)
    assert not APIKey.objects.exists()


def test_create_api_key_rejects_secret_in_use() -> None:
    create_api_key(actor=SYSTEM, name="one", secret="the same secret")
    with pytest.raises(ValidationError):
        create_api_key(actor=SYSTEM, name="two", secret="the same secret")


def test_update_last_used_writes_at_most_once_a_minute() -> None:
    key, _ = create_api_key(actor=SYSTEM, name="forum")
    update_last_used(key=key)
    key.refresh_from_db()
    first = key.last_used_at
    assert first is not None
    update_last_used(key=key)
    key.refresh_from_db()
    assert key.last_used_at == first
    key.last_used_at = timezone.now() - timedelta(minutes=2)
    update_last_used(key=key)
    key.refresh_from_db()
    assert key.last_used_at is not None
    assert key.last_used_at > first
