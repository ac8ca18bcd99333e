"""The outbox: order, retries, pauses, and the payloads of webhooks."""

import hashlib
import hmac
import json
import socket
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.core.exceptions import PermissionDenied
from django.core.management import call_command
from django.db import connection
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
    """The delivery of a rejection, due now."""
    delivery = decide_item(item, ann).delivery
    assert delivery is not None
    Delivery.objects.update(url=receiver.url, send_after=timezone.now())
    Endpoint.objects.update(origin=receiver.url.partition("/hook")[0])
    return delivery


def deliver_now(delivery: Delivery) -> Delivery:
    """Attempt a delivery, even if it is not due or its endpoint is paused or leased."""
    Delivery.objects.filter(pk=delivery.pk).update(send_after=timezone.now(), not_before=None)
    Endpoint.objects.update(paused_until=None, busy_until=None)
    actions.deliver(delivery_id=str(delivery.pk))
    delivery.refresh_from_db()
    return delivery


def pass_time(span: timedelta) -> None:
    """Move the times of deliveries and endpoints into the past, as if time had passed."""
    for delivery in Delivery.objects.all():
        delivery.send_after -= span
        if delivery.not_before:
            delivery.not_before -= span
        delivery.retry_until -= span
        delivery.created_at -= span
        delivery.save()
    for endpoint in Endpoint.objects.exclude(paused_until=None):
        endpoint.paused_until -= span
        endpoint.save()


def run_schedule() -> list[Delivery]:
    """Send the due deliveries, as the schedule and the workers do."""
    return [
        delivery
        for endpoint_id in actions.due_endpoints()
        for delivery in actions.deliver_endpoint(endpoint_id=endpoint_id)
    ]


def reject(text: str, user: User, api_key: APIKey, url: str) -> Delivery:
    delivery = decide_item(create_queue_item(text, api_key=api_key, callback_url=url), user).delivery
    assert delivery is not None
    return delivery


def received_ids(receiver: Receiver) -> list[str]:
    return [headers["Webhook-Id"] for headers, _, _ in receiver.got]


def test_deliver_signs_with_both_keys(
    delivery: Delivery, receiver: Receiver, platform_key: APIKey, person: Callable[..., User]
) -> None:
    actor = person("ada", "administrator")
    secrets = dict(rotate_signing_key(api_key=platform_key, actor=actor) for _ in range(2))
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
    payload = json.loads(body)
    assert (payload["outcome"], payload["reasons"][0]["label"]) == ("reject", "insult")
    assert webhooks.decision_of_token(payload["appeal_token"]) == payload["decision_id"]
    assert payload["statement_of_reasons"]["automated_decision"] == "AUTOMATED_DECISION_NOT_AUTOMATED"
    assert "you fool" not in body.decode()
    assert "ann" not in payload.values()


def test_deliver_without_signing_key_sends_no_signature(delivery: Delivery, receiver: Receiver) -> None:
    actions.deliver(delivery_id=str(delivery.pk))
    assert "Webhook-Signature" not in receiver.got[0][0]


@pytest.mark.parametrize("status", [408, 409, 423, 425, 429, 500, 502, 503, 504])
def test_deliver_retries_after_temporary_failure(delivery: Delivery, receiver: Receiver, status: int) -> None:
    receiver.status = status
    deliver_now(delivery)
    assert (delivery.status, delivery.attempts, delivery.response_status) == ("pending", 1, status)
    assert delivery.state == "Being retried, 1 attempt failed"
    assert timedelta(seconds=8) < delivery.send_after - timezone.now() < timedelta(seconds=12)
    assert actions.deliver(delivery_id=str(delivery.pk)) is None
    deliver_now(delivery)
    assert delivery.send_after - timezone.now() > timedelta(seconds=17)
    assert len(receiver.got) == 2
    receiver.status = 204
    assert deliver_now(delivery).status == "delivered"
    assert actions.deliver(delivery_id=str(delivery.pk)) is None
    assert received_ids(receiver) == [str(delivery.pk)] * 3


@pytest.mark.parametrize("status", [301, 302, 304, 400, 401, 403, 404, 405, 410, 411, 413, 415, 422, 451])
def test_deliver_fails_after_permanent_failure(delivery: Delivery, receiver: Receiver, status: int) -> None:
    receiver.status, receiver.body = status, b"" if status == 304 else b'{"error": "no such field"}'
    deliver_now(delivery)
    assert (delivery.status, delivery.attempts, delivery.response_status) == ("failed", 1, status)
    assert str(status) in delivery.error
    assert status in (302, 304) or "no such field" in delivery.error
    assert len(receiver.got) == 1
    assert run_schedule() == []


