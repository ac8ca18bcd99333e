"""The challenger in the admin: its gates, the shadow comparison, the canary, promotion and rollback."""

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import reverse

from apps.accounts.models import User
from apps.accounts.permissions import communities_of, require
from apps.classifier.artifact import ArtifactError
from apps.core.text import pluralize
from apps.moderation.errors import ModerationError
from apps.registry import actions as registry
from apps.registry.admin import gates_table
from apps.registry.exceptions import RegistryError
from apps.registry.gates import summarize
from apps.registry.models import MAX_SHARE, Alias, Canary, CanaryEnd, ModelVersion
from apps.training import rollout, shadow
from apps.training.models import GateReport

REFUSALS = (RegistryError, ArtifactError, ModerationError)


def user_of(request: HttpRequest) -> User:
    """Return the user, whom the admin has let in."""
    assert isinstance(request.user, User)
    return request.user


def page(
    request: HttpRequest, title: str, template: str = "training/page.html", **context: Any
) -> HttpResponse:
    """Return a page below the list of training runs."""
    more = {"parent": reverse("admin:training_trainingrun_changelist"), "parent_title": "Training runs"}
    context |= admin.site.each_context(request) | more | {"title": title}
    return TemplateResponse(request, template, context)


class ReasonForm(forms.Form):
    """Why the models in service are changed."""

    reason = forms.CharField(max_length=2_000, widget=forms.TextInput(attrs={"size": 60}))


class RolloutForm(ReasonForm):
    """Why, for which share of the requests, and whether although a gate fails."""

    share = forms.FloatField(
        min_value=0.1,
        max_value=100 * MAX_SHARE,
        initial=5,
        label="Canary’s share (%)",
        help_text="Of the requests. A promotion takes all of them at once.",
    )
    force = forms.BooleanField(
        required=False, label="Although a gate fails", help_text="Kept with your name and your reason."
    )


def challenger(request: HttpRequest) -> HttpResponse:
    """Show what is known of the challenger or the canary; a post does what its button says."""
    user = user_of(request)
    require(user, registry.PROMOTE_PERMISSION)
    canary = Canary.objects.running()
    version = canary.version if canary else ModelVersion.objects.with_alias(Alias.CHALLENGER)
    champion = ModelVersion.objects.with_alias(Alias.CHAMPION)
    if version is None or champion is None:
        return page(request, "The challenger", refusal="There is no challenger: train a model first.")
    comparison = shadow.compare(challenger=version, champion=champion, communities=communities_of(user))
    form: forms.Form = ReasonForm() if canary else RolloutForm()
    refusal = ""
    if request.method == "POST":
        if "measure" in request.POST:
            rollout.send_measuring(actor=user, version=version)
            messages.success(request, "A worker measures the gates: look again in a minute.")
            return redirect("admin:training_challenger")
        if "label" not in request.POST:
            form = ReasonForm(request.POST) if canary else RolloutForm(request.POST)
        if "label" in request.POST or form.is_valid():
            try:
                messages.success(request, _do(request.POST, user, version, form, comparison))
                return redirect("admin:training_challenger")
            except REFUSALS as error:
                refusal = str(error)
                if isinstance(error, rollout.GateError):
                    way = (
                        "Tick “Although a gate fails”"
                        if user.has_perm(registry.OVERRIDE_PERMISSION)
                        else "Ask a lead"
                    )
                    refusal = f"{version} fails its gates. {way} to go on all the same, and say why."
    if not user.has_perm(registry.OVERRIDE_PERMISSION):
        form.fields.pop("force", None)
    report = GateReport.objects.standing(version)
    served, bands = rollout.bands(canary) if canary else (0, [])
    return page(
        request,
        f"{version} against {champion}, the champion",
        "training/challenger.html",
        version=version,
        champion=champion,
        canary=canary,
        share=f"{canary.share:.1%}" if canary else "",
        served=served,
        enough=rollout.ENOUGH,
        bands=gates_table(bands),
        report=report,
        gates=gates_table(report.gates if report else []),
        gates_summary=summarize(report.gates) if report else "",
        gates_failed=report is not None and not all(gate["passed"] for gate in report.gates),
        comparison=comparison,
        can_ask=any(not difference.is_queued for difference in comparison.differences),
        form=form,
        refusal=refusal,
    )


def _do(post: Any, user: User, version: ModelVersion, form: forms.Form, comparison: shadow.Comparison) -> str:
    """Do what the button says; return what was done."""
    if "label" in post:
        asked = shadow.ask_for_labels(comparison=comparison, by=user)
        return f"{pluralize(asked, 'comment waits', 'comments wait')} in the queue."
    arguments: dict[str, Any] = {"actor": user, "reason": form.cleaned_data["reason"]}
    if "withdraw" in post:
        registry.end_canary(outcome=CanaryEnd.Outcome.WITHDRAWN, **arguments)
        return f"{version} serves no requests any more, within 5 s everywhere."
    force = form.cleaned_data.get("force", False)
    if "canary" in post:
        share = form.cleaned_data["share"] / 100
        rollout.start_canary(version=version, share=share, force=force, **arguments)
        return f"{version} serves {share:.1%} of the requests, within 5 s everywhere."
    rollout.promote(version=version, force=force, **arguments)
    return f"{version} is the champion; every process serves it within 5 s."


def roll_back(request: HttpRequest) -> HttpResponse:
    """Make the previous champion the champion again, with a reason."""
    user = user_of(request)
    require(user, registry.PROMOTE_PERMISSION)
    previous = ModelVersion.objects.with_alias(Alias.PREVIOUS)
    if previous is None:
        return page(request, "Roll back", refusal="There is no previous champion to roll back to.")
    form, refusal = ReasonForm(request.POST or None), ""
    if request.method == "POST" and form.is_valid():
        try:
            registry.rollback(actor=user, reason=form.cleaned_data["reason"])
        except REFUSALS as error:
            refusal = str(error)
        else:
            messages.success(request, f"{previous} is the champion again, within 5 s everywhere.")
            return redirect("admin:registry_promotion_changelist")
    title = f"Roll back to {previous}"
    return page(request, title, form=form, button=title, refusal=refusal)
