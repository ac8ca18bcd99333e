"""Alerts: opened and closed once, told with restraint, delivered in the end, acknowledged by who may."""

import hashlib
import hmac
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis
from django.contrib.auth.models import Permission
from django.core import mail
from django.core.exceptions import PermissionDenied
from django.core.management import call_command
from django.db import IntegrityError, transaction
from django.test import Client
from django.utils import timezone

from apps.accounts.models import APIKey, User
from apps.mirror.models import ChangeLogEntry, MirrorState
from apps.moderation import actions as moderation
from apps.moderation.models import Policy, QueueItem
from apps.monitoring import actions, alert_metrics, tasks
from apps.monitoring.alert_metrics import TrafficWindow, estimate
from apps.monitoring.exceptions import RuleEvaluationError
from apps.monitoring.models import Alert, AlertRule, HourlyRollup, Notification
from apps.predictions.models import Prediction
from apps.registry.models import ModelVersion
from apps.webhooks.actions import Actor, rotate_signing_key
from toxicmod.testing.receivers import Receiver

pytestmark = [pytest.mark.django_db, pytest.mark.database]
NOW = datetime(2026, 11, 20, 12, 30, tzinfo=UTC)


@pytest.fixture
def rule() -> AlertRule:
    """Calls fail: more than one in a hundred."""
    return AlertRule.objects.create(
        name="Calls fail",
        metric=AlertRule.Metric.ERROR_RATE,
        threshold=0.01,
        emails="ann@example.org, ben@example.org",
        notification_interval_minutes=60,
    )


@pytest.fixture
def traffic(champion: ModelVersion) -> Callable[..., HourlyRollup]:
    """Store an hour's rollup, or change it."""

    def store(hour: datetime = NOW, **counts: object) -> HourlyRollup:
        start = hour.replace(minute=0, second=0, microsecond=0)
        return HourlyRollup.objects.update_or_create(
            hour=start, version=champion, source=Prediction.Source.API, overall=True, defaults=counts
        )[0]

    return store


def _minutes(count: int) -> datetime:
    return NOW + timedelta(minutes=count)


def test_an_alert_opens_once_and_closes_once(rule: AlertRule, traffic: Callable[..., HourlyRollup]) -> None:
    traffic(requests=1_000, errors=2)
    assert actions.evaluate_rules(now=NOW) == []
    traffic(requests=1_000, errors=50)
    (alert,) = actions.evaluate_rules(now=NOW)
    assert alert.value == pytest.approx(50 / 1_050)
    assert alert.low > rule.threshold
    for _ in range(3):
        assert actions.evaluate_rules(now=NOW) == []
    assert Alert.objects.count() == 1
    assert Notification.objects.count() == 1
    traffic(requests=100_000, errors=50)
    actions.evaluate_rules(now=_minutes(5))
    actions.evaluate_rules(now=_minutes(10))
    alert.refresh_from_db()
    assert alert.closed_at == _minutes(5)
    assert [notice.event for notice in Notification.objects.order_by("id")] == [
        "alert.opened",
        "alert.closed",
    ]


