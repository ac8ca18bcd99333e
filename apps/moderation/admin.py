"""Moderation in the admin: the console's paths, read-only evidence, and who sees which community."""

from typing import Any

from django import forms
from django.contrib import admin
from django.db.models import Field, Model, QuerySet
from django.http import HttpRequest
from django.urls import URLPattern, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from apps.accounts.admin import PersonAdmin, ReadOnlyAdmin
from apps.accounts.models import CommunityAccess, User
from apps.accounts.permissions import communities_of, in_communities_of
from apps.moderation.console.urls import console_urls
from apps.moderation.models import (
    Appeal,
    Author,
    BulkJob,
    Decision,
    Delivery,
    Policy,
    QueueItem,
    Strike,
    WebhookKey,
)
from apps.moderation.selectors import communities_for
from apps.predictions.admin import UncountedPaginator


class EvidenceAdmin(ReadOnlyAdmin):
    """A table too large to count, looked at by id."""

    paginator = UncountedPaginator
    list_per_page = 50


def _to_item(item_id: int | None) -> SafeString | str:
    if item_id is None:
        return "–"
    return format_html('<a href="{}">{}</a>', reverse("admin:moderation_item", args=[item_id]), item_id)


@admin.register(QueueItem)
class QueueItemAdmin(EvidenceAdmin):
    list_display = (
        "id",
        "in_console",
        "status",
        "lane",
        "kind",
        "label",
        "score",
        "community",
        "created_at",
        "due_at",
    )
    list_filter = ("status",)
    search_fields = ("id__exact",)
    search_help_text = "The item's number. The console finds authors and the platform's ids as well."

    def get_urls(self) -> list[URLPattern]:
        return [*console_urls(), *super().get_urls()]

    @admin.display(description="console")
    def in_console(self, item: QueueItem) -> SafeString | str:
        return _to_item(item.pk)


@admin.register(Decision)
class DecisionAdmin(EvidenceAdmin):
    list_display = ("id", "created_at", "action", "actor", "in_console", "rule", "policy", "seconds")
    list_filter = ("automatic",)
    list_select_related = ("by", "rule", "policy")
    search_fields = ("id__exact",)

    @admin.display(description="item")
    def in_console(self, decision: Decision) -> SafeString | str:
        return _to_item(decision.item_id)


@admin.register(Policy)
class PolicyAdmin(ReadOnlyAdmin):
    list_display = ("__str__", "in_console", "status", "activated_at", "activated_by", "reason")
    list_filter = ("status",)
    list_select_related = ("activated_by",)

    @admin.display(description="console")
    def in_console(self, policy: Policy) -> SafeString:
        url = reverse("admin:moderation_policy", args=[policy.pk])
        return format_html('<a href="{}">Rules and simulator</a>', url)


@admin.register(Author)
class AuthorAdmin(EvidenceAdmin):
    list_display = ("ref", "community", "created_at")
    ordering = ("-pk",)
    search_fields = ("ref__exact",)
    search_help_text = "The platform's own reference, in full."


@admin.register(Strike)
class StrikeAdmin(EvidenceAdmin):
    list_display = ("id", "author", "points", "expires_at", "lifted_at")
    list_select_related = ("author",)


@admin.register(Appeal)
class AppealAdmin(EvidenceAdmin):
    list_display = ("id", "status", "in_console", "created_at", "resolved_at")
    list_filter = ("status",)

    @admin.display(description="item")
    def in_console(self, appeal: Appeal) -> SafeString | str:
        return _to_item(appeal.item_id)


@admin.register(Delivery)
class DeliveryAdmin(EvidenceAdmin):
    list_display = ("id", "event", "status", "attempts", "response_status", "error", "created_at")
    list_filter = ("status",)
    search_fields = ("id__exact",)


@admin.register(WebhookKey)
class WebhookKeyAdmin(ReadOnlyAdmin):
    list_display = ("key_id", "client", "created_at", "retired_at")
    list_select_related = ("client",)


@admin.register(BulkJob)
class BulkJobAdmin(EvidenceAdmin):
    list_display = ("id", "action", "rule", "count", "done", "skipped", "status", "created_by", "created_at")
    list_select_related = ("rule", "created_by")
    list_filter = ("status",)


class CommunityField(forms.ChoiceField):
    """A choice of `community_choices`; its value is the community's name."""

    def clean(self, value: Any) -> str:
        return super().clean(value).removeprefix("=")


def community_choices(names: list[str]) -> list[tuple[str, str]]:
    """Return choices whose values have a prefix, which tells comments without a community from no choice."""
    return [(f"={name}", name or "(no community)") for name in names]


class CommunityAccessInline(admin.TabularInline):
    """The communities that a user may see, chosen from those that exist and that the administrator sees."""

    model = CommunityAccess
    extra = 1
    verbose_name_plural = "communities that the user may see"

    def get_queryset(self, request: HttpRequest) -> QuerySet[CommunityAccess]:
        assert isinstance(request.user, User)
        return in_communities_of(request.user, super().get_queryset(request))

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def formfield_for_dbfield(
        self, db_field: "Field[Any, Any]", request: HttpRequest, **kwargs: Any
    ) -> forms.Field | None:
        if db_field.name != "community":
            return super().formfield_for_dbfield(db_field, request, **kwargs)
        assert isinstance(request.user, User)
        return CommunityField(
            choices=[("", "---------"), *community_choices(communities_for(request.user))],
            help_text="A community appears here once a comment or a policy names it.",
        )


admin.site.unregister(User)


@admin.register(User)
class UserAdmin(PersonAdmin):
    fieldsets = (
        *PersonAdmin.fieldsets,  # type: ignore[misc]
        ("Community access", {"fields": ("all_communities",)}),
    )
    inlines = (CommunityAccessInline,)

    def get_readonly_fields(self, request: HttpRequest, obj: Model | None = None) -> Any:
        """Let nobody give more access than they have themselves."""
        assert isinstance(request.user, User)
        fields = list(super().get_readonly_fields(request, obj))
        if not request.user.is_superuser:
            fields.append("is_superuser")
        if communities_of(request.user) is not None:
            fields.append("all_communities")
        return fields
