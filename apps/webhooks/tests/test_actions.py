"""Rotation and end of signing keys; test webhooks."""

import hashlib
import hmac
import json
from datetime import timedelta

import pytest
from django.core.exceptions import PermissionDenied
from django.core.management import CommandError, call_command
from django.utils import timezone

from apps.accounts.actions import create_api_key
from apps.accounts.models import APIKey, Scope, User
from apps.core.permissions import SYSTEM, SystemActor
from apps.webhooks import actions, signing
from apps.webhooks.actions import end_signing_key, rotate_signing_key, send_test
from apps.webhooks.exceptions import WebhookError
from apps.webhooks.models import SigningKey
from toxicmod.testing.receivers import Receiver

pytestmark = [pytest.mark.django_db, pytest.mark.database]
ACTOR = SystemActor("ada")


@pytest.fixture
def platform(api_key: tuple[APIKey, str]) -> APIKey:
    return api_key[0]


def active(platform: APIKey) -> list[str]:
    return [key.key_id for key in SigningKey.objects.active().filter(api_key=platform)]


def test_rotate_signing_key_keeps_old_key_during_overlap(platform: APIKey) -> None:
    old, old_secret = rotate_signing_key(api_key=platform, actor=ACTOR)
    new, new_secret = rotate_signing_key(api_key=platform, actor=ACTOR, overlap=timedelta(hours=2))
    assert old_secret != new_secret
    assert active(platform) == [new.key_id, old.key_id]
    old.refresh_from_db()
    assert old.expires_at is not None
    assert timedelta(minutes=119) < old.expires_at - timezone.now() <= timedelta(hours=2)
    assert (old.created_by, old.expired_by) == ("ada", "ada")
    SigningKey.objects.filter(pk=old.pk).update(expires_at=timezone.now())
    assert active(platform) == [new.key_id]


def test_rotate_signing_key_rejects_second_rotation(platform: APIKey) -> None:
    """A second click must not end the secret that the receiver has."""
    old, _ = rotate_signing_key(api_key=platform, actor=ACTOR)
    lost, _ = rotate_signing_key(api_key=platform, actor=ACTOR)
    with pytest.raises(WebhookError, match="in progress"):
        rotate_signing_key(api_key=platform, actor=ACTOR)
    # The new secret got lost: it is ended, and the old one does not expire.
    end_signing_key(api_key=platform, key_id=lost.key_id, actor=ACTOR)
    assert active(platform) == [old.key_id]
    old.refresh_from_db()
    assert old.expires_at is None
    new, _ = rotate_signing_key(api_key=platform, actor=ACTOR)
    end_signing_key(api_key=platform, key_id=old.key_id, actor=ACTOR)
    assert active(platform) == [new.key_id]


def test_rotate_signing_key_without_overlap(platform: APIKey) -> None:
    rotate_signing_key(api_key=platform, actor=ACTOR)
    new, _ = rotate_signing_key(api_key=platform, actor=ACTOR, overlap=timedelta(0))
    assert active(platform) == [new.key_id]


def test_end_signing_key_rejects_only_key(platform: APIKey) -> None:
    key, _ = rotate_signing_key(api_key=platform, actor=ACTOR)
    with pytest.raises(WebhookError, match="only signing secret"):
        end_signing_key(api_key=platform, key_id=key.key_id, actor=ACTOR)
    with pytest.raises(WebhookError, match="no active signing secret"):
        end_signing_key(api_key=platform, key_id="unknown", actor=ACTOR)


@pytest.mark.parametrize("overlap", [timedelta(seconds=-1), timedelta(days=31)])
def test_rotate_signing_key_rejects_invalid_overlap(platform: APIKey, overlap: timedelta) -> None:
    with pytest.raises(WebhookError, match="0 to 720 hours"):
        rotate_signing_key(api_key=platform, actor=ACTOR, overlap=overlap)


def test_actions_require_permission_or_scope(platform: APIKey) -> None:
    other, _ = create_api_key(actor=SYSTEM, name="other", scopes=[Scope.WEBHOOKS])
    # A new key has every scope but this one.
    for actor in (User.objects.create_user("lea"), platform, other):
        with pytest.raises(PermissionDenied):
            rotate_signing_key(api_key=platform, actor=actor)
        with pytest.raises(PermissionDenied):
            end_signing_key(api_key=platform, key_id="unknown", actor=actor)
        with pytest.raises(PermissionDenied):
            send_test(api_key=platform, url="https://platform.example/", actor=actor)
    platform.scopes = [Scope.WEBHOOKS]
    key, _ = rotate_signing_key(api_key=platform, actor=platform)
    assert key.created_by.startswith("API key")


def test_send_test_signs_and_returns_response(platform: APIKey, receiver: Receiver) -> None:
    receiver.body = b"thank you"
    _, secret = rotate_signing_key(api_key=platform, actor=ACTOR)
    attempt = send_test(api_key=platform, url=receiver.url, actor=ACTOR)
    assert (attempt.is_delivered, attempt.status, attempt.excerpt) == (True, 200, "thank you")
    headers, body, _ = receiver.got[0]
    assert json.loads(body)["event"] == "test"
    time, signature = headers["Webhook-Signature"].split(", ")
    signed = time.removeprefix("t=").encode() + b"." + body
    assert signature.split("=")[1] == hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()
    receiver.status = 410
    assert "410 Gone" in send_test(api_key=platform, url=receiver.url, actor=ACTOR).sentence
    assert "public" not in send_test(api_key=None, url="http://", actor=ACTOR).sentence


def test_send_test_rejects_third_concurrent_test(platform: APIKey, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signing, "send", lambda **options: send_test(api_key=None, url="x", actor=ACTOR))
    with pytest.raises(WebhookError, match="Try again"):
        send_test(api_key=platform, url="https://platform.example/", actor=ACTOR)
    assert actions._tests.acquire(blocking=False)
    actions._tests.release()


def run(*args: str, capsys: pytest.CaptureFixture[str]) -> str:
    call_command("webhook_keys", *args)
    return capsys.readouterr().out


def test_webhook_keys_command(
    platform: APIKey, receiver: Receiver, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "not signed" in run(capsys=capsys)
    key_id, secret = run("test", "--rotate", capsys=capsys).split()
    assert active(platform) == [key_id]
    assert run(str(platform.pk), "--show", capsys=capsys).split() == [key_id, secret]
    second = run("test", "--rotate", "--overlap", "1", capsys=capsys).split()[0]
    listed = run(capsys=capsys)
    assert second in listed
    assert f"{key_id} until" in listed
    assert "does not sign any more" in run("test", "--end", key_id, capsys=capsys)
    assert "Delivered. The receiver responded 200." in run("test", "--test", receiver.url, capsys=capsys)
    receiver.status = 404
    for args, message in [
        (["test", "--test", receiver.url], "404 Not Found"),
        (["test", "--end", key_id], "no active signing secret"),
        (["test", "--rotate", "--overlap", "1000"], "from 0.0 to 720.0"),
        (["nobody", "--rotate"], "no active API key nobody"),
        (["--rotate"], "Name the platform"),
    ]:
        with pytest.raises(CommandError, match=message):
            call_command("webhook_keys", *args)
