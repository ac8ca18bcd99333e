import hashlib
import hmac
import io
import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from django.core import mail
from django.core.exceptions import PermissionDenied
from django.test import Client
from django.utils import timezone
from pytest_django import Settings

from apps.accounts.models import APIKey, User
from apps.core.permissions import SYSTEM
from apps.monitoring import actions, tasks
from apps.monitoring.models import AlertRule, HourlyRollup, Notification
from apps.webhooks.actions import rotate_signing_key
from toxicmod.testing.receivers import Receiver

pytestmark = [pytest.mark.django_db, pytest.mark.database]
NOW = datetime(2026, 11, 20, 12, 30, tzinfo=UTC)


def test_send_due_notifications_mails_all_recipients_once(
    rule: AlertRule, traffic: Callable[..., HourlyRollup]
) -> None:
    traffic(hour=timezone.now(), requests=1_000, errors=500)
    tasks.evaluate_rules()
    actions.send_due_notifications()
    actions.send_due_notifications()
    (message,) = mail.outbox
    assert message.to == ["ann@example.org", "ben@example.org"]
    assert message.subject == "toxicmod: Calls fail (opened)"
    assert "Error rate" in message.body
    assert Notification.objects.get().sent_at


def test_default_mail_backend_prints_in_a_worker(
    rule: AlertRule,
    traffic: Callable[..., HourlyRollup],
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    settings.EMAIL_BACKEND = "django.core.mail.backends.console.EmailBackend"
    traffic(hour=timezone.now(), requests=1_000, errors=500)
    tasks.evaluate_rules()
    monkeypatch.setattr(sys, "stdout", io.StringIO())  # as Celery does
    actions.send_due_notifications()
    assert "Subject: toxicmod: Calls fail (opened)" in capfd.readouterr().out


def test_send_due_notifications_signs_and_retries_webhook(
    rule: AlertRule, traffic: Callable[..., HourlyRollup], api_key: tuple[APIKey, str], receiver: Receiver
) -> None:
    AlertRule.objects.update(emails="", webhook_url=receiver.url, webhook_api_key=api_key[0])
    _, secret = rotate_signing_key(api_key=api_key[0], actor=SYSTEM)
    traffic(hour=timezone.now(), requests=1_000, errors=500)
    actions.evaluate_rules()
    for status, expected in ((500, "responded 500"), (503, "responded 503"), (204, "")):
        receiver.status = status
        Notification.objects.update(send_after=timezone.now())
        actions.send_due_notifications()
        assert expected in Notification.objects.get().error
        assert actions.send_due_notifications() == 0  # the retry is not due yet
    assert Notification.objects.get().sent_at
    assert [headers["Webhook-Attempt"] for headers, _, _ in receiver.got] == ["1", "2", "3"]
    headers, body, _ = receiver.got[0]
    assert json.loads(body)["event"] == "alert.opened"
    stamp, _, signature = headers["Webhook-Signature"].partition(", ")
    signed = stamp.removeprefix("t=").encode() + b"." + body
    assert signature.endswith("=" + hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest())


def test_send_due_notifications_does_not_retry_permanent_rejection(
    rule: AlertRule, traffic: Callable[..., HourlyRollup], receiver: Receiver
) -> None:
    AlertRule.objects.update(emails="", webhook_url=receiver.url)
    receiver.status = 410
    traffic(hour=timezone.now(), requests=1_000, errors=500)
    actions.evaluate_rules()
    actions.send_due_notifications()
    notification = Notification.objects.get()
    assert notification.failed_at
    assert "410 Gone" in notification.error
    Notification.objects.update(send_after=timezone.now())
    assert actions.due_notifications() == []


def test_send_due_notifications_obeys_retry_after(
    rule: AlertRule, traffic: Callable[..., HourlyRollup], receiver: Receiver
) -> None:
    AlertRule.objects.update(emails="", webhook_url=receiver.url)
    receiver.status, receiver.headers = 503, {"Retry-After": "1800"}
    traffic(hour=timezone.now(), requests=1_000, errors=500)
    actions.evaluate_rules()
    actions.send_due_notifications()
    wait = Notification.objects.get().send_after - timezone.now()
    assert timedelta(minutes=29) < wait <= timedelta(minutes=30)


def test_due_notifications_has_one_webhook_per_url(
    rule: AlertRule, traffic: Callable[..., HourlyRollup]
) -> None:
    traffic(hour=timezone.now(), requests=1_000, errors=500)
    other = AlertRule.objects.create(name="Also", metric=rule.metric, threshold=0.02)
    AlertRule.objects.update(webhook_url="https://ops.example.org/hook")
    AlertRule.objects.filter(pk=other.pk).update(emails="")
    actions.evaluate_rules()
    channels = Notification.objects.filter(pk__in=actions.due_notifications()).values_list(
        "channel", flat=True
    )
    assert Notification.objects.count() == 3
    assert sorted(channels) == ["email", "webhook"]


def test_send_test_webhook_shows_result(
    rule: AlertRule, receiver: Receiver, ann: User, client: Client, admin_client: Client
) -> None:
    with pytest.raises(PermissionDenied):
        actions.send_test_webhook(rule=rule, user=ann)
    selected = {"action": "send_test_webhook", "_selected_action": [rule.pk]}
    page = admin_client.post("/admin/monitoring/alertrule/", selected, follow=True)
    assert "has no webhook URL" in page.text
    AlertRule.objects.update(webhook_url=receiver.url)
    page = admin_client.post("/admin/monitoring/alertrule/", selected, follow=True)
    assert "Delivered. The receiver responded 200." in page.text
    receiver.status, receiver.body = 403, b"<b>go away</b>"
    page = admin_client.post("/admin/monitoring/alertrule/", selected, follow=True)
    assert "Not delivered. The receiver responded 403 Forbidden. It said: &lt;b&gt;go away" in page.text
    assert [json.loads(body)["event"] for _, body, _ in receiver.got] == ["test", "test"]


def test_send_due_notifications_rejects_private_address(
    rule: AlertRule, traffic: Callable[..., HourlyRollup]
) -> None:
    AlertRule.objects.update(emails="", webhook_url="http://127.0.0.1:9/")
    traffic(hour=timezone.now(), requests=1_000, errors=500)
    actions.evaluate_rules()
    assert actions.send_due_notifications() == 0
    assert "not on the public internet" in Notification.objects.get().error


def test_send_due_notifications_continues_after_failure(
    rule: AlertRule, traffic: Callable[..., HourlyRollup], monkeypatch: pytest.MonkeyPatch
) -> None:
    AlertRule.objects.update(webhook_url="https://example.org/hook")
    traffic(requests=1_000, errors=500)
    actions.evaluate_rules(now=NOW)
    Notification.objects.filter(channel="webhook").update(
        channel="pager", send_after=NOW - timedelta(hours=1)
    )
    assert actions.send_due_notifications() == 1
    assert len(mail.outbox) == 1
    assert Notification.objects.get(channel="pager").error.startswith(
        "KeyError in apps/monitoring/actions/notifications.py"
    )
