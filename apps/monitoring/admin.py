"""Alerts in the admin: rules to write, alerts to look at and acknowledge."""

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import ValidationError
from django.db.models import Model, QuerySet
from django.http import HttpRequest

from apps.accounts.models import User
from apps.accounts.permissions import communities_of
from apps.core.admin import ReadOnlyAdmin
from apps.monitoring import alerts
from apps.monitoring.models import SITE_METRICS, Alert, AlertRule, Notice, ScheduledTask, UncountedHour
from apps.webhooks.exceptions import WebhookError

MAX_TESTS = 3  # each may take ten seconds


class AlertRuleForm(forms.ModelForm):
    def clean(self) -> dict[str, Any]:
        given = super().clean() or {}
        if given.get("webhook_client") and not given.get("webhook_url"):
            raise ValidationError({"webhook_url": "Give the address that the signed webhook goes to."})
        return given


@admin.register(AlertRule)
class AlertRuleAdmin(admin.ModelAdmin):
    form = AlertRuleForm
    formfield_overrides = ReadOnlyAdmin.formfield_overrides
    list_display = (
        "name", "metric", "comparison", "threshold", "window_hours", "emails", "webhook_url", "is_active",
    )  # fmt: skip
    list_filter = ("is_active", "metric")
    actions = ("send_test",)

    @admin.action(description="Send a test webhook of the selected rules", permissions=["change"])
    def send_test(self, request: HttpRequest, queryset: QuerySet[AlertRule]) -> None:
        assert isinstance(request.user, User)
        for rule in queryset[:MAX_TESTS]:
            try:
                attempt = alerts.send_test(rule=rule, user=request.user)
            except WebhookError as error:
                messages.error(request, str(error))
                continue
            if attempt.is_delivered:
                messages.success(request, f"{rule}: {attempt.sentence}")
            else:
                messages.error(request, f"{rule}: {attempt.sentence}")
        if len(queryset) > MAX_TESTS:
            messages.warning(request, f"Only the first {MAX_TESTS} rules were tested: select fewer.")

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        # Rules are turned off, not deleted: their alerts are evidence.
        return False


def _sees_all(request: HttpRequest) -> bool:
    return isinstance(request.user, User) and communities_of(request.user) is None


class OpenFilter(admin.SimpleListFilter):
    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: admin.ModelAdmin) -> list[tuple[str, str]]:
        return [("open", "Open"), ("closed", "Closed")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Alert]) -> QuerySet[Alert]:
        return queryset.filter(closed_at__isnull=self.value() == "open") if self.value() else queryset


@admin.register(Alert)
class AlertAdmin(ReadOnlyAdmin):
    list_display = ("opened_at", "rule", "sentence", "closed_at", "acknowledged_by", "acknowledged_at")
    list_filter = (OpenFilter,)
    list_select_related = ("rule", "acknowledged_by")
    list_per_page = 50
    actions = ("acknowledge",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Alert]:
        """Return all alerts, or those on the machinery where the user does not see all communities."""
        rows = super().get_queryset(request)
        return rows if _sees_all(request) else rows.filter(metric__in=SITE_METRICS)

    def has_acknowledge_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm(alerts.ACKNOWLEDGE)

    @admin.action(description="Acknowledge the selected alerts", permissions=["acknowledge"])
    def acknowledge(self, request: HttpRequest, queryset: QuerySet[Alert]) -> None:
        assert isinstance(request.user, User)
        count = sum(alerts.acknowledge(alert=alert, user=request.user) for alert in queryset)
        messages.success(request, f"Acknowledged {count}; nobody is reminded of them any more.")


@admin.register(Notice)
class NoticeAdmin(ReadOnlyAdmin):
    list_display = ("id", "alert", "event", "channel", "attempts", "sent_at", "failed_at", "error")
    list_select_related = ("alert__rule",)
    list_filter = ("channel",)
    list_per_page = 50

    def get_queryset(self, request: HttpRequest) -> QuerySet[Notice]:
        rows = super().get_queryset(request)
        return rows if _sees_all(request) else rows.filter(alert__metric__in=SITE_METRICS)


@admin.register(ScheduledTask)
class ScheduledTaskAdmin(ReadOnlyAdmin):
    list_display = ("task", "succeeded_at", "failures", "failing_since", "error")


@admin.register(UncountedHour)
class UncountedHourAdmin(ReadOnlyAdmin):
    list_display = ("hour", "origin", "skipped", "error", "attempts", "first_failed_at", "retry_at")
    list_per_page = 50
