"""The outbox, signatures, and what webhooks may not reach."""

import hashlib
import hmac
import json
import socket
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from django.core.exceptions import PermissionDenied
from django.core.management import call_command
from django.utils import timezone
from pytest_django import Settings

from apps.accounts.models import APIKey, User
from apps.moderation import actions, webhooks
from apps.moderation.errors import ModerationError
from apps.moderation.models import Delivery, QueueItem, WebhookKey
from apps.moderation.tests.test_actions import decided

pytestmark = [pytest.mark.django_db, pytest.mark.database]


class Receiver(ThreadingHTTPServer):
    """A platform that keeps what it is sent and answers as it is told."""

    def __init__(self) -> None:
        self.status = 200
        self.got: list[tuple[dict[str, str], bytes, str]] = []
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/hook?platform=1"


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.got.append((dict(self.headers), body, self.path))
        self.send_response(self.server.status)
        if self.server.status == 302:
            self.send_header("Location", f"http://127.0.0.1:{self.server.server_port}/elsewhere")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def receiver(settings: Settings) -> Iterator[Receiver]:
    settings.WEBHOOK_ALLOW_PRIVATE = True
    server = Receiver()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def delivery(item: QueueItem, ann: User, receiver: Receiver) -> Delivery:
    """A rejection that is to be announced at once."""
    found = decided(item, ann).delivery
    assert found is not None
    Delivery.objects.update(url=receiver.url, send_after=timezone.now())
    return found


def again(delivery: Delivery) -> Delivery:
    """Make a delivery due and try it."""
    Delivery.objects.filter(pk=delivery.pk).update(send_after=timezone.now())
    actions.deliver(delivery_id=str(delivery.pk))
    delivery.refresh_from_db()
    return delivery


def test_a_delivery_is_signed_by_both_keys(
    delivery: Delivery, receiver: Receiver, client_key: APIKey, person: Callable[..., User]
) -> None:
    admin = person("ada", "administrator")
    old = webhooks.active_keys(client_key)[0]
    new = actions.rotate_webhook_key(client=client_key, user=admin)
    actions.deliver(delivery_id=str(delivery.pk))
    headers, body, path = receiver.got[0]
    assert path == "/hook?platform=1"
    parts = dict(part.split("=", 1) for part in headers["Webhook-Signature"].split(", "))
    for key in (old, new):
        expected = hmac.new(
            webhooks.secret_of(key).encode(), f"{parts['t']}.".encode() + body, hashlib.sha256
        ).hexdigest()
        assert parts[key.key_id] == expected
    told = json.loads(body)
    assert (told["outcome"], told["reasons"][0]["label"]) == ("reject", "insult")
    assert webhooks.decision_of_token(told["appeal_token"]) == told["decision_id"]
    assert told["statement_of_reasons"]["automated_decision"] == "AUTOMATED_DECISION_NOT_AUTOMATED"
    assert "you fool" not in body.decode()
    assert "ann" not in told.values()
    third = actions.rotate_webhook_key(client=client_key, user=admin)
    assert webhooks.active_keys(client_key) == [third, new]
    actions.retire_webhook_key(key=new, user=admin)
    assert webhooks.active_keys(client_key) == [third]


def test_only_who_may_change_keys_rotates_them(client_key: APIKey, lea: User) -> None:
    with pytest.raises(PermissionDenied):
        actions.rotate_webhook_key(client=client_key, user=lea)
    assert not WebhookKey.objects.exists()


@pytest.mark.parametrize("status", [301, 302, 404, 429, 500])
def test_anything_but_2xx_is_tried_again(delivery: Delivery, receiver: Receiver, status: int) -> None:
    receiver.status = status
    again(delivery)
    assert (delivery.status, delivery.attempts, delivery.response_status) == ("pending", 1, status)
    assert timedelta(seconds=8) < delivery.send_after - timezone.now() < timedelta(seconds=12)
    assert actions.deliver(delivery_id=str(delivery.pk)) is None
    again(delivery)
    assert delivery.send_after - timezone.now() > timedelta(seconds=17)
    assert len(receiver.got) == 2
    receiver.status = 204
    assert again(delivery).status == "delivered"
    assert actions.deliver(delivery_id=str(delivery.pk)) is None


