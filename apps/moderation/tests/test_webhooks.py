"""The outbox: order, retries, pauses, and what a receiver is sent."""

import hashlib
import hmac
import json
import socket
import threading
import time
from collections.abc import Callable
from datetime import timedelta

import pytest
from django.core.exceptions import PermissionDenied
from django.core.management import call_command
from django.utils import timezone

from apps.accounts.models import APIKey, User
from apps.moderation import actions, webhooks
from apps.moderation.actions import deliveries
from apps.moderation.exceptions import ModerationError
from apps.moderation.models import Decision, Delivery, QueueItem
from apps.webhooks import signing
from apps.webhooks.actions import rotate_signing_key
from apps.webhooks.models import Endpoint
from apps.webhooks.retries import Attempt
from toxicmod.testing.factories import create_queue_item, decide_item
from toxicmod.testing.receivers import Receiver, drip, raw_server

pytestmark = [pytest.mark.django_db, pytest.mark.database]


@pytest.fixture
def delivery(item: QueueItem, ann: User, receiver: Receiver) -> Delivery:
    """A rejection that is to be announced at once."""
    found = decide_item(item, ann).delivery
    assert found is not None
    Delivery.objects.update(url=receiver.url, send_after=timezone.now())
    Endpoint.objects.update(origin=receiver.url.partition("/hook")[0])
    return found


def again(delivery: Delivery) -> Delivery:
    """Make a delivery due, whatever its endpoint waits for, and try it."""
    Delivery.objects.filter(pk=delivery.pk).update(send_after=timezone.now())
    Endpoint.objects.update(paused_until=None, busy_until=None)
    actions.deliver(delivery_id=str(delivery.pk))
    delivery.refresh_from_db()
    return delivery


def pass_time(span: timedelta) -> None:
    """Let everything that waits have waited for so much longer."""
    for delivery in Delivery.objects.all():
        delivery.send_after -= span
        delivery.retry_until -= span
        delivery.created_at -= span
        delivery.save()
    for endpoint in Endpoint.objects.exclude(paused_until=None):
        endpoint.paused_until -= span
        endpoint.save()


def run_schedule() -> list[Delivery]:
    """Do what the schedule and the workers do."""
    return [
        delivery
        for endpoint_id in actions.due_endpoints()
        for delivery in actions.deliver_endpoint(endpoint_id=endpoint_id)
    ]


def reject(text: str, user: User, client: APIKey, url: str) -> Delivery:
    found = decide_item(create_queue_item(text, client=client, callback_url=url), user).delivery
    assert found is not None
    return found


def received(receiver: Receiver) -> list[str]:
    return [headers["Webhook-Id"] for headers, _, _ in receiver.got]


def test_a_delivery_is_signed_by_both_keys(
    delivery: Delivery, receiver: Receiver, client_key: APIKey, person: Callable[..., User]
) -> None:
    actor = person("ada", "administrator")
    secrets = dict(rotate_signing_key(client=client_key, actor=actor) for _ in range(2))
    actions.deliver(delivery_id=str(delivery.pk))
    headers, body, path = receiver.got[0]
    assert path == "/hook?platform=1"
    assert (headers["Webhook-Id"], headers["Webhook-Attempt"]) == (str(delivery.pk), "1")
    parts = dict(part.split("=", 1) for part in headers["Webhook-Signature"].split(", "))
    assert abs(int(parts["t"]) - time.time()) < 60
    assert len(parts) == 3
    for key, secret in secrets.items():
        expected = hmac.new(secret.encode(), f"{parts['t']}.".encode() + body, hashlib.sha256).hexdigest()
        assert parts[key.key_id] == expected
    sent = json.loads(body)
    assert (sent["outcome"], sent["reasons"][0]["label"]) == ("reject", "insult")
    assert webhooks.decision_of_token(sent["appeal_token"]) == sent["decision_id"]
    assert sent["statement_of_reasons"]["automated_decision"] == "AUTOMATED_DECISION_NOT_AUTOMATED"
    assert "you fool" not in body.decode()
    assert "ann" not in sent.values()


