"""The policy pages: versions, drafts, and a simulation of a draft's thresholds on past comments."""

from typing import Any

from django.contrib import messages
from django.core.exceptions import ValidationError
from django.forms import BaseForm, BaseFormSet
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect
from django.template.loader import render_to_string

from apps.accounts.models import User
from apps.accounts.permissions import get_user, require
from apps.core.exceptions import PermissionDeniedError
from apps.moderation import actions
from apps.moderation.console.forms import PolicyForm, RuleForm, RuleFormSet, describe_error
from apps.moderation.console.views import console_view, is_fetch, render_page
from apps.moderation.exceptions import ModerationError, PolicyChangedError
from apps.moderation.models import Policy, Submission
from apps.moderation.permissions import may_manage_policy
from apps.moderation.selectors import communities_for, visible
from apps.moderation.simulator import Simulation, simulate

_MAX_VERSIONS = 200


@console_view("GET", "HEAD", "POST")
def policies(request: HttpRequest) -> HttpResponse:
    """List the versions of all policies; POST creates a draft for a community."""
    user = get_user(request)
    require(user, "moderation.view_policy")
    community = request.POST.get("community", "").strip()
    error = ""
    if request.method == "POST":
        if 0 < len(community) <= 100:
            try:
                draft = actions.draft_policy(
                    user=user, community=community, based_on=Policy.objects.active_for(community)
                )
                return redirect("admin:moderation_policy", draft.pk)
            except PermissionDeniedError as denied:
                if not user.has_perm("moderation.manage_policy"):
                    raise
                error = str(denied)
        else:
            error = "Enter the community as the platform names it, in at most 100 characters."
    versions = visible(user, Policy.objects.select_related("created_by", "activated_by"))
    context = {
        "title": "Policies",
        "policies": versions.order_by("community", "-version")[:_MAX_VERSIONS],
        "communities": [name for name in communities_for(user) if name],
        "may_manage": user.has_perm("moderation.manage_policy"),
        "community": community,
        "error": error,
    }
    return render_page(request, "policies", context, section="policies", status=422 if error else 200)


@console_view("GET", "HEAD", "POST")
def policy(request: HttpRequest, pk: int) -> HttpResponse:
    """Show a policy; POST simulates other thresholds, saves, activates or discards this version."""
    user = get_user(request)
    require(user, "moderation.view_policy")
    policies = Policy.objects.prefetch_related("rules").select_related("created_by", "activated_by")
    policy = visible(user, policies).filter(pk=pk).first()
    if policy is None:
        raise Http404
    if request.method != "POST":
        return _show_policy(request, user, policy)
    if request.POST.get("do") == "activate":
        reason = request.POST.get("reason", "")
        try:
            active = actions.activate_policy(
                policy=policy, user=user, reason=reason, expected=request.POST.get("expected")
            )
        except ModerationError as error:
            if policy.status == Policy.Status.ACTIVE:
                raise  # the page has no form for this
            return _show_policy(request, user, policy, status=422, reason=reason, activation_error=str(error))
        messages.success(
            request, f"The policy {active} was activated. It applies to comments received from now on."
        )
        return redirect("admin:moderation_policy", active.pk)
    if request.POST.get("do") == "discard":
        actions.discard_draft(policy=policy, user=user)
        messages.success(request, f"The draft {policy} was discarded.")
        return redirect("admin:moderation_policies")
    return _edit_policy(request, user, policy)


def _show_policy(request: HttpRequest, user: User, policy: Policy, **options: Any) -> HttpResponse:
    form = PolicyForm(instance=policy)
    formset = RuleFormSet(initial=actions.rules_of(policy), prefix="rule")
    stored = _simulate_stored(user, policy) if may_manage_policy(user, policy.community) else None
    return _render_policy(request, policy, form, formset, stored, stored, **options)


def _simulate_stored(user: User, policy: Policy) -> Simulation:
    return simulate(
        user=user,
        rules=actions.rules_of(policy),
        community=policy.community,
        audit_share=policy.audit_share,
        review_other_languages=policy.review_other_languages,
    )


def _edit_policy(request: HttpRequest, user: User, policy: Policy) -> HttpResponse:
    # `form.is_valid()` changes its instance, and `policy` is still needed as it is stored.
    form = PolicyForm(request.POST, instance=Policy.objects.get(pk=policy.pk))
    formset = RuleFormSet(request.POST, initial=actions.rules_of(policy), prefix="rule")
    is_valid = all([form.is_valid(), formset.is_valid()])
    status, expected = 200 if is_valid else 422, request.POST.get("expected")
    if is_valid and request.POST.get("do") == "save":
        try:
            draft = actions.edit_draft(
                policy=policy,
                user=user,
                rules=_rules(formset),
                expected=expected,
                **form.cleaned_data,
            )
            messages.success(request, f"The draft {draft} was saved. It has no effect until it is activated.")
            return redirect("admin:moderation_policy", draft.pk)
        except PolicyChangedError as error:
            form.add_error(None, f"{error} If you save again, your version replaces that one.")
            status, expected = error.status, None
        except ValidationError as error:
            form.add_error(None, error.messages)
            is_valid, status = False, 422
    edited = None
    if is_valid:
        edited = simulate(
            user=user,
            rules=_rules(formset),
            community=policy.community,
            audit_share=form.cleaned_data["audit_share"],
            review_other_languages=form.cleaned_data["review_other_languages"],
        )
    if is_fetch(request):
        if edited is None:
            return JsonResponse({"message": " ".join(_error_messages(form, formset))}, status=422)
        html = render_to_string("moderation/_simulation.html", {"simulation": edited}, request)
        return JsonResponse({"html": html})
    stored = _simulate_stored(user, policy)
    return _render_policy(request, policy, form, formset, stored, edited, status, expected)


def _error_messages(form: BaseForm, formset: "BaseFormSet[RuleForm]") -> list[str]:
    errors = [
        describe_error(row, name, str(message))
        for row in (form, *formset)
        for name, messages in row.errors.items()
        for message in messages
    ]
    return [*map(str, formset.non_form_errors()), *errors]


def _render_policy(
    request: HttpRequest,
    policy: Policy,
    form: PolicyForm,
    formset: "BaseFormSet[RuleForm]",
    stored: Simulation | None,
    edited: Simulation | None,
    status: int = 200,
    expected: str | None = None,
    **extra_context: Any,
) -> HttpResponse:
    user = get_user(request)
    # The name of a community from which no comment has come may be mistyped.
    is_unknown = bool(policy.community) and not Submission.objects.filter(community=policy.community).exists()
    other_communities = set(communities_for(user)) - {"", policy.community} if is_unknown else set()
    context = {
        "title": f"Policy {policy}",
        "policy": policy,
        # A form that comes back still compares with what the user has seen.
        "fingerprint": expected or actions.policy_fingerprint(policy),
        "form": form,
        "formset": formset,
        "stored": stored,
        "simulation": edited,
        "may_manage": may_manage_policy(user, policy.community),
        "is_unknown": is_unknown,
        "other_communities": sorted(other_communities),
    } | extra_context
    return render_page(request, "policy", context, section="policies", status=status)


def _rules(formset: "BaseFormSet[RuleForm]") -> list[dict[str, Any]]:
    """Return the rules that have a title and are not marked for deletion."""
    rules = [form.cleaned_data for form in formset if form.cleaned_data.get("title")]
    return [
        {name: value for name, value in rule.items() if name != "DELETE"}
        for rule in rules
        if not rule.get("DELETE")
    ]