def test_a_delivery_is_given_up_and_can_be_sent_again(
    delivery: Delivery, receiver: Receiver, lea: User, ann: User
) -> None:
    receiver.status = 500
    for _ in range(12):
        again(delivery)
    assert (delivery.status, delivery.attempts) == ("dead", 12)
    with pytest.raises(PermissionDenied):
        actions.resend(delivery_id=str(delivery.pk), user=ann)
    receiver.status = 200
    actions.resend(delivery_id=str(delivery.pk), user=lea)
    assert again(delivery).status == "delivered"
    with pytest.raises(ModerationError):
        actions.resend(delivery_id=str(delivery.pk), user=lea)


def test_nobody_answers(delivery: Delivery) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        Delivery.objects.update(url=f"http://127.0.0.1:{closed.getsockname()[1]}/")
        again(delivery)
    assert delivery.status == "pending"
    assert "no answer" in delivery.error


def test_a_dead_senders_delivery_is_taken_over_and_it_can_not_interfere(
    delivery: Delivery, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def send_slowly(slow: Delivery) -> int:
        monkeypatch.undo()
        again(delivery)
        return 500

    monkeypatch.setattr(webhooks, "send", send_slowly)
    actions.deliver(delivery_id=str(delivery.pk))
    delivery.refresh_from_db()
    assert (delivery.status, delivery.attempts) == ("delivered", 2)


def test_an_undo_while_it_is_being_sent(
    delivery: Delivery, receiver: Receiver, ann: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    def send_while_undone(sent: Delivery) -> int:
        monkeypatch.undo()
        actions.undo(decision_id=delivery.decision_id, user=ann)
        return 500

    monkeypatch.setattr(webhooks, "send", send_while_undone)
    actions.deliver(delivery_id=str(delivery.pk))
    delivery.refresh_from_db()
    assert delivery.status == "cancelled"
    assert Delivery.objects.get(event="decision.reversed").status == "pending"


def test_the_command_sends_what_is_due(
    delivery: Delivery, receiver: Receiver, capsys: pytest.CaptureFixture[str]
) -> None:
    call_command("deliver_webhooks")
    assert "Delivered 1 of 1" in capsys.readouterr().out
    assert len(receiver.got) == 1


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "255.255.255.255",
        "168.63.129.16",
        "::1",
        "::",
        "fe80::1",
        "fc00::1",
        "fd00:ec2::254",
        "ff02::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "2002:7f00:1::",
        "64:ff9b::7f00:1",
        "2001:db8::1",
    ],
)
def test_addresses_that_are_not_public(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not webhooks.is_public(address)
    answers = [(0, 0, 0, "", ("93.184.216.34", 80)), (0, 0, 0, "", (address, 80))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: answers)
    with pytest.raises(webhooks.RefusedAddressError, match="public"):
        webhooks.post(url="http://rebind.example/", body=b"", headers={})


@pytest.mark.parametrize("address", ["93.184.216.34", "8.8.8.8", "2606:4700::1111", "64:ff9b::808:808"])
def test_addresses_that_are_public(address: str) -> None:
    assert webhooks.is_public(address)


@pytest.mark.parametrize(
    "url",
    [
        "ftp://platform.example/",
        "file:///etc/passwd",
        "http://user:secret@platform.example/",
        "http://",
        "http://platform.example:99999/",
        "http://2130706433/",
        "http://0x7f.1/",
        "http://localhost/",
        "http://[::1]/",
    ],
)
def test_urls_that_are_refused(url: str) -> None:
    with pytest.raises(webhooks.RefusedAddressError):
        webhooks.post(url=url, body=b"", headers={})


def test_the_checked_address_is_the_one_that_is_called(
    receiver: Receiver, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that points elsewhere when it is asked a second time gains nothing: it is asked once."""
    asked: list[str] = []
    real = socket.getaddrinfo

    def answer(host: str, *args: Any, **kwargs: Any) -> Any:
        asked.append(host)
        return real("127.0.0.1", *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    status = webhooks.post(url=f"http://platform.example:{receiver.server_port}/", body=b"{}", headers={})
    assert status == 200
    assert asked[0] == "platform.example"
    assert "platform.example" not in asked[1:]
    assert receiver.got[0][0]["Host"] == f"platform.example:{receiver.server_port}"


def test_a_refused_address_is_given_up_like_any_failure(item: QueueItem, ann: User) -> None:
    delivery = decided(item, ann).delivery
    assert delivery is not None
    Delivery.objects.update(url="http://169.254.169.254/latest/meta-data/")
    again(delivery)
    assert delivery.status == "pending"
    assert "public internet" in delivery.error
