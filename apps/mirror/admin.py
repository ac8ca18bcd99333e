"""The state of the mirror in the admin. The change log is left out: its keys belong to communities."""

from django.contrib import admin

from apps.core.admin import ReadOnlyAdmin
from apps.mirror.models import MirrorState


@admin.register(MirrorState)
class MirrorStateAdmin(ReadOnlyAdmin):
    list_display = ("__str__", "failures", "retry_at", "lease_expires_at")
