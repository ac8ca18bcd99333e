"""Policies: their versions, and a draft's thresholds tried on past traffic before anybody meets them."""

from typing import Any

from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect
from django.template.loader import render_to_string

from apps.moderation import actions
from apps.moderation.console.doors import door, is_script, page, user_of
from apps.moderation.console.forms import PolicyForm, RuleFormSet
from apps.moderation.errors import ModerationError
from apps.moderation.models import Policy
from apps.moderation.permissions import may_manage_policy, require
from apps.moderation.selectors import communities_for, visible
from apps.moderation.simulator import simulate


@door("GET", "HEAD", "POST")
def policies(request: HttpRequest) -> HttpResponse:
    """List the versions, or draft a policy for a community that has none."""
    user = user_of(request)
    require(user, "moderation.view_policy")
    if request.method == "POST":
        community = request.POST.get("community", "").strip()
        if not community or len(community) > 100:
            raise ModerationError("Name the community, in at most 100 characters, as the platform writes it.")
        draft = actions.draft_policy(
            user=user, community=community, based_on=Policy.objects.active_for(community)
        )
        return redirect("admin:moderation_policy", draft.pk)
    found = visible(user, Policy.objects.select_related("created_by", "activated_by"))
    found = found.order_by("community", "-version")
    context = {
        "title": "Policies",
        "policies": found[:200],
        "communities": [name for name in communities_for(user) if name],
        "manages": user.has_perm("moderation.manage_policy"),
    }
    return page(request, "policies", context, here="policies")


@door("GET", "HEAD", "POST")
def policy(request: HttpRequest, pk: int) -> HttpResponse:
    """Show a policy; try other thresholds on past traffic, save them as a draft, activate one."""
    user = user_of(request)
    require(user, "moderation.view_policy")
    found = Policy.objects.prefetch_related("rules").select_related("created_by", "activated_by")
    stored = visible(user, found).filter(pk=pk).first()
    if stored is None:
        raise Http404
    rules = actions.rules_of(stored)
    manages = may_manage_policy(user, stored.community)
    if request.method != "POST":
        form, formset = PolicyForm(instance=stored), RuleFormSet(initial=rules, prefix="rule")
        before = simulate(
            user=user, rules=rules, community=stored.community, audit_share=stored.audit_share
        ) if manages else None  # fmt: skip
        return _draw(request, stored, form, formset, before, before)
    do = request.POST.get("do")
    if do == "activate":
        active = actions.activate_policy(policy=stored, user=user, reason=request.POST.get("reason", ""))
        return redirect("admin:moderation_policy", active.pk)
    form = PolicyForm(request.POST, instance=Policy.objects.get(pk=pk))
    formset = RuleFormSet(request.POST, initial=rules, prefix="rule")
    is_sound = all([form.is_valid(), formset.is_valid()])
    if do == "save" and is_sound:
        draft = actions.edit_draft(policy=stored, user=user, rules=_rules(formset), **form.cleaned_data)
        return redirect("admin:moderation_policy", draft.pk)
    after = None
    if is_sound:
        after = simulate(
            user=user,
            rules=_rules(formset),
            community=stored.community,
            audit_share=form.cleaned_data["audit_share"],
        )
    if is_script(request):
        if after is None:
            mistakes = [str(m) for part in (form, *formset) for found in part.errors.values() for m in found]
            return JsonResponse({"message": " ".join(mistakes)}, status=422)
        html = render_to_string("moderation/_figures.html", {"figures": after}, request)
        return JsonResponse({"html": html})
    before = simulate(user=user, rules=rules, community=stored.community, audit_share=stored.audit_share)
    return _draw(request, stored, form, formset, before, after, 200 if is_sound else 422)


def _draw(
    request: HttpRequest, stored: Policy, form: Any, formset: Any, before: Any, after: Any, status: int = 200
) -> HttpResponse:
    context = {
        "title": f"Policy {stored}",
        "policy": stored,
        "form": form,
        "formset": formset,
        "before": before,
        "figures": after,
        "manages": may_manage_policy(user_of(request), stored.community),
    }
    return page(request, "policy", context, here="policies", status=status)


def _rules(formset: Any) -> list[dict[str, Any]]:
    """Return the rules that were filled in and not removed."""
    kept = [rule.cleaned_data for rule in formset if rule.cleaned_data.get("title")]
    return [
        {name: value for name, value in rule.items() if name != "DELETE"}
        for rule in kept
        if not rule.get("DELETE")
    ]