@pytest.mark.parametrize("value", ["120", "date"])
@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_applies_to_whole_endpoint(
    delivery: Delivery, receiver: Receiver, ann: User, platform_key: APIKey, value: str, status: int
) -> None:
    moment = timezone.now() + timedelta(seconds=120)
    if value == "date":
        value = f"{moment:%a, %d %b %Y %H:%M:%S GMT}"
    receiver.status, receiver.headers = status, {"Retry-After": value}
    deliver_now(delivery)
    assert moment.replace(microsecond=0) <= delivery.send_after <= timezone.now() + timedelta(seconds=120)
    other = reject("insult=0.7 another fool", ann, platform_key, receiver.url)
    pass_time(timedelta(seconds=60))
    assert run_schedule() == []
    receiver.status, receiver.headers = 200, {}
    pass_time(timedelta(seconds=61))
    assert [attempted.pk for attempted in run_schedule()] == [delivery.pk, other.pk]


@pytest.mark.parametrize("status", [409, 423, 425, 429, 500, 503])
def test_retry_after_is_kept_while_the_endpoint_fails_repeatedly(
    delivery: Delivery, receiver: Receiver, ann: User, platform_key: APIKey, status: int
) -> None:
    Endpoint.objects.update(failures=deliveries.PAUSE_AFTER)
    receiver.status, receiver.headers = status, {"Retry-After": "1200"}
    deliver_now(delivery)
    Endpoint.objects.update(paused_until=None)
    receiver.status, receiver.headers = 200, {}
    other = reject("insult=0.7 another fool", ann, platform_key, receiver.url)
    pass_time(timedelta(seconds=1100))
    assert [attempted.pk for attempted in run_schedule()] == [other.pk]  # the endpoint responds again
    pass_time(timedelta(seconds=101))
    Endpoint.objects.update(busy_until=None)
    assert [attempted.pk for attempted in run_schedule()] == [delivery.pk]


def test_retry_after_is_bounded(delivery: Delivery, receiver: Receiver) -> None:
    receiver.status, receiver.headers = 503, {"Retry-After": "99999999"}
    deliver_now(delivery)
    assert delivery.send_after - timezone.now() <= timedelta(hours=6)


def test_resend_after_last_retry(delivery: Delivery, receiver: Receiver, lea: User, ann: User) -> None:
    receiver.status = 500
    for _ in range(20):
        deliver_now(delivery)
    assert (delivery.status, delivery.attempts) == ("pending", 20)
    pass_time(timedelta(days=3, minutes=1))
    deliver_now(delivery)
    assert (delivery.status, delivery.attempts) == ("failed", 21)
    with pytest.raises(PermissionDenied):
        actions.resend(delivery_id=str(delivery.pk), user=ann)
    receiver.status = 200
    actions.resend(delivery_id=str(delivery.pk), user=lea)
    assert deliver_now(delivery).status == "delivered"
    with pytest.raises(ModerationError):
        actions.resend(delivery_id=str(delivery.pk), user=lea)


def test_deliver_to_closed_port_is_retried(delivery: Delivery) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        Delivery.objects.update(url=f"http://127.0.0.1:{closed.getsockname()[1]}/")
        deliver_now(delivery)
    assert delivery.status == "pending"
    assert "refused" in delivery.error


def test_deliver_to_private_address_fails(item: QueueItem, ann: User) -> None:
    delivery = decide_item(item, ann).delivery
    assert delivery is not None
    Delivery.objects.update(url="http://169.254.169.254/latest/meta-data/")
    deliver_now(delivery)
    assert delivery.status == "failed"
    assert "public internet" in delivery.error


