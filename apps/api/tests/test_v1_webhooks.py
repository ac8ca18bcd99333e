"""The webhooks part of `/api/v1/`."""

import hashlib
import hmac
from pathlib import Path
from typing import Any

import pytest
from django.test import Client

from apps.accounts.actions import create_api_key
from apps.accounts.models import APIKey, Scope
from apps.core.permissions import SYSTEM
from apps.webhooks import signing
from apps.webhooks.models import SigningKey
from apps.webhooks.signing import secret_of
from toxicmod.testing.receivers import Receiver

pytestmark = [pytest.mark.django_db, pytest.mark.database]
KEYS = "/api/v1/webhooks/keys"
TEST = "/api/v1/webhooks/test"


@pytest.fixture
def platform() -> tuple[APIKey, dict[str, Any]]:
    key, secret = create_api_key(actor=SYSTEM, name="platform", scopes=[Scope.WEBHOOKS])
    return key, {"headers": {"Authorization": f"Api-Key {secret}"}, "content_type": "application/json"}


def test_rotate_signing_key(client: Client, platform: tuple[APIKey, dict[str, Any]]) -> None:
    key, auth = platform
    assert client.get(KEYS, headers=auth["headers"]).json() == []
    first = client.post(KEYS, **auth)
    assert first.status_code == 201
    assert first["Cache-Control"] == "no-store"
    second = client.post(KEYS, {"overlap_hours": 1}, **auth).json()
    assert len(second["secret"]) == 64
    for created in (first.json(), second):
        signing_key = SigningKey.objects.get(key_id=created["key_id"])
        assert (signing_key.api_key, secret_of(signing_key)) == (key, created["secret"])
    assert second["secret"] != first.json()["secret"]
    assert client.post(KEYS, **auth).status_code == 409
    listed = client.get(KEYS, headers=auth["headers"]).json()
    assert [row["key_id"] for row in listed] == [second["key_id"], first.json()["key_id"]]
    assert "secret" not in listed[0]
    assert client.delete(f"{KEYS}/{first.json()['key_id']}", **auth).status_code == 204
    assert client.delete(f"{KEYS}/{first.json()['key_id']}", **auth).status_code == 404
    assert client.delete(f"{KEYS}/{second['key_id']}", **auth).status_code == 409
    assert SigningKey.objects.active().get().created_by.startswith(f"API key {key.hint}")


@pytest.mark.parametrize("hours", [-1, 721, "soon", 1.5])
def test_rotate_rejects_invalid_overlap(
    client: Client, platform: tuple[APIKey, dict[str, Any]], hours: object
) -> None:
    assert client.post(KEYS, {"overlap_hours": hours}, **platform[1]).status_code == 400
    assert client.post(KEYS, {"overlap": 1}, **platform[1]).status_code == 400
    assert not SigningKey.objects.exists()


def test_signing_keys_need_scope_and_own_key(
    client: Client, platform: tuple[APIKey, dict[str, Any]], auth: dict[str, Any]
) -> None:
    key_id = client.post(KEYS, **platform[1]).json()["key_id"]
    assert client.get(KEYS, **auth).status_code == 403
    assert client.get(KEYS).status_code == 401
    _, secret = create_api_key(actor=SYSTEM, name="other", scopes=[Scope.WEBHOOKS])
    headers = {"Authorization": f"Api-Key {secret}"}
    assert client.get(KEYS, headers=headers).json() == []
    assert client.delete(f"{KEYS}/{key_id}", headers=headers).status_code == 404


def test_secret_verifies_webhook_as_documented(
    client: Client, platform: tuple[APIKey, dict[str, Any]], receiver: Receiver
) -> None:
    created = client.post(KEYS, **platform[1]).json()
    assert client.post(TEST, {"url": receiver.url}, **platform[1]).json()["is_signed"]
    headers, body, _ = receiver.got[0]
    parts = dict(part.split("=", 1) for part in headers["Webhook-Signature"].split(", "))
    signed = parts.pop("t").encode() + b"." + body
    expected = hmac.new(created["secret"].encode(), signed, hashlib.sha256).hexdigest()
    assert parts == {created["key_id"]: expected}
    readme = (Path(signing.__file__).parent / "README.md").read_text()
    for documented in ("`t=TIME, ID=HEX`", "HMAC-SHA256 of `TIME.BODY`", "POST /api/v1/webhooks/keys"):
        assert documented in readme


def test_send_test_webhook(
    client: Client,
    platform: tuple[APIKey, dict[str, Any]],
    receiver: Receiver,
) -> None:
    receiver.body = b"ok"
    result = client.post(TEST, {"url": receiver.url}, **platform[1]).json()
    assert (result["is_delivered"], result["is_signed"], result["status"]) == (True, False, 200)
    assert result["excerpt"] == "ok"
    receiver.status = 410
    client.post(KEYS, **platform[1])
    result = client.post(TEST, {"url": receiver.url}, **platform[1]).json()
    assert (result["is_delivered"], result["is_signed"], result["status"]) == (False, True, 410)
    assert "410 Gone" in result["error"]
    assert client.post(TEST, {"url": "no"}, **platform[1]).status_code == 400


def test_send_test_webhook_rejects_private_address(
    client: Client, platform: tuple[APIKey, dict[str, Any]]
) -> None:
    for url in ("http://127.0.0.1/", "http://[::127.0.0.1]/", "http://169.254.169.254/latest/meta-data/"):
        result = client.post(TEST, {"url": url}, **platform[1]).json()
        assert not result["is_delivered"]
        assert "public internet" in result["error"]
