"""Signing keys and endpoints in the admin, read-only. The console rotates keys."""

from django.contrib import admin

from apps.core.admin import ReadOnlyAdmin
from apps.webhooks.models import Endpoint, SigningKey


@admin.register(SigningKey)
class SigningKeyAdmin(ReadOnlyAdmin):
    list_display = ("key_id", "api_key", "created_at", "created_by", "expires_at", "expired_by")
    list_select_related = ("api_key",)


@admin.register(Endpoint)
class EndpointAdmin(ReadOnlyAdmin):
    list_display = ("origin", "api_key", "failures", "paused_until")
    list_select_related = ("api_key",)
    list_filter = (("paused_until", admin.EmptyFieldListFilter),)