def test_a_delivery_without_a_signing_key_has_no_signature(delivery: Delivery, receiver: Receiver) -> None:
    actions.deliver(delivery_id=str(delivery.pk))
    assert "Webhook-Signature" not in receiver.got[0][0]


@pytest.mark.parametrize("status", [408, 409, 423, 425, 429, 500, 502, 503, 504])
def test_a_temporary_failure_is_tried_again(delivery: Delivery, receiver: Receiver, status: int) -> None:
    receiver.status = status
    again(delivery)
    assert (delivery.status, delivery.attempts, delivery.response_status) == ("pending", 1, status)
    assert delivery.state == "Being retried, 1 attempt failed"
    assert timedelta(seconds=8) < delivery.send_after - timezone.now() < timedelta(seconds=12)
    assert actions.deliver(delivery_id=str(delivery.pk)) is None
    again(delivery)
    assert delivery.send_after - timezone.now() > timedelta(seconds=17)
    assert len(receiver.got) == 2
    receiver.status = 204
    assert again(delivery).status == "delivered"
    assert actions.deliver(delivery_id=str(delivery.pk)) is None
    assert received(receiver) == [str(delivery.pk)] * 3


@pytest.mark.parametrize("status", [301, 302, 304, 400, 401, 403, 404, 405, 410, 411, 413, 415, 422, 451])
def test_a_permanent_failure_is_given_up_with_its_reason(
    delivery: Delivery, receiver: Receiver, status: int
) -> None:
    receiver.status, receiver.body = status, b"" if status == 304 else b'{"error": "no such field"}'
    again(delivery)
    assert (delivery.status, delivery.attempts, delivery.response_status) == ("failed", 1, status)
    assert str(status) in delivery.error
    assert status in (302, 304) or "no such field" in delivery.error
    assert len(receiver.got) == 1
    assert run_schedule() == []


@pytest.mark.parametrize("value", ["120", "date"])
@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_obeyed_for_the_whole_endpoint(
    delivery: Delivery, receiver: Receiver, ann: User, client_key: APIKey, value: str, status: int
) -> None:
    if value == "date":
        value = f"{timezone.now() + timedelta(seconds=120):%a, %d %b %Y %H:%M:%S GMT}"
    receiver.status, receiver.headers = status, {"Retry-After": value}
    again(delivery)
    assert timedelta(seconds=110) < delivery.send_after - timezone.now() <= timedelta(seconds=120)
    other = reject("insult=0.7 another fool", ann, client_key, receiver.url)
    pass_time(timedelta(seconds=60))
    assert run_schedule() == []
    receiver.status, receiver.headers = 200, {}
    pass_time(timedelta(seconds=61))
    assert [tried.pk for tried in run_schedule()] == [delivery.pk, other.pk]


def test_retry_after_is_bounded(delivery: Delivery, receiver: Receiver) -> None:
    receiver.status, receiver.headers = 503, {"Retry-After": "99999999"}
    again(delivery)
    assert delivery.send_after - timezone.now() <= timedelta(hours=6)


def test_retries_end_and_a_person_can_send_it_again(
    delivery: Delivery, receiver: Receiver, lea: User, ann: User
) -> None:
    receiver.status = 500
    for _ in range(20):
        again(delivery)
    assert (delivery.status, delivery.attempts) == ("pending", 20)
    pass_time(timedelta(days=3, minutes=1))
    again(delivery)
    assert (delivery.status, delivery.attempts) == ("failed", 21)
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
    assert "refused" in delivery.error


def test_a_refused_address_fails_at_once(item: QueueItem, ann: User) -> None:
    delivery = decide_item(item, ann).delivery
    assert delivery is not None
    Delivery.objects.update(url="http://169.254.169.254/latest/meta-data/")
    again(delivery)
    assert delivery.status == "failed"
    assert "public internet" in delivery.error


