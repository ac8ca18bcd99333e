"""Bulk: choose by filter and score range, look at a sample, type the count, watch it being done."""

from typing import Any
from urllib.parse import urlencode

from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect
from django.template.loader import render_to_string

from apps.accounts.models import User
from apps.moderation import actions, insight
from apps.moderation.console.doors import door, is_script, page, user_of
from apps.moderation.console.forms import BulkActionForm, BulkForm
from apps.moderation.errors import ModerationError
from apps.moderation.models import BulkJob, Decision, Policy, PolicyRule
from apps.moderation.permissions import decidable_by, require
from apps.moderation.selectors import communities_for, visible

BINS = 20


def _rules(community: str) -> Any:
    policy = Policy.objects.active_for(community)
    return policy.rules.all() if policy else PolicyRule.objects.none()


@door("GET", "HEAD", "POST")
def bulk(request: HttpRequest) -> HttpResponse:
    """Choose items on a histogram of scores; a post asks for a job that waits to be confirmed."""
    user = user_of(request)
    require(user, "moderation.bulk_decide")
    communities = communities_for(user)
    if request.method == "POST":
        return _prepare(request, user, BulkForm(request.POST, communities=communities))
    form = BulkForm(request.GET or None, communities=communities)
    jobs = visible(user, BulkJob.objects.select_related("created_by", "rule")).order_by("-pk")[:10]
    context = {"title": "Decide many at once", "form": form, "jobs": jobs}
    if form.is_valid():
        context |= _choice(user, form, form.filter())
    return page(request, "bulk", context, here="bulk")


def _choice(user: User, form: BulkForm, chosen: actions.BulkFilter) -> dict[str, Any]:
    bins = insight.histogram(user=user, label=chosen["label"], community=chosen.get("community"), bins=BINS)
    low, high = chosen.get("score_from"), chosen.get("score_to")
    tallest = max([*bins, 1])
    # A big choice is not counted before somebody means it: the preview counts exactly.
    count = insight.capped(actions.chosen(chosen, decidable_by(user))) if form.is_complete else 0
    return {
        "chosen": chosen,
        "is_complete": form.is_complete,
        "count": min(count, insight.CAP),
        "is_more": count > insight.CAP,
        "bins": [
            {
                "x": 100 * number / BINS,
                # Square roots, or the few severe ones would not be seen beside the many mild.
                "height": (count / tallest) ** 0.5 * 96,
                "top": 100 - (count / tallest) ** 0.5 * 96,
                "count": count,
                "begin": number / BINS,
                "end": (number + 1) / BINS,
                "is_in": form.is_complete
                and (low or 0.0) < (number + 1) / BINS
                and (1.0 if high is None else high) > number / BINS,
            }
            for number, count in enumerate(bins)
        ],
        "rules": _rules(chosen.get("community", "")),
    }


def _prepare(request: HttpRequest, user: User, form: BulkForm) -> HttpResponse:
    if not form.is_valid():
        raise form.refusal()
    if not form.is_complete:
        raise ModerationError("Choose a range of scores: from and to.")
    what = BulkActionForm(request.POST, rules=_rules(form.cleaned_data["community"]))
    if not what.is_valid():
        raise what.refusal()
    data = what.cleaned_data
    job, _ = actions.preview_bulk(
        user=user,
        filter=form.filter(),
        action=Decision.Action(data["action"]),
        rule=data["rule"] if data["action"] == "reject" else None,
        note=data["note"],
    )
    return redirect("admin:moderation_job", job.pk)


@door("GET", "HEAD", "POST")
def job(request: HttpRequest, pk: int) -> HttpResponse:
    """Show a job: to be confirmed, under way, over, or being undone."""
    user = user_of(request)
    require(user, "moderation.bulk_decide")
    related = ("created_by", "rule", "cancelled_by", "undone_by")
    found = visible(user, BulkJob.objects.select_related(*related)).filter(pk=pk).first()
    if found is None:
        raise Http404
    if request.method == "POST":
        return _act(request, user, found)
    context = {"title": f"Bulk job {pk}", "job": found, "again": urlencode(found.filter)}
    if is_script(request):
        return JsonResponse(
            {
                "html": render_to_string("moderation/_job.html", context, request),
                "over": not found.is_active,
            }
        )
    if found.status == BulkJob.Status.DRAFT:
        context["sample"] = actions.sample_bulk(user=user, filter=found.filter)
    return page(request, "job", context, here="bulk")


def _act(request: HttpRequest, user: User, found: BulkJob) -> HttpResponse:
    if request.POST.get("do") == "cancel":
        actions.cancel_bulk(job_id=found.pk, user=user)
    elif request.POST.get("do") == "undo":
        actions.undo_bulk(job_id=found.pk, user=user, typed_count=_typed(request, found.done))
    else:
        actions.start_bulk(job_id=found.pk, user=user, typed_count=_typed(request, found.count))
    return redirect("admin:moderation_job", found.pk)


def _typed(request: HttpRequest, count: int) -> int:
    """Return the number that was typed to confirm."""
    typed = "".join(request.POST.get("typed", "").split()).replace(",", "").replace(".", "")
    if not typed.isdecimal() or len(typed) > 12:
        raise ModerationError(f"Type the number {count} to confirm. Nothing was done.")
    return int(typed)
