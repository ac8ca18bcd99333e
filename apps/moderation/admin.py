"""Moderation in the admin: the console's URLs, and read-only tables limited to the user's communities."""

from collections import Counter
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.db.models import Field, Model, QuerySet
from django.http import HttpRequest
from django.urls import URLPattern, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from apps.accounts import admin as accounts_admin
from apps.accounts.models import CommunityAccess, User
from apps.accounts.permissions import communities_of, get_user, in_communities_of
from apps.core.admin import LargeTablePaginator, ReadOnlyAdmin, viewer_display
from apps.core.exceptions import PermissionDeniedError
from apps.core.text import name_community, pluralize
from apps.moderation import actions
from apps.moderation.console import comment
from apps.moderation.console.forms import CommunityField
from apps.moderation.console.urls import console_urls
from apps.moderation.exceptions import ModerationError
from apps.moderation.models import (
    Appeal,
    Author,
    AutomaticDecision,
    BulkJob,
    Decision,
    Delivery,
    Policy,
    PolicyRule,
    QueueItem,
    Strike,
    Submission,
)
from apps.moderation.permissions import ROLES
from apps.moderation.selectors import communities_for, visible


class LimitedAdmin(ReadOnlyAdmin):
    """A table of which users see the rows of `selectors.visible`."""

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        return visible(get_user(request), super().get_queryset(request))


class LargeTableAdmin(LimitedAdmin):
    """A table that is too large to count its rows; users search for rows by ID."""

    paginator = LargeTablePaginator
    list_per_page = 50


def _to_item(viewer: User, item_id: int | None) -> SafeString | str:
    if item_id is None:
        return "–"
    if not viewer.has_perm("moderation.view_queueitem"):
        return str(item_id)
    return format_html('<a href="{}">{}</a>', reverse("admin:moderation_item", args=[item_id]), item_id)


# Fields that a blind review hides: scores, and the first decision.
_HIDDEN_WHEN_BLIND = (
    "label",
    "score",
    "severity",
    "uncertainty",
    "author_risk",
    "priority",
    "original",
    "excluded_reviewer",
)


def _is_blind(item: QueueItem) -> bool:
    return item.is_blind and item.status == QueueItem.Status.OPEN


@admin.register(QueueItem)
class QueueItemAdmin(LargeTableAdmin):
    list_display = (
        "id",
        "in_console",
        "status",
        "queue",
        "kind",
        "shown_label",
        "shown_score",
        "community",
        "created_at",
        "due_at",
    )
    list_filter = ("status",)
    search_fields = ("id__exact",)
    search_help_text = "The item's number. The console finds authors and the platform's ids as well."

    def get_urls(self) -> list[URLPattern]:
        return [*console_urls(), *super().get_urls()]

    @viewer_display(description="console")
    def in_console(self, item: QueueItem, viewer: User) -> SafeString | str:
        return _to_item(viewer, item.pk)

    @admin.display(description="label")
    def shown_label(self, item: QueueItem) -> str:
        return "–" if _is_blind(item) else item.get_label_display() or item.assessment

    @admin.display(description="score")
    def shown_score(self, item: QueueItem) -> str:
        return "–" if _is_blind(item) or not item.label else f"{item.score:.0%}"

    def get_exclude(self, request: HttpRequest, obj: Model | None = None) -> Any:
        """Leave out the fields that a moderator of a blind review must not see."""
        return _HIDDEN_WHEN_BLIND if isinstance(obj, QueueItem) and _is_blind(obj) else None


@admin.register(Decision)
class DecisionAdmin(LargeTableAdmin):
    list_display = ("id", "created_at", "action", "actor", "in_console", "rule", "policy", "seconds")
    list_filter = ("automatic",)
    list_select_related = ("by", "rule", "policy")
    search_fields = ("id__exact",)

    @viewer_display(description="item")
    def in_console(self, decision: Decision, viewer: User) -> SafeString | str:
        return _to_item(viewer, decision.item_id)


MAX_SENT_TO_REVIEW = 500
_EXCERPT = 160  # characters of a comment in a list row


class OutcomeFilter(admin.SimpleListFilter):
    """Whether the policy approved or rejected."""

    title = "outcome"
    parameter_name = "outcome"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        outcomes = (Submission.Outcome.REJECT, Submission.Outcome.APPROVE)
        return [(outcome.value, str(outcome.label)) for outcome in outcomes]

    def queryset(self, request: HttpRequest, queryset: QuerySet) -> QuerySet:
        return queryset if self.value() is None else queryset.filter(action=self.value())