@pytest.mark.parametrize("status", [500, 503])
def test_deliveries_after_outage_are_sent_once_in_order(
    receiver: Receiver, ann: User, platform_key: APIKey, item: QueueItem, status: int
) -> None:
    receiver.status = status
    all_deliveries = [reject(f"insult=0.7 {n}", ann, platform_key, receiver.url) for n in range(4)]
    for minute in range(60):
        if minute % 10 == 0:
            text = f"insult=0.7 late fool {minute}"
            all_deliveries.append(reject(text, ann, platform_key, receiver.url))
        pass_time(timedelta(minutes=1))
        run_schedule()
    assert len(receiver.got) < 60, "the endpoint was not paused"
    receiver.status, receiver.got = 200, []
    for _ in range(6):
        pass_time(timedelta(minutes=1))
        run_schedule()
    assert received_ids(receiver) == [str(delivery.pk) for delivery in all_deliveries]
    assert set(Delivery.objects.values_list("status", flat=True)) == {"delivered"}
    assert Endpoint.objects.get().failures == 0


def test_failing_delivery_delays_no_other(
    receiver: Receiver, ann: User, platform_key: APIKey, item: QueueItem, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = reject("insult=0.7 fool", ann, platform_key, receiver.url)
    real = signing.send

    def send(**options: object) -> object:
        receiver.status = 500 if options["delivery_id"] == str(first.pk) else 200
        return real(**options)  # type: ignore[arg-type]

    monkeypatch.setattr(signing, "send", send)
    for number in range(5):
        other = reject(f"insult=0.7 fool {number}", ann, platform_key, receiver.url)
        pass_time(timedelta(minutes=2))
        run_schedule()
        other.refresh_from_db()
        assert other.status == "delivered"
    first.refresh_from_db()
    assert (first.status, first.attempts) == ("pending", 5)


def test_three_failing_deliveries_delay_others_for_at_most_two_hours(
    receiver: Receiver, ann: User, platform_key: APIKey, item: QueueItem, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = {str(reject(f"insult=0.7 fool {n}", ann, platform_key, receiver.url).pk) for n in range(3)}
    real = signing.send

    def send(**options: object) -> object:
        receiver.status = 500 if options["delivery_id"] in failing else 200
        return real(**options)  # type: ignore[arg-type]

    monkeypatch.setattr(signing, "send", send)
    pass_time(timedelta(minutes=1))
    run_schedule()
    other = reject("insult=0.7 another fool", ann, platform_key, receiver.url)
    for _ in range(26):
        pass_time(timedelta(minutes=5))
        run_schedule()
    other.refresh_from_db()
    assert other.status == "delivered"


def test_deliveries_about_one_comment_are_sent_in_order(
    receiver: Receiver, ann: User, platform_key: APIKey, item: QueueItem
) -> None:
    delivery = reject("insult=0.7 fool", ann, platform_key, receiver.url)
    receiver.status = 500
    deliver_now(delivery)
    undone = actions.undo(decision_id=delivery.decision_id, user=ann)
    delivery.refresh_from_db()
    assert delivery.status == "cancelled"
    assert undone.delivery is not None
    deliver_now(undone.delivery)
    held = actions.claim(item_id=undone.item.pk, user=ann)
    second = actions.decide(
        item_id=held.pk, version=held.version, user=ann, action=Decision.Action.APPROVE
    ).delivery
    assert second is not None
    Delivery.objects.filter(pk=second.pk).update(send_after=timezone.now())
    assert actions.deliver(delivery_id=str(second.pk)) is None, "the correction has to be sent first"
    receiver.status, receiver.got = 200, []
    pass_time(timedelta(minutes=2))
    run_schedule()
    assert received_ids(receiver) == [str(undone.delivery.pk), str(second.pk)]


def test_resend_of_outdated_delivery(
    receiver: Receiver, ann: User, platform_key: APIKey, item: QueueItem, lea: User
) -> None:
    delivery = reject("insult=0.7 fool", ann, platform_key, receiver.url)
    receiver.status = 400
    assert deliver_now(delivery).status == "failed"
    receiver.status = 200
    correction = actions.undo(decision_id=delivery.decision_id, user=ann).delivery
    assert correction is not None
    assert deliver_now(correction).status == "delivered"
    with pytest.raises(ModerationError, match="later decision"):
        actions.resend(delivery_id=str(delivery.pk), user=lea)


def test_undo_before_sending_sends_nothing(
    receiver: Receiver, ann: User, platform_key: APIKey, item: QueueItem
) -> None:
    delivery = reject("insult=0.7 fool", ann, platform_key, receiver.url)
    # Also while the endpoint recovers from an outage.
    Endpoint.objects.update(failures=5)
    assert run_schedule() == []
    assert actions.undo(decision_id=delivery.decision_id, user=ann).delivery is None
    pass_time(timedelta(minutes=1))
    assert run_schedule() == []
    assert receiver.got == []


def test_deliver_after_takeover_does_not_overwrite_result(
    delivery: Delivery, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def send_slowly(send: object) -> Attempt:
        monkeypatch.undo()
        deliver_now(delivery)
        return Attempt(error="late", status=500)

    monkeypatch.setattr(deliveries.retries, "attempt", send_slowly)
    actions.deliver(delivery_id=str(delivery.pk))
    delivery.refresh_from_db()
    assert (delivery.status, delivery.attempts) == ("delivered", 2)


def test_undo_while_delivery_is_being_sent(
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


def test_endpoints_are_leased_and_limited_per_api_key(
    delivery: Delivery, receiver: Receiver, ann: User, platform_key: APIKey
) -> None:
    soon = timezone.now() + timedelta(minutes=1)
    Endpoint.objects.update(busy_until=soon)
    assert actions.deliver(delivery_id=str(delivery.pk)) is None
    assert run_schedule() == []
    Endpoint.objects.update(busy_until=None)
    for number in range(deliveries.MAX_BUSY_PER_API_KEY):
        Endpoint.objects.create(api_key=platform_key, origin=f"http://{number}.example", busy_until=soon)
    assert run_schedule() == []
    Endpoint.objects.filter(origin="http://0.example").update(busy_until=timezone.now())
    assert len(run_schedule()) == 1


@pytest.mark.slow
@pytest.mark.django_db(transaction=True)
def test_slow_receivers_do_not_block_other_deliveries(
    receiver: Receiver, ann: User, platform_key: APIKey, item: QueueItem, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There are two workers, two receivers that send single bytes slowly, and one that responds at once."""
    monkeypatch.setattr("apps.webhooks.transport.DEADLINE_SECONDS", 1.0)
    monkeypatch.setitem(signing.transport.exchange.__kwdefaults__, "seconds", 1.0)
    head = b"HTTP/1.1 200 OK\r\nX-Slow: "
    with raw_server(drip(head)) as first, raw_server(drip(head)) as second:
        for number in range(5):
            for port in (first, second):
                reject(f"insult=0.7 slow {number} {port}", ann, platform_key, f"http://127.0.0.1:{port}/")
        good = [reject(f"insult=0.7 good {number}", ann, platform_key, receiver.url) for number in range(5)]
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
        assert sorted(received_ids(receiver)) == sorted(str(delivery.pk) for delivery in good)
        assert time.monotonic() - start < 10
        attempted = Delivery.objects.exclude(url=receiver.url).filter(attempts__gt=0)
        assert attempted.count() <= 4, "a slow endpoint occupied a worker too often"


def test_deliver_webhooks_sends_due_deliveries(
    delivery: Delivery, receiver: Receiver, capsys: pytest.CaptureFixture[str]
) -> None:
    call_command("deliver_webhooks")
    assert "Delivered 1 of 1" in capsys.readouterr().out
    assert len(receiver.got) == 1
    call_command("deliver_webhooks", "--limit", "1")
    assert "Delivered 0 of 0" in capsys.readouterr().out


def test_undo_while_a_worker_sends_the_webhook_sends_a_correction(delivery: Delivery, ann: User) -> None:
    key = delivery.pk if connection.vendor == "postgresql" else delivery.pk.hex

    def claim_first(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        if sql.startswith("UPDATE") and "moderation_delivery" in sql and "cancelled" in map(str, params):
            execute(
                "UPDATE moderation_delivery SET status = %s, attempts = 1 WHERE id = %s",
                ["sending", key], False, context,
            )  # fmt: skip
        return execute(sql, params, many, context)

    with connection.execute_wrapper(claim_first):
        actions.undo(decision_id=delivery.decision_id, user=ann)
    delivery.refresh_from_db()
    assert delivery.status == Delivery.Status.SENDING
    assert Delivery.objects.filter(event=Delivery.Event.REVERSED).exists()


def test_undo_after_resend_sends_a_correction(
    delivery: Delivery, ann: User, lea: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        timeout = Attempt(error="timed out", is_permanent=True)
        patch.setattr(deliveries.retries, "attempt", lambda send: timeout)
        actions.deliver(delivery_id=str(delivery.pk))
    actions.resend(delivery_id=str(delivery.pk), user=lea)
    actions.undo(decision_id=delivery.decision_id, user=ann)
    assert Delivery.objects.filter(event=Delivery.Event.REVERSED).exists()