def test_an_alert_asks_for_a_model_once_where_its_rule_says_so(
    rule: AlertRule,
    traffic: Callable[..., HourlyRollup],
    monkeypatch: pytest.MonkeyPatch,
    django_capture_on_commit_callbacks: Callable[..., Any],
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr("apps.core.enqueue._add", lambda task, args, *times: asked.append((task, *args)))
    traffic(requests=1_000, errors=50)
    AlertRule.objects.update(triggers_training=True)
    with django_capture_on_commit_callbacks(execute=True):
        (alert,) = actions.evaluate_rules(now=NOW)
        actions.evaluate_rules(now=_minutes(2))
    assert asked == [("apps.training.tasks.learn", f"alert {alert.pk}: Calls fail")]


def test_a_few_calls_prove_nothing(rule: AlertRule, traffic: Callable[..., HourlyRollup]) -> None:
    traffic(requests=30, errors=1)
    assert actions.evaluate_rules(now=NOW) == []
    assert actions.evaluate_rules(now=NOW + timedelta(days=2)) == []  # no traffic at all


def test_two_schedulers_open_one_alert(rule: AlertRule) -> None:
    figures = {"metric": rule.metric, "threshold": 0.01, "value": 1, "low": 1, "high": 1, "window_hours": 1}
    Alert.objects.create(rule=rule, **figures)
    with pytest.raises(IntegrityError), transaction.atomic():
        Alert.objects.create(rule=rule, **figures)


def test_nobody_is_told_again_within_the_quiet_period_nor_of_what_somebody_sees_to(
    rule: AlertRule, traffic: Callable[..., HourlyRollup], ann: User
) -> None:
    ann.user_permissions.add(Permission.objects.get(codename="acknowledge_alert"))
    traffic(requests=1_000, errors=500)
    assert len(actions.evaluate_rules(now=NOW)) == 1
    actions.evaluate_rules(now=_minutes(29))
    assert Notification.objects.count() == 1
    # It closes and opens again: listed, but not told before the hour is over.
    Alert.objects.update(closed_at=_minutes(20))
    (again,) = actions.evaluate_rules(now=_minutes(25))
    assert again.notified_at is None
    assert Notification.objects.count() == 1
    actions.evaluate_rules(now=_minutes(61))
    assert Notification.objects.latest("id").event == "alert.opened"
    actions.evaluate_rules(now=_minutes(90))
    assert Notification.objects.count() == 2
    traffic(_minutes(125), requests=1_000, errors=500)
    actions.evaluate_rules(now=_minutes(125))
    assert Notification.objects.latest("id").event == "alert.reminder"
    assert actions.acknowledge(alert=again, user=ann)
    assert not actions.acknowledge(alert=again, user=ann)
    actions.evaluate_rules(now=_minutes(149))
    assert Notification.objects.count() == 3
    again.refresh_from_db()
    assert again.acknowledged_by == ann


def test_only_those_who_may_acknowledge(rule: AlertRule, ann: User, client: Client) -> None:
    alert = Alert.objects.create(
        rule=rule, metric=rule.metric, threshold=0.01, value=0.5, low=0.4, high=0.6, window_hours=1
    )
    with pytest.raises(PermissionDenied):
        actions.acknowledge(alert=alert, user=ann)
    ann.is_staff = True
    ann.save()
    ann.user_permissions.add(Permission.objects.get(codename="view_alert"))
    client.force_login(ann)
    chosen = {"action": "acknowledge", "_selected_action": [alert.pk]}
    page = client.get("/admin/monitoring/alert/")
    assert "Calls fail" in page.text
    assert "Acknowledge the selected" not in page.text
    client.post("/admin/monitoring/alert/", chosen)
    assert Alert.objects.get().acknowledged_by is None
    ann.user_permissions.add(Permission.objects.get(codename="acknowledge_alert"))
    assert "Acknowledge the selected alerts" in client.get("/admin/monitoring/alert/?state=open").text
    client.post("/admin/monitoring/alert/", chosen)
    assert Alert.objects.get().acknowledged_by == ann
    assert client.get("/admin/monitoring/alert/add/").status_code == 403
    assert client.post(f"/admin/monitoring/alert/{alert.pk}/delete/").status_code == 403


def test_mail_goes_to_everybody_named(rule: AlertRule, traffic: Callable[..., HourlyRollup]) -> None:
    traffic(hour=timezone.now(), requests=1_000, errors=500)
    tasks.evaluate_rules()
    actions.send_due_notifications()
    actions.send_due_notifications()
    (message,) = mail.outbox
    assert message.to == ["ann@example.org", "ben@example.org"]
    assert message.subject == "toxicmod: Calls fail (opened)"
    assert "Error rate" in message.body
    assert Notification.objects.get().sent_at


def test_a_webhook_is_signed_and_tried_until_it_is_taken(
    rule: AlertRule, traffic: Callable[..., HourlyRollup], api_key: tuple[APIKey, str], receiver: Receiver
) -> None:
    AlertRule.objects.update(emails="", webhook_url=receiver.url, webhook_api_key=api_key[0])
    _, secret = rotate_signing_key(client=api_key[0], actor=Actor("ann"))
    traffic(hour=timezone.now(), requests=1_000, errors=500)
    actions.evaluate_rules()
    for status, expected in ((500, "responded 500"), (503, "responded 503"), (204, "")):
        receiver.status = status
        Notification.objects.update(send_after=timezone.now())
        actions.send_due_notifications()
        assert expected in Notification.objects.get().error
        assert actions.send_due_notifications() == 0  # not before its time
    assert Notification.objects.get().sent_at
    assert [headers["Webhook-Attempt"] for headers, _, _ in receiver.got] == ["1", "2", "3"]
    headers, body, _ = receiver.got[0]
    assert json.loads(body)["event"] == "alert.opened"
    stamp, _, signature = headers["Webhook-Signature"].partition(", ")
    signed = stamp.removeprefix("t=").encode() + b"." + body
    assert signature.endswith("=" + hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest())


def test_a_webhook_that_the_receiver_refuses_is_not_tried_again(
    rule: AlertRule, traffic: Callable[..., HourlyRollup], receiver: Receiver
) -> None:
    AlertRule.objects.update(emails="", webhook_url=receiver.url)
    receiver.status = 410
    traffic(hour=timezone.now(), requests=1_000, errors=500)
    actions.evaluate_rules()
    actions.send_due_notifications()
    notice = Notification.objects.get()
    assert notice.failed_at
    assert "410 Gone" in notice.error
    Notification.objects.update(send_after=timezone.now())
    assert actions.due_notifications() == []


def test_retry_after_of_a_receiver_is_obeyed(
    rule: AlertRule, traffic: Callable[..., HourlyRollup], receiver: Receiver
) -> None:
    AlertRule.objects.update(emails="", webhook_url=receiver.url)
    receiver.status, receiver.headers = 503, {"Retry-After": "1800"}
    traffic(hour=timezone.now(), requests=1_000, errors=500)
    actions.evaluate_rules()
    actions.send_due_notifications()
    wait = Notification.objects.get().send_after - timezone.now()
    assert timedelta(minutes=29) < wait <= timedelta(minutes=30)


def test_a_slow_receiver_of_many_rules_gets_one_webhook_at_a_time(
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


def test_send_test_shows_the_result(
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


def test_a_webhook_may_not_reach_into_this_network(
    rule: AlertRule, traffic: Callable[..., HourlyRollup]
) -> None:
    AlertRule.objects.update(emails="", webhook_url="http://127.0.0.1:9/")
    traffic(hour=timezone.now(), requests=1_000, errors=500)
    actions.evaluate_rules()
    assert actions.send_due_notifications() == 0
    assert "not on the public internet" in Notification.objects.get().error


def test_a_rule_that_is_turned_off_closes_its_alert(
    rule: AlertRule, traffic: Callable[..., HourlyRollup]
) -> None:
    traffic(requests=1_000, errors=500)
    actions.evaluate_rules(now=NOW)
    AlertRule.objects.update(is_active=False)
    actions.evaluate_rules(now=_minutes(1))
    assert Alert.objects.get().closed_at == _minutes(1)


def test_the_usual_rules_are_installed_once_and_tell_nobody_unasked() -> None:
    call_command("install_default_alerts")
    count = AlertRule.objects.count()
    assert count >= 8
    assert not AlertRule.objects.exclude(emails="", webhook_url="").exists()
    AlertRule.objects.filter(metric="latency_p95_ms").update(threshold=5)
    call_command("install_default_alerts")
    assert AlertRule.objects.count() == count


MOMENT = {"queue_items", "queue_oldest_hours", "mirror_lag_seconds", "broker_messages", "background_problems"}


@pytest.mark.parametrize("metric", sorted(set(AlertRule.Metric.values) - MOMENT))
def test_every_metric_has_a_figure_or_says_that_it_knows_too_little(
    metric: str, traffic: Callable[..., HourlyRollup]
) -> None:
    nothing = estimate(metric, TrafficWindow(NOW, hours=1))
    assert nothing is None or metric == AlertRule.Metric.REQUESTS
    counts = {
        "requests": 500,
        "errors": 5,
        "any_flagged": 50,
        "feedback_right": 9,
        "feedback_wrong": 1,
        "queued": 20,
    }
    counts |= {"approved": 6, "rejected": 3, "reversed": 4, "escalations_reversed": 1}
    rows = {
        "flagged": [50, 5, 20, 1, 30, 4],
        "scores": [[400, *[2] * 49]] * 6,
        "lengths": [0] * 10 + [50] * 10 + [0] * 10,
        "latency": [0] * 20 + [500] + [0] * 39,
        "ngrams": [20_000, 1_000],
    }
    for day in range(15):
        for hour in (0, 1):
            traffic(NOW - timedelta(days=day, hours=hour), **counts, **rows)
    found = estimate(metric, TrafficWindow(NOW, hours=1))
    if metric == AlertRule.Metric.TRAINING_DRIFT:
        assert found is None  # no reference
        return
    assert found is not None
    expected = {
        "error_share": 10 / 1_010, "latency_p95_ms": 1.26, "requests_per_hour": 500, "flag_share": 0.1,
        "flag_change": 1, "score_psi": 0, "length_psi": 0, "unknown_change": 1, "wrong_share": 0.1,
        "queue_growth": 28,
    }  # fmt: skip
    assert found.value == pytest.approx(expected[metric], abs=0.01)
    assert found.low <= found.value <= found.high


@pytest.mark.usefixtures("on_time")
def test_queue_broker_and_mirror_are_watched_as_they_are(
    model: ModelVersion, policy: Policy, redis_url: str, settings: Any
) -> None:
    def figures() -> dict[str, float | None]:
        found = {metric: estimate(metric, TrafficWindow(timezone.now(), hours=1)) for metric in MOMENT}
        return {metric: each and each.value for metric, each in found.items()}

    settings.REDIS_URL = ""
    assert figures() == {
        "queue_items": 0, "queue_oldest_hours": 0, "mirror_lag_seconds": None, "broker_messages": None,
        "background_problems": 0,
    }  # fmt: skip
    settings.REDIS_URL = redis_url
    with redis.Redis.from_url(redis_url) as broker:
        broker.lpush("training", "a", "b")
    item = moderation.moderate(text="toxic=0.7 you", community="forum", author_ref="x").item
    assert item is not None
    QueueItem.objects.update(created_at=timezone.now() - timedelta(hours=30))
    MirrorState.objects.create()
    ChangeLogEntry.objects.create(kind="prediction", key="1", created_at=timezone.now() - timedelta(hours=1))
    assert figures() == pytest.approx(
        {
            "queue_items": 1,
            "queue_oldest_hours": 30,
            "mirror_lag_seconds": 3_600,
            "broker_messages": 2,
            "background_problems": 0,
        },
        rel=0.01,
    )
    actions.install_default_rules()
    AlertRule.objects.filter(metric="broker_messages").update(threshold=1)
    opened = {alert.metric for alert in actions.evaluate_rules()}
    assert opened == {"queue_oldest_hours", "mirror_lag_seconds", "broker_messages"}
    with redis.Redis.from_url(redis_url) as broker:
        broker.delete("training")


def _broken(traffic: TrafficWindow) -> None:
    raise ValueError


def test_evaluate_goes_on_after_a_rule_that_fails(
    rule: AlertRule, traffic: Callable[..., HourlyRollup], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(alert_metrics.ESTIMATORS, AlertRule.Metric.LATENCY, _broken)
    AlertRule.objects.create(name="A slow one", metric=AlertRule.Metric.LATENCY, threshold=1)
    AlertRule.objects.create(name="An unknown one", metric="of_another_release", threshold=1)
    traffic(requests=1_000, errors=50)
    with pytest.raises(RuleEvaluationError, match=r"2 alert rules .*“A slow one” .ValueError in apps/"):
        actions.evaluate_rules(now=NOW)
    assert Alert.objects.open().get().rule == rule
    with pytest.raises(RuleEvaluationError):
        tasks.evaluate_rules()


def test_default_rules_are_added_where_their_metric_has_none() -> None:
    AlertRule.objects.create(name="Our own", metric=AlertRule.Metric.LATENCY, threshold=5, is_active=False)
    actions.install_default_rules()
    assert AlertRule.objects.filter(metric=AlertRule.Metric.LATENCY).count() == 1
    assert AlertRule.objects.filter(metric=AlertRule.Metric.BACKGROUND_PROBLEMS, is_active=True).exists()
    assert actions.install_default_rules() == 0


def test_notices_go_out_after_one_that_fails(
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
