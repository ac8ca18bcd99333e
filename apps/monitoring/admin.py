"""Admin of monitoring: alert rules can be edited, alerts acknowledged, everything else is read-only."""

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import ValidationError
from django.db.models import Model, QuerySet
from django.http import HttpRequest

from apps.accounts.permissions import get_user
from apps.core.admin import ReadOnlyAdmin
from apps.monitoring import actions, selectors
from apps.monitoring.models import Alert, AlertRule, IncompleteHour, Notification, ScheduledTask
from apps.webhooks.exceptions import InvalidEndpointError, WebhookError
from apps.webhooks.transport import check_url

MAX_TESTS = 3  # each may take ten seconds


class AlertRuleForm(forms.ModelForm):
    def clean(self) -> dict[str, Any]:
        data = super().clean() or {}
        if data.get("webhook_api_key") and not data.get("webhook_url"):
            raise ValidationError({"webhook_url": "Enter the URL that receives the webhook."})
        return data

    def clean_webhook_url(self) -> str:
        """Reject a URL to which no webhook can be sent."""
        url: str = self.cleaned_data["webhook_url"]
        try:
            if url:
                check_url(url)
        except InvalidEndpointError as error:
            raise ValidationError(str(error)) from error
        return url


@admin.register(AlertRule)
class AlertRuleAdmin(admin.ModelAdmin):
    form = AlertRuleForm
    formfield_overrides = ReadOnlyAdmin.formfield_overrides
    list_display = (
        "name", "metric", "comparison", "threshold", "window_hours", "emails", "webhook_url", "is_active",
    )  # fmt: skip
    list_filter = ("is_active", "metric")
    actions = ("send_test_webhook",)

    @admin.action(description="Send a test webhook for the selected rules", permissions=["change"])
    def send_test_webhook(self, request: HttpRequest, queryset: QuerySet[AlertRule]) -> None:
        for rule in queryset[:MAX_TESTS]:
            try:
                attempt = actions.send_test_webhook(rule=rule, user=get_user(request))
            except WebhookError as error:
                messages.error(request, str(error))
                continue
            level = messages.SUCCESS if attempt.is_delivered else messages.ERROR
            messages.add_message(request, level, f"{rule}: {attempt.sentence}")
        if len(queryset) > MAX_TESTS:
            messages.warning(request, f"Only the first {MAX_TESTS} rules were tested. Select fewer rules.")

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        # Alerts are evidence and refer to their rule, so a rule is deactivated instead.
        return False


class StateFilter(admin.SimpleListFilter):
    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: admin.ModelAdmin) -> list[tuple[str, str]]:
        return [("open", "Open"), ("closed", "Closed")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Alert]) -> QuerySet[Alert]:
        return queryset.filter(closed_at__isnull=self.value() == "open") if self.value() else queryset


@admin.register(Alert)
class AlertAdmin(ReadOnlyAdmin):
    list_display = ("opened_at", "rule", "summary", "closed_at", "acknowledged_by", "acknowledged_at")
    list_filter = (StateFilter,)
    list_select_related = ("rule", "acknowledged_by")
    list_per_page = 50
    actions = ("acknowledge",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Alert]:
        return selectors.visible_alerts(get_user(request))

    def has_acknowledge_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("monitoring.acknowledge_alert")

    @admin.action(description="Acknowledge the selected alerts", permissions=["acknowledge"])
    def acknowledge(self, request: HttpRequest, queryset: QuerySet[Alert]) -> None:
        count = sum(actions.acknowledge(alert=alert, user=get_user(request)) for alert in queryset)
        if count:
            reminders = f"Alerts acknowledged: {count}. There will be no more reminders of them."
            messages.success(request, reminders)
        else:
            messages.warning(request, "These alerts have been acknowledged already.")


@admin.register(Notification)
class NotificationAdmin(ReadOnlyAdmin):
    list_display = ("id", "alert", "event", "channel", "attempts", "sent_at", "failed_at", "error")
    list_select_related = ("alert__rule",)
    list_filter = ("channel",)
    list_per_page = 50

    def get_queryset(self, request: HttpRequest) -> QuerySet[Notification]:
        return selectors.visible_notifications(get_user(request))


@admin.register(ScheduledTask)
class ScheduledTaskAdmin(ReadOnlyAdmin):
    list_display = ("task", "succeeded_at", "failures", "failing_since", "error")


@admin.register(IncompleteHour)
class IncompleteHourAdmin(ReadOnlyAdmin):
    list_display = ("hour", "origin", "skipped", "error", "attempts", "first_failed_at", "retry_at")
    list_per_page = 50
