from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.contrib.auth.models import Permission
from django.core.exceptions import PermissionDenied
from django.core.management import call_command
from django.db import IntegrityError, transaction
from django.test import Client

from apps.accounts.models import User
from apps.monitoring import actions, alert_metrics, tasks
from apps.monitoring.alert_metrics import TrafficWindow
from apps.monitoring.exceptions import RuleEvaluationError
from apps.monitoring.models import Alert, AlertRule, HourlyRollup, Notification

pytestmark = [pytest.mark.django_db, pytest.mark.database]
NOW = datetime(2026, 11, 20, 12, 30, tzinfo=UTC)


def _minutes(count: int) -> datetime:
    return NOW + timedelta(minutes=count)


def test_evaluate_rules_opens_and_closes_alert_once(
    rule: AlertRule, traffic: Callable[..., HourlyRollup]
) -> None:
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
    assert [notification.event for notification in Notification.objects.order_by("id")] == [
        "alert.opened",
        "alert.closed",
    ]


def test_evaluate_rules_triggers_training_once(
    rule: AlertRule,
    traffic: Callable[..., HourlyRollup],
    monkeypatch: pytest.MonkeyPatch,
    django_capture_on_commit_callbacks: Callable[..., Any],
) -> None:
    enqueued: list[Any] = []
    monkeypatch.setattr("apps.core.enqueue._add", lambda task, args, *times: enqueued.append((task, *args)))
    traffic(requests=1_000, errors=50)
    AlertRule.objects.update(triggers_training=True)
    with django_capture_on_commit_callbacks(execute=True):
        (alert,) = actions.evaluate_rules(now=NOW)
        actions.evaluate_rules(now=_minutes(2))
    assert enqueued == [("apps.training.tasks.retrain", f"alert {alert.pk}: Calls fail")]


def test_evaluate_rules_needs_enough_requests(rule: AlertRule, traffic: Callable[..., HourlyRollup]) -> None:
    traffic(requests=30, errors=1)
    assert actions.evaluate_rules(now=NOW) == []
    assert actions.evaluate_rules(now=NOW + timedelta(days=2)) == []  # no traffic


def test_alert_open_twice_violates_constraint(rule: AlertRule) -> None:
    values = {"metric": rule.metric, "threshold": 0.01, "value": 1, "low": 1, "high": 1, "window_hours": 1}
    Alert.objects.create(rule=rule, **values)
    with pytest.raises(IntegrityError), transaction.atomic():
        Alert.objects.create(rule=rule, **values)


def test_evaluate_rules_respects_notification_interval_and_acknowledgement(
    rule: AlertRule, traffic: Callable[..., HourlyRollup], ann: User
) -> None:
    ann.user_permissions.add(Permission.objects.get(codename="acknowledge_alert"))
    traffic(requests=1_000, errors=500)
    assert len(actions.evaluate_rules(now=NOW)) == 1
    actions.evaluate_rules(now=_minutes(29))
    assert Notification.objects.count() == 1
    # The alert closes and opens again. It is listed, but there is no notification within the hour.
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


def test_summary_of_alerts() -> None:
    alert = Alert(metric="error_share", comparison="above", threshold=0.01, window_hours=2)
    alert.value, alert.low, alert.high = 0.02, 0.015, 0.03
    assert alert.summary == (
        "Error rate (requests answered with 5xx): 0.02 (0.015 to 0.03), above 0.01 over 2 h."
    )
    alert.metric, alert.value, alert.threshold = "queue_items", 12_345, 10
    assert alert.summary == "Open queue items now: 12345, above 10."


def test_acknowledge_requires_permission(rule: AlertRule, ann: User, client: Client) -> None:
    alert = Alert.objects.create(
        rule=rule, metric=rule.metric, threshold=0.01, value=0.5, low=0.4, high=0.6, window_hours=1
    )
    with pytest.raises(PermissionDenied):
        actions.acknowledge(alert=alert, user=ann)
    ann.is_staff = True
    ann.save()
    ann.user_permissions.add(Permission.objects.get(codename="view_alert"))
    client.force_login(ann)
    data = {"action": "acknowledge", "_selected_action": [alert.pk]}
    page = client.get("/admin/monitoring/alert/")
    assert "Calls fail" in page.text
    assert "Acknowledge the selected" not in page.text
    client.post("/admin/monitoring/alert/", data)
    assert Alert.objects.get().acknowledged_by is None
    ann.user_permissions.add(Permission.objects.get(codename="acknowledge_alert"))
    assert "Acknowledge the selected alerts" in client.get("/admin/monitoring/alert/?state=open").text
    assert "Alerts acknowledged: 1" in client.post("/admin/monitoring/alert/", data, follow=True).text
    assert Alert.objects.get().acknowledged_by == ann
    page = client.post("/admin/monitoring/alert/", data, follow=True).text
    assert "These alerts have been acknowledged already" in page
    assert client.get("/admin/monitoring/alert/add/").status_code == 403
    assert client.post(f"/admin/monitoring/alert/{alert.pk}/delete/").status_code == 403


def test_evaluate_rules_closes_alert_of_inactive_rule(
    rule: AlertRule, traffic: Callable[..., HourlyRollup]
) -> None:
    traffic(requests=1_000, errors=500)
    actions.evaluate_rules(now=NOW)
    AlertRule.objects.update(is_active=False)
    actions.evaluate_rules(now=_minutes(1))
    assert Alert.objects.get().closed_at == _minutes(1)


def test_install_default_rules_creates_rules_once_without_recipients(
    capsys: pytest.CaptureFixture[str],
) -> None:
    call_command("install_default_alerts")
    count = AlertRule.objects.count()
    assert count >= 8
    assert not AlertRule.objects.exclude(emails="", webhook_url="").exists()
    AlertRule.objects.filter(metric="latency_p95_ms").update(threshold=5)
    call_command("install_default_alerts")
    assert AlertRule.objects.count() == count
    AlertRule.objects.filter(metric="broker_messages").delete()
    capsys.readouterr()
    call_command("install_default_alerts")
    assert "Created 1 alert rule." in capsys.readouterr().out


def _broken(traffic: TrafficWindow) -> None:
    raise ValueError


def test_evaluate_rules_continues_after_failing_rule(
    rule: AlertRule, traffic: Callable[..., HourlyRollup], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(alert_metrics.ESTIMATORS, AlertRule.Metric.LATENCY, _broken)
    AlertRule.objects.create(name="Latency", metric=AlertRule.Metric.LATENCY, threshold=1)
    AlertRule.objects.create(name="Unknown metric", metric="of_another_release", threshold=1)
    traffic(requests=1_000, errors=50)
    with pytest.raises(RuleEvaluationError, match=r"2 alert rules .*“Latency” .ValueError in apps/"):
        actions.evaluate_rules(now=NOW)
    assert Alert.objects.open().get().rule == rule
    with pytest.raises(RuleEvaluationError):
        tasks.evaluate_rules()


def test_install_default_rules_skips_metrics_with_rule() -> None:
    AlertRule.objects.create(name="Our own", metric=AlertRule.Metric.LATENCY, threshold=5, is_active=False)
    actions.install_default_rules()
    assert AlertRule.objects.filter(metric=AlertRule.Metric.LATENCY).count() == 1
    assert AlertRule.objects.filter(metric=AlertRule.Metric.BACKGROUND_PROBLEMS, is_active=True).exists()
    assert actions.install_default_rules() == 0