@pytest.mark.parametrize("status", [500, 503])
def test_a_receiver_that_is_down_for_an_hour_gets_everything_in_order_and_once(
    receiver: Receiver, ann: User, client_key: APIKey, item: QueueItem, status: int
) -> None:
    receiver.status = status
    sent = [reject(f"insult=0.7 fool {number}", ann, client_key, receiver.url) for number in range(4)]
    for minute in range(60):
        if minute % 10 == 0:
            text = f"insult=0.7 late fool {minute}"
            sent.append(reject(text, ann, client_key, receiver.url))
        pass_time(timedelta(minutes=1))
        run_schedule()
    assert len(receiver.got) < 60, "the endpoint was not paused"
    receiver.status, receiver.got = 200, []
    for _ in range(6):
        pass_time(timedelta(minutes=1))
        run_schedule()
    assert received(receiver) == [str(delivery.pk) for delivery in sent]
    assert set(Delivery.objects.values_list("status", flat=True)) == {"delivered"}
    assert Endpoint.objects.get().failures == 0


def test_a_delivery_that_the_receiver_can_not_take_delays_no_other(
    receiver: Receiver, ann: User, client_key: APIKey, item: QueueItem, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = reject("insult=0.7 fool", ann, client_key, receiver.url)
    real = signing.send

    def send(**options: object) -> object:
        receiver.status = 500 if options["delivery_id"] == str(first.pk) else 200
        return real(**options)  # type: ignore[arg-type]

    monkeypatch.setattr(signing, "send", send)
    for number in range(5):
        other = reject(f"insult=0.7 fool {number}", ann, client_key, receiver.url)
        pass_time(timedelta(minutes=2))
        run_schedule()
        other.refresh_from_db()
        assert other.status == "delivered"
    first.refresh_from_db()
    assert (first.status, first.attempts) == ("pending", 5)


def test_three_deliveries_that_the_receiver_can_not_take_delay_others_for_two_hours_at_most(
    receiver: Receiver, ann: User, client_key: APIKey, item: QueueItem, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = {str(reject(f"insult=0.7 fool {n}", ann, client_key, receiver.url).pk) for n in range(3)}
    real = signing.send

    def send(**options: object) -> object:
        receiver.status = 500 if options["delivery_id"] in refused else 200
        return real(**options)  # type: ignore[arg-type]

    monkeypatch.setattr(signing, "send", send)
    pass_time(timedelta(minutes=1))
    run_schedule()
    other = reject("insult=0.7 another fool", ann, client_key, receiver.url)
    for _ in range(26):
        pass_time(timedelta(minutes=5))
        run_schedule()
    other.refresh_from_db()
    assert other.status == "delivered"


def test_deliveries_about_a_comment_keep_their_order(
    receiver: Receiver, ann: User, client_key: APIKey, item: QueueItem
) -> None:
    delivery = reject("insult=0.7 fool", ann, client_key, receiver.url)
    receiver.status = 500
    again(delivery)
    undone = actions.undo(decision_id=delivery.decision_id, user=ann)
    delivery.refresh_from_db()
    assert delivery.status == "cancelled"
    assert undone.delivery is not None
    again(undone.delivery)
    held = actions.claim(item_id=undone.item.pk, user=ann)
    second = actions.decide(
        item_id=held.pk, version=held.version, user=ann, action=Decision.Action.APPROVE
    ).delivery
    assert second is not None
    Delivery.objects.filter(pk=second.pk).update(send_after=timezone.now())
    assert actions.deliver(delivery_id=str(second.pk)) is None, "it overtook the correction"
    receiver.status, receiver.got = 200, []
    pass_time(timedelta(minutes=2))
    run_schedule()
    assert received(receiver) == [str(undone.delivery.pk), str(second.pk)]


def test_an_outdated_delivery_can_not_be_sent_again(
    receiver: Receiver, ann: User, client_key: APIKey, item: QueueItem, lea: User
) -> None:
    delivery = reject("insult=0.7 fool", ann, client_key, receiver.url)
    receiver.status = 400
    assert again(delivery).status == "failed"
    receiver.status = 200
    correction = actions.undo(decision_id=delivery.decision_id, user=ann).delivery
    assert correction is not None
    assert again(correction).status == "delivered"
    with pytest.raises(ModerationError, match="later decision"):
        actions.resend(delivery_id=str(delivery.pk), user=lea)


def test_an_undo_within_the_delay_sends_nothing(
    receiver: Receiver, ann: User, client_key: APIKey, item: QueueItem
) -> None:
    delivery = reject("insult=0.7 fool", ann, client_key, receiver.url)
    # Even while the endpoint is released after an outage.
    Endpoint.objects.update(failures=5)
    assert run_schedule() == []
    assert actions.undo(decision_id=delivery.decision_id, user=ann).delivery is None
    pass_time(timedelta(minutes=1))
    assert run_schedule() == []
    assert receiver.got == []


def test_a_dead_senders_delivery_is_taken_over_and_it_can_not_interfere(
    delivery: Delivery, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def send_slowly(send: object) -> Attempt:
        monkeypatch.undo()
        again(delivery)
        return Attempt(error="late", status=500)

    monkeypatch.setattr(deliveries.retries, "attempt", send_slowly)
    actions.deliver(delivery_id=str(delivery.pk))
    delivery.refresh_from_db()
    assert (delivery.status, delivery.attempts) == ("delivered", 2)


def test_an_undo_while_it_is_being_sent(
    delivery: Delivery, receiver: Receiver, ann: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    def send_while_undone(send: object) -> Attempt:
        monkeypatch.undo()
        actions.undo(decision_id=delivery.decision_id, user=ann)
        return Attempt(error="down", status=500)

    monkeypatch.setattr(deliveries.retries, "attempt", send_while_undone)
    actions.deliver(delivery_id=str(delivery.pk))
    delivery.refresh_from_db()
    assert delivery.status == "cancelled"
    assert Delivery.objects.get(event="decision.reversed").status == "pending"


def test_an_endpoint_is_sent_one_delivery_at_a_time_and_a_client_has_few(
    delivery: Delivery, receiver: Receiver, ann: User, client_key: APIKey
) -> None:
    soon = timezone.now() + timedelta(minutes=1)
    Endpoint.objects.update(busy_until=soon)
    assert actions.deliver(delivery_id=str(delivery.pk)) is None
    assert run_schedule() == []
    Endpoint.objects.update(busy_until=None)
    for number in range(deliveries.MAX_BUSY_PER_CLIENT):
        Endpoint.objects.create(client=client_key, origin=f"http://{number}.example", busy_until=soon)
    assert run_schedule() == []
    Endpoint.objects.filter(origin="http://0.example").update(busy_until=timezone.now())
    assert len(run_schedule()) == 1


@pytest.mark.slow
@pytest.mark.django_db(transaction=True)
def test_receivers_that_drip_stop_no_other_deliveries(
    receiver: Receiver, ann: User, client_key: APIKey, item: QueueItem, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two workers, two receivers that send a byte now and then, and one that is well."""
    monkeypatch.setattr("apps.webhooks.transport.DEADLINE_SECONDS", 1.0)
    monkeypatch.setattr(signing.transport.post, "__kwdefaults__", {"seconds": 1.0, "always_read": False})
    head = b"HTTP/1.1 200 OK\r\nX-Slow: "
    with raw_server(drip(head)) as one, raw_server(drip(head)) as two:
        for number in range(5):
            for port in (one, two):
                reject(f"insult=0.7 slow {number} {port}", ann, client_key, f"http://127.0.0.1:{port}/")
        good = [reject(f"insult=0.7 good {number}", ann, client_key, receiver.url) for number in range(5)]
        Delivery.objects.update(send_after=timezone.now())
        start = time.monotonic()

        def work() -> None:
            from django.db import connection

            while time.monotonic() < start + 20 and len(receiver.got) != len(good):
                run_schedule()
                time.sleep(0.1)
            connection.close()

        workers = [threading.Thread(target=work) for _ in range(2)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert sorted(received(receiver)) == sorted(str(delivery.pk) for delivery in good)
        assert time.monotonic() - start < 10
        tried = Delivery.objects.exclude(url=receiver.url).filter(attempts__gt=0)
        assert tried.count() <= 4, "an endpoint that drips was given more than its turn"


def test_the_command_sends_what_is_due(
    delivery: Delivery, receiver: Receiver, capsys: pytest.CaptureFixture[str]
) -> None:
    call_command("deliver_webhooks")
    assert "Delivered 1 of 1" in capsys.readouterr().out
    assert len(receiver.got) == 1
    call_command("deliver_webhooks", "--limit", "0")
    assert "Delivered 0 of 0" in capsys.readouterr().out
