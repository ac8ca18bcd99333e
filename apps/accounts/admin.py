"""Users and API keys in the admin, and the base class of rows that belong to communities."""

from datetime import timedelta
from typing import Any

from axes.models import AccessAttempt
from django.conf import settings
from django.contrib import admin, messages
from django.contrib.auth import admin as auth_admin
from django.core.exceptions import PermissionDenied
from django.db.models import ForeignKey, Model, OuterRef, QuerySet, Subquery, Sum
from django.forms import ModelChoiceField
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString, mark_safe

from apps.accounts import actions, two_factor
from apps.accounts.models import APIKey, User
from apps.accounts.permissions import communities_of, get_user, in_communities_of, users_within_access_of
from apps.accounts.sign_in import lock_seconds
from apps.core.admin import ReadOnlyAdmin


def _within_access(request: HttpRequest) -> QuerySet[User]:
    return users_within_access_of(get_user(request))


@admin.register(User)
class UserAdmin(auth_admin.UserAdmin):
    actions = ("disable_two_factor",)

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Protect users who see more communities: setting a password allows signing in as that user."""
        if obj is not None and not _within_access(request).filter(pk=obj.pk).exists():
            return False
        return super().has_change_permission(request, obj)

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Allow it to users who see all communities: the confirmation page lists related rows."""
        return self._sees_all(request) and super().has_delete_permission(request, obj)

    def history_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        """Show the history to users who see all communities: it names the communities of the user."""
        if not self._sees_all(request):
            raise PermissionDenied
        return super().history_view(request, *args, **kwargs)

    def _sees_all(self, request: HttpRequest) -> bool:
        return isinstance(request.user, User) and communities_of(request.user) is None

    @admin.action(
        description="Switch off two-factor authentication for the selected users", permissions=["change"]
    )
    def disable_two_factor(self, request: HttpRequest, queryset: QuerySet[User]) -> None:
        for user in queryset.filter(pk__in=_within_access(request).values("pk")):
            two_factor.disable(user)
            self.log_change(request, user, "Switched off two-factor authentication.")
        messages.success(request, "Done. They sign in with the password alone until they switch it on again.")


@admin.register(AccessAttempt)
class AccessAttemptAdmin(ReadOnlyAdmin):
    """Failed sign-ins of each name, address and browser since the last success; a lock is of both former."""

    list_display = ("username", "ip_address", "failures_since_start", "attempt_time", "state")
    search_fields = ("username",)
    fields = ("username", "ip_address", "user_agent", "failures_since_start", "attempt_time", "state")
    actions = ("release",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[AccessAttempt]:
        attempts = AccessAttempt.objects.filter(
            username=OuterRef("username"),
            ip_address=OuterRef("ip_address"),
            attempt_time__gte=timezone.now() - timedelta(seconds=lock_seconds()),
        )
        counts = attempts.order_by().values("username").annotate(total=Sum("failures_since_start"))
        return super().get_queryset(request).annotate(failures=Subquery(counts.values("total")))

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest) -> bool:
        """Reject filters by address in a URL: what is no address is an error with PostgreSQL."""
        return not lookup.startswith("ip_address") and super().lookup_allowed(lookup, value, request)

    @admin.display
    def state(self, attempt: Any) -> str:
        return "locked" if (attempt.failures or 0) >= settings.AXES_FAILURE_LIMIT else "not locked"

    def has_release_permission(self, request: HttpRequest) -> bool:
        return get_user(request).has_perm("axes.delete_accessattempt")

    @admin.action(description="Release the selected accounts for these addresses", permissions=["release"])
    def release(self, request: HttpRequest, queryset: QuerySet[AccessAttempt]) -> None:
        self.log_deletions(request, queryset)
        for attempt in queryset:
            actions.release_account(
                actor=get_user(request), username=attempt.username, address=attempt.ip_address
            )
        messages.success(request, "Released. The next sign-in from these addresses is checked again.")


class CommunityAdmin(ReadOnlyAdmin):
    """Read-only rows that belong to communities; a user sees those of the user's communities."""

    community_field = ""  # the look-up of a row's community, for example `submission__community`

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        return in_communities_of(get_user(request), super().get_queryset(request), self.community_field)


@admin.register(APIKey)
class APIKeyAdmin(admin.ModelAdmin):
    list_display = ("name", "hint", "scopes", "rate_per_minute", "created_at", "last_used_at", "revoked_at")
    readonly_fields = (
        "hint",
        "webhooks",
        "unsupported_attributes",
        "created_at",
        "created_by",
        "last_used_at",
        "revoked_at",
    )
    actions = ("revoke",)

    @admin.display(description="webhooks")
    def webhooks(self, key: APIKey) -> SafeString | str:
        if key.pk is None or key._state.adding:
            return "–"
        url = reverse("admin:moderation_signing", args=[key.pk])
        return format_html('<a href="{}">Signing secret and test</a>', url)

    @admin.display(description="asked for, not scored")
    def unsupported_attributes(self, key: APIKey) -> SafeString | str:
        """List the attributes of Perspective that requests named and that are not scored."""
        if key.pk is None or key._state.adding:
            return "–"
        counts = key.unsupported_attributes.order_by("-requests")
        lines = ((count.attribute, f"{count.requests:,} times") for count in counts)
        return format_html_join(mark_safe("<br>"), "{}: {}", lines) or "–"

    def get_fields(self, request: HttpRequest, obj: Model | None = None) -> Any:
        """Leave out the link to the signing secret for users who may not manage it."""
        fields = super().get_fields(request, obj)
        may_change = self.has_change_permission(request, obj)
        return [field for field in fields if may_change or field != "webhooks"]

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def formfield_for_foreignkey(
        self, db_field: "ForeignKey[Any, Any]", request: HttpRequest, **kwargs: Any
    ) -> ModelChoiceField | None:
        """Offer only moderators who see no more than the user: the key shows what its moderator sees."""
        if db_field.name == "acts_as":
            kwargs["queryset"] = _within_access(request)
        return super().formfield_for_foreignkey(db_field, request, **kwargs)

    def save_model(self, request: HttpRequest, obj: APIKey, form: Any, change: bool) -> None:
        if change:
            super().save_model(request, obj, form, change)
            return
        key, secret = actions.create_api_key(
            actor=get_user(request),
            name=obj.name,
            scopes=obj.scopes,
            rate_per_minute=obj.rate_per_minute,
            acts_as=obj.acts_as,
            review_perspective=obj.review_perspective,
            refuse_unsupported=obj.refuse_unsupported,
            zero_unsupported=obj.zero_unsupported,
        )
        obj.pk, obj.hint = key.pk, key.hint
        obj._state.adding = False
        messages.warning(request, f"The secret, which is not shown again: {secret}")

    @admin.action(description="Revoke the selected keys", permissions=["change"])
    def revoke(self, request: HttpRequest, queryset: QuerySet[APIKey]) -> None:
        for key in queryset:
            actions.revoke_api_key(actor=get_user(request), key=key)
        messages.success(request, "Revoked. Requests with these keys are rejected from now on.")