class CommunityFilter(admin.SimpleListFilter):
    """The communities that the user may see and that have comments."""

    title = "community"
    parameter_name = "community"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(name or "-", name_community(name)) for name in communities_for(get_user(request))]

    def queryset(self, request: HttpRequest, queryset: QuerySet) -> QuerySet:
        if self.value() is None:
            return queryset
        community = "" if self.value() == "-" else self.value()
        return queryset.filter(submission__community=community)


class RuleFilter(admin.SimpleListFilter):
    """The rules of the policy versions that the user may see, by title."""

    title = "rule"
    parameter_name = "rule"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        rules = PolicyRule.objects.exclude(label="")
        # The default policy applies in every community.
        rules = in_communities_of(get_user(request), rules, "policy__community") | rules.filter(
            policy__community=""
        )
        titles = rules.order_by("title").values_list("title", flat=True).distinct()
        return [(title, title) for title in titles]

    def queryset(self, request: HttpRequest, queryset: QuerySet) -> QuerySet:
        return queryset if self.value() is None else queryset.filter(rule__title=self.value())


@admin.register(AutomaticDecision)
class AutomaticDecisionAdmin(LargeTableAdmin):
    """The policy's decisions, with an action that sends their comments to human review."""

    list_display = ("id", "created_at", "outcome", "state", "rule", "community", "comment")
    list_filter = (
        OutcomeFilter,
        CommunityFilter,
        RuleFilter,
        ("created_at", admin.DateFieldListFilter),
    )
    list_select_related = ("rule", "submission__prediction")
    search_fields = ("id__exact", "submission__external_id__exact")
    search_help_text = "The decision's number, or the platform's own ID of the comment, in full."
    actions = ("send_to_review",)
    fields = ("created_at", "outcome", "rule", "policy", "model_version", "community", "comment", "state")

    def get_changelist_instance(self, request: HttpRequest) -> Any:
        changelist = super().get_changelist_instance(request)
        changelist.result_list = changelist.result_list.with_state()
        return changelist

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Any:
        decision = super().get_object(request, object_id, from_field)
        return decision and AutomaticDecision.objects.with_state().get(pk=decision.pk)

    def has_view_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return request.user.has_perm("moderation.view_decision")

    def has_module_permission(self, request: HttpRequest) -> bool:
        return self.has_view_permission(request)

    def has_decide_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("moderation.decide_queueitem")

    @admin.action(description="Send to review", permissions=["decide"])
    def send_to_review(self, request: HttpRequest, queryset: QuerySet[Decision]) -> None:
        decisions = list(
            queryset.select_related("submission__author", "policy", "rule").order_by("pk")[
                : MAX_SENT_TO_REVIEW + 1
            ]
        )
        if len(decisions) > MAX_SENT_TO_REVIEW:
            messages.error(request, f"Select at most {MAX_SENT_TO_REVIEW} decisions at a time.")
            return
        results: Counter[str] = Counter()
        for decision in decisions:
            try:
                item = actions.send_to_review(decision=decision, by=get_user(request))
            except (ModerationError, PermissionDeniedError) as error:
                results[str(error)] += 1
            else:
                if item:
                    self.log_change(request, decision, f"Sent to review as item {item.pk}.")
                results["" if item else "already in the queue, or decided or edited since"] += 1
        sent = results.pop("", 0)
        if sent:
            messages.success(
                request,
                f"Sent {pluralize(sent, 'comment')} to review. The decisions remain in force until then.",
            )
        for reason, count in results.items():
            messages.warning(request, f"Not sent: {count} ({reason.rstrip('.')}).")

    @admin.display(description="outcome", ordering="action")
    def outcome(self, decision: Decision) -> str:
        labels = dict(Submission.Outcome.choices)
        return labels.get(decision.action, decision.get_action_display())

    @admin.display(description="community")
    def community(self, decision: Decision) -> str:
        return name_community(decision.submission.community)

    @admin.display(description="comment")
    def comment(self, decision: Decision) -> str:
        text = decision.submission.text
        return comment.escape_text(text[:_EXCERPT] + ("…" if len(text) > _EXCERPT else "")) or "not stored"

    @viewer_display(description="state")
    def state(self, decision: Any, viewer: User) -> SafeString | str:
        if decision.open_item:
            return format_html("In review: item {}", _to_item(viewer, decision.open_item))
        if decision.superseded_by is None:
            return "In force"
        changed = decision.superseded_by != decision.action
        return "Changed by a moderator" if changed else "Confirmed by a moderator"


