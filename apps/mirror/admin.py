"""The mirror in the admin: read-only."""

from django.contrib import admin

from apps.core.admin import LargeTablePaginator, ReadOnlyAdmin
from apps.mirror.models import ChangeLogEntry, MirrorState


@admin.register(ChangeLogEntry)
class ChangeLogEntryAdmin(ReadOnlyAdmin):
    list_display = ("id", "created_at", "kind", "key")
    list_filter = ("kind",)
    list_per_page = 50
    paginator = LargeTablePaginator


@admin.register(MirrorState)
class MirrorStateAdmin(ReadOnlyAdmin):
    list_display = ("__str__", "failures", "retry_at", "lease_expires_at")
