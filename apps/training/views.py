"""The pages of the challenger and of the rollback in the admin."""

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse

from apps.accounts.models import User
from apps.accounts.permissions import communities_of, get_user, require
from apps.classifier.artifact import ArtifactError
from apps.core.admin import link
from apps.core.text import pluralize
from apps.moderation.exceptions import ModerationError
from apps.registry import actions as registry
from apps.registry.admin import gates_table
from apps.registry.exceptions import GateError, RegistryError
from apps.registry.gates import summarize
from apps.registry.models import Alias, Canary, CanaryEnd, ModelVersion
from apps.training import actions, selectors, shadow
from apps.training.actions.rollout import CANARY_COMMENTS
from apps.training.forms import ReasonForm, RolloutForm
from apps.training.guardrails import measure_guardrails
from apps.training.models import GateReport

_EXPECTED_ERRORS = (RegistryError, ArtifactError, ModerationError)


def render_page(
    request: HttpRequest, title: str, template: str = "training/page.html", **context: Any
) -> HttpResponse:
    """Return a page below the list of training runs."""
    parent = link(get_user(request), "training_trainingrun_changelist", "Training runs")
    context |= admin.site.each_context(request) | {"parent": parent, "title": title}
    return TemplateResponse(request, template, context)


def redirect_with_error(request: HttpRequest, error: str, form: forms.Form) -> HttpResponse:
    """Redirect to the page of a form whose action failed, which shows the error and the fields again."""
    fields = {name: form.data[name] for name in form.fields if name in form.data}
    request.session[f"failed {request.path}"] = (error, fields)
    return redirect(request.path)


def pop_error(request: HttpRequest) -> tuple[str, dict[str, str]]:
    """Return, once, the error and the fields that `redirect_with_error` stored for the page."""
    error, fields = request.session.pop(f"failed {request.path}", ("", {}))
    return error, fields


def is_other_version(request: HttpRequest, version: ModelVersion) -> bool:
    """Return whether the page from which a request was sent showed another version than this one."""
    return request.POST.get("version", str(version.number)) != str(version.number)


def challenger(request: HttpRequest) -> HttpResponse:
    """Show the challenger or canary; POST carries out the action of a button."""
    user = get_user(request)
    require(user, registry.PROMOTE_PERMISSION)
    canary = Canary.objects.running()
    version = canary.version if canary else ModelVersion.objects.with_alias(Alias.CHALLENGER)
    champion = ModelVersion.objects.with_alias(Alias.CHAMPION)
    if version is None or champion is None:
        error = "There is no challenger. Train a model first."
        return render_page(
            request, "Challenger", "training/challenger.html", error=error, **_last_canary_context()
        )
    comparison = shadow.compare(challenger=version, champion=champion, communities=communities_of(user))
    may_override = user.has_perm(registry.OVERRIDE_PERMISSION)
    form_class = ReasonForm if canary else RolloutForm
    error, fields = pop_error(request)
    form: forms.Form = form_class(initial=fields)
    if request.method == "POST":
        if is_other_version(request, version):
            message = f"The {'canary' if canary else 'challenger'} is {version} now: nothing was changed."
            return redirect_with_error(request, message, form_class(request.POST))
        if "measure" in request.POST:
            actions.enqueue_gates(actor=user, version=version)
            messages.success(request, "A worker is measuring the gates. Refresh this page in a minute.")
            return redirect("admin:training_challenger")
        if "label" not in request.POST:
            form = form_class(request.POST)
        is_valid = form.is_valid() or ("promote" in request.POST and set(form.errors) == {"share"})
        if "label" in request.POST or is_valid:
            try:
                messages.success(request, _carry_out(request.POST, user, version, form, comparison))
                return redirect("admin:training_challenger")
            except GateError:
                advice = "Tick “Override failed gates” and give a reason" if may_override else "Ask a lead"
                problem = f"{version} fails its gates"
                if GateReport.objects.current(version) is None:
                    problem = f"The gates of {version} have not been measured: measure them first"
                message = f"{problem}. {advice} to continue anyway."
                return redirect_with_error(request, message, form)
            except _EXPECTED_ERRORS as failure:
                return redirect_with_error(request, str(failure), form)
    if not may_override:
        form.fields.pop("force", None)
    report = GateReport.objects.current(version)
    served, guardrails = measure_guardrails(canary) if canary else (0, [])
    return render_page(
        request,
        f"{version} against {champion}, the champion",
        "training/challenger.html",
        version=version,
        champion=champion,
        canary=canary,
        share=f"{canary.share:.1%}" if canary else "",
        served=served,
        canary_comments=CANARY_COMMENTS,
        guardrails=gates_table(guardrails),
        report=report,
        gates=gates_table(report.gates if report else []),
        gates_summary=summarize(report.gates) if report else "",
        gates_failed=report is not None and not all(gate["passed"] for gate in report.gates),
        comparison=comparison,
        can_request_labels=any(not disagreement.is_queued for disagreement in comparison.disagreements),
        missing_access="" if communities_of(user) is None else registry.ALL_COMMUNITIES,
        form=form,
        error=error,
        **_last_canary_context(),
    )