@admin.register(Policy)
class PolicyAdmin(LimitedAdmin):
    empty_community = "default"
    list_display = ("__str__", "in_console", "status", "activated_at", "activated_by", "reason")
    list_filter = ("status",)
    list_select_related = ("activated_by",)

    @admin.display(description="console")
    def in_console(self, policy: Policy) -> SafeString:
        url = reverse("admin:moderation_policy", args=[policy.pk])
        return format_html('<a href="{}">Rules and simulator</a>', url)


@admin.register(Author)
class AuthorAdmin(LargeTableAdmin):
    list_display = ("ref", "community", "created_at")
    ordering = ("-pk",)
    search_fields = ("ref__exact",)
    search_help_text = "The platform's own reference, in full."


@admin.register(Strike)
class StrikeAdmin(LargeTableAdmin):
    list_display = ("id", "author", "points", "expires_at", "lifted_at")
    list_select_related = ("author",)


@admin.register(Appeal)
class AppealAdmin(LargeTableAdmin):
    list_display = ("id", "status", "in_console", "created_at", "resolved_at")
    list_filter = ("status",)

    @viewer_display(description="item")
    def in_console(self, appeal: Appeal, viewer: User) -> SafeString | str:
        return _to_item(viewer, appeal.item_id)


@admin.register(Delivery)
class DeliveryAdmin(LargeTableAdmin):
    list_display = ("id", "event", "status", "attempts", "response_status", "error", "created_at")
    list_filter = ("status",)
    search_fields = ("id__exact",)


@admin.register(BulkJob)
class BulkJobAdmin(LargeTableAdmin):
    list_display = ("id", "action", "rule", "count", "done", "skipped", "status", "created_by", "created_at")
    list_select_related = ("rule", "created_by")
    list_filter = ("status",)


class CommunityAccessInline(admin.TabularInline):
    """The communities that a user may see, chosen from those that exist and that the administrator sees."""

    model = CommunityAccess
    extra = 1
    verbose_name_plural = "communities that the user may see"

    def get_queryset(self, request: HttpRequest) -> QuerySet[CommunityAccess]:
        return in_communities_of(get_user(request), super().get_queryset(request))

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def formfield_for_dbfield(
        self, db_field: "Field[Any, Any]", request: HttpRequest, **kwargs: Any
    ) -> forms.Field | None:
        if db_field.name != "community":
            return super().formfield_for_dbfield(db_field, request, **kwargs)
        return CommunityField(
            communities=communities_for(get_user(request)),
            empty_label="---------",
            help_text="A community appears here once a comment or a policy names it.",
        )


admin.site.unregister(User)


@admin.register(User)
class UserAdmin(accounts_admin.UserAdmin):
    fieldsets = (
        *accounts_admin.UserAdmin.fieldsets,  # type: ignore[misc]
        ("Community access", {"fields": ("all_communities",)}),
    )
    inlines = (CommunityAccessInline,)

    def get_readonly_fields(self, request: HttpRequest, obj: Model | None = None) -> Any:
        """Keep users from giving more access than they have themselves."""
        fields = list(super().get_readonly_fields(request, obj))
        user = get_user(request)
        if not user.is_superuser:
            fields.append("is_superuser")
        if communities_of(user) is not None:
            fields.append("all_communities")
        return fields

    def save_model(self, request: HttpRequest, obj: User, form: Any, change: bool) -> None:
        """Give staff status to a user who is given a role: without it the user cannot sign in."""
        added = set(form.cleaned_data.get("groups", ())) - set(form.initial.get("groups", ()))
        has_new_role = any(group.name in ROLES for group in added)
        if has_new_role and not obj.is_staff and "is_staff" not in form.changed_data:
            obj.is_staff = True
            self.log_change(request, obj, "Set staff status, because the user was given a role.")
            messages.info(
                request, f"The user {obj} has a role now and was given staff status, which allows signing in."
            )
        super().save_model(request, obj, form, change)
