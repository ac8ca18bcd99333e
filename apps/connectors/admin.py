"""Connections in the admin, and the actions that are sent through them."""

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import ValidationError
from django.db.models import Model, QuerySet
from django.http import HttpRequest
from django.urls import reverse

from apps.accounts.models import User
from apps.accounts.permissions import get_user, may_see_community
from apps.connectors import actions, selectors
from apps.connectors.models import Connection, PlatformAction
from apps.core.admin import ReadOnlyAdmin
from apps.webhooks.exceptions import InvalidEndpointError
from apps.webhooks.transport import check_url

_KEEP = "It is stored encrypted and not shown again. Leave this empty to keep it."


class ConnectionForm(forms.ModelForm):
    secret = forms.CharField(
        max_length=500,
        required=False,
        widget=forms.PasswordInput(attrs={"autocomplete": "off"}),
        help_text="The secret with which the platform signs its requests. Without it, all of them are "
        f"rejected. {_KEEP}",
    )
    token = forms.CharField(
        max_length=2_000,
        required=False,
        widget=forms.PasswordInput(attrs={"autocomplete": "off"}),
        help_text=f"The token or API key with which flags and decisions are sent back. {_KEEP}",
    )
    user: User  # who edits; `ConnectionAdmin` sets it

    def clean_community(self) -> str:
        community: str = self.cleaned_data["community"]
        if not may_see_community(self.user, community):
            raise ValidationError("You do not have access to this community.")
        return community

    def clean_base_url(self) -> str:
        url: str = self.cleaned_data["base_url"]
        try:
            if url:
                check_url(url)
        except InvalidEndpointError as error:
            raise ValidationError(str(error)) from error
        return url

    def clean(self) -> dict[str, Any]:
        data = super().clean() or {}
        if data.get("token") and not data.get("base_url"):
            self.add_error("base_url", "Enter the address to which flags and decisions are sent.")
        has_moved = "base_url" in self.changed_data and not self.instance._state.adding
        if has_moved and self.instance.encrypted_token and not data.get("token"):
            self.add_error("token", "Enter the token again: it is not sent to another address by itself.")
        return data


@admin.register(Connection)
class ConnectionAdmin(admin.ModelAdmin):
    form = ConnectionForm
    formfield_overrides = ReadOnlyAdmin.formfield_overrides
    list_display = ("platform", "community", "base_url", "sends_actions", "is_active", "failures")
    list_filter = ("platform", "is_active")
    readonly_fields = ("receiver", "failures", "paused_until", "created_at", "created_by")

    @admin.display(description="path for the platform's requests")
    def receiver(self, connection: Connection) -> str:
        if connection._state.adding:
            return "–"
        return reverse("connectors:receive", args=[connection.pk])

    @admin.display(description="sends decisions", boolean=True)
    def sends_actions(self, connection: Connection) -> bool:
        return connection.sends_actions

    def get_queryset(self, request: HttpRequest) -> QuerySet[Connection]:
        return selectors.visible_connections(get_user(request))

    def get_readonly_fields(self, request: HttpRequest, obj: Model | None = None) -> Any:
        return self.readonly_fields if obj is None else ("platform", *self.readonly_fields)

    def get_form(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        form: Any = super().get_form(request, *args, **kwargs)
        form.user = get_user(request)
        return form

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def save_model(self, request: HttpRequest, obj: Connection, form: Any, change: bool) -> None:
        actions.save_connection(
            actor=get_user(request),
            connection=obj,
            secret=form.cleaned_data["secret"],
            token=form.cleaned_data["token"],
        )


@admin.register(PlatformAction)
class PlatformActionAdmin(ReadOnlyAdmin):
    list_display = ("comment", "kind", "status", "attempts", "created_at", "delivered_at", "error")
    list_select_related = ("comment__submission",)
    list_filter = ("status", "kind")
    actions = ("resend",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[PlatformAction]:
        return selectors.visible_actions(get_user(request))

    def has_resend_permission(self, request: HttpRequest) -> bool:
        """Allow it to users who may change connections."""
        return request.user.has_perm("connectors.change_connection")

    @admin.action(description="Send the selected failed actions again", permissions=["resend"])
    def resend(self, request: HttpRequest, queryset: QuerySet[PlatformAction]) -> None:
        count = actions.resend(actor=get_user(request), actions=queryset)
        messages.success(request, f"{count} of the selected actions will be sent again.")