def _last_canary_context() -> dict[str, Any]:
    """Return the context that describes how the last canary ended."""
    end = selectors.last_canary_end()
    return {
        "last_end": end,
        "last_share": f"{end.canary.share:.1%}" if end else "",
        "last_guardrails": gates_table(end.guardrails) if end and end.guardrails else "",
    }


def _carry_out(
    post: Any, user: User, version: ModelVersion, form: forms.Form, comparison: shadow.Comparison
) -> str:
    """Carry out the action of the button; return the message for the user."""
    if "label" in post:
        count = actions.request_labels(actor=user, comparison=comparison)
        return f"{pluralize(count, 'comment was', 'comments were')} sent to moderators."
    arguments: dict[str, Any] = {"actor": user, "reason": form.cleaned_data["reason"]}
    if "withdraw" in post:
        registry.end_canary(outcome=CanaryEnd.Outcome.WITHDRAWN, **arguments)
        return f"The canary is stopped: within 5 seconds {version} serves no requests."
    force = form.cleaned_data.get("force", False)
    if "canary" in post:
        share = form.cleaned_data["share"] / 100
        actions.start_canary(version=version, share=share, force=force, **arguments)
        return f"The canary has started: within 5 seconds {version} serves {share:.1%} of the requests."
    actions.promote(version=version, force=force, **arguments)
    return f"Model version {version} is the champion now: within 5 seconds it serves all requests."


def roll_back(request: HttpRequest) -> HttpResponse:
    """Make the previous champion the champion again, with a reason."""
    user = get_user(request)
    require(user, registry.PROMOTE_PERMISSION)
    previous = ModelVersion.objects.with_alias(Alias.PREVIOUS)
    if previous is None:
        return render_page(request, "Roll back", error="There is no previous champion to roll back to.")
    error, fields = pop_error(request)
    form = ReasonForm(request.POST or None, initial=fields)
    if is_other_version(request, previous):
        message = f"The version to roll back to is {previous} now: nothing was changed."
        return redirect_with_error(request, message, form)
    if request.method == "POST" and form.is_valid():
        try:
            registry.rollback(actor=user, reason=form.cleaned_data["reason"], version=previous)
        except _EXPECTED_ERRORS as failure:
            return redirect_with_error(request, str(failure), form)
        messages.success(
            request,
            f"Model version {previous} is the champion again: within 5 seconds it serves all requests.",
        )
        may_view = user.has_perm("registry.view_promotion")
        return redirect("admin:registry_promotion_changelist" if may_view else "admin:index")
    title = f"Roll back to {previous}"
    if communities_of(user) is not None:
        return render_page(request, title, error=registry.ALL_COMMUNITIES)
    return render_page(request, title, form=form, version=previous, button=title, error=error)
