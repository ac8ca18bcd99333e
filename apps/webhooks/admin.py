"""Signing keys and endpoints in the admin, read-only. The console rotates keys."""

from django.contrib import admin

from apps.core.admin import ReadOnlyAdmin
from apps.webhooks.models import Endpoint, SigningKey


@admin.register(SigningKey)
class SigningKeyAdmin(ReadOnlyAdmin):
    list_display = ("key_id", "client", "created_at", "created_by", "expires_at", "expired_by")
    list_select_related = ("client",)


@admin.register(Endpoint)
class EndpointAdmin(ReadOnlyAdmin):
    list_display = ("origin", "client", "failures", "paused_until")
    list_select_related = ("client",)
    list_filter = (("paused_until", admin.EmptyFieldListFilter),)
