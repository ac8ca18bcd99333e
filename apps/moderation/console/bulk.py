"""The bulk pages: filter open items by score, preview a sample, type the count to confirm, follow the job."""

from typing import Any
from urllib.parse import urlencode

from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect
from django.template.loader import render_to_string

from apps.accounts.models import User
from apps.accounts.permissions import get_user, require
from apps.moderation import actions, saved_views
from apps.moderation.console.forms import BulkActionForm, BulkForm
from apps.moderation.console.views import console_view, is_fetch, render_page
from apps.moderation.exceptions import ModerationError
from apps.moderation.models import BulkJob, Decision, Policy, PolicyRule
from apps.moderation.permissions import decidable_by
from apps.moderation.selectors import communities_for, visible

BINS = 20
_MAX_BAR_HEIGHT = 96  # of 100
_RECENT_JOBS = 10


def _rules(community: str) -> QuerySet[PolicyRule]:
    policy = Policy.objects.active_for(community)
    return policy.rules.all() if policy else PolicyRule.objects.none()


@console_view("GET", "HEAD", "POST")
def bulk(request: HttpRequest) -> HttpResponse:
    """Show a histogram of scores to select items; POST creates a draft job to confirm on its page."""
    user = get_user(request)
    require(user, "moderation.bulk_decide")
    communities = communities_for(user)
    data = request.POST if request.method == "POST" else None
    form = BulkForm(data or request.GET or None, communities=communities)
    is_valid = form.is_valid()
    rules = _rules(form.cleaned_data["community"] or "") if is_valid else PolicyRule.objects.none()
    action_form = BulkActionForm(data, rules=rules)
    if is_valid and form.is_complete and action_form.is_valid():
        job = _create_job(user, form, action_form)
        if job is not None:
            return redirect("admin:moderation_job", job.pk)
    jobs = visible(user, BulkJob.objects.select_related("created_by", "rule")).order_by("-pk")
    context = {
        "title": "Decide many items",
        "form": form,
        "action_form": action_form,
        "jobs": jobs[:_RECENT_JOBS],
    }
    if is_valid:
        context |= _selection_context(user, form, form.filter())
    return render_page(request, "bulk", context, section="bulk", status=200 if data is None else 422)


def _selection_context(user: User, form: BulkForm, selection: actions.BulkFilter) -> dict[str, Any]:
    counts = actions.histogram(user=user, filter=selection, bins=BINS)
    # The preview counts exactly; here the count stops at `MAX_COUNT`.
    count = (
        saved_views.count_up_to(actions.select_items(selection, decidable_by(user)))
        if form.is_complete
        else 0
    )
    return {
        "selection": selection,
        "is_complete": form.is_complete,
        "count": min(count, saved_views.MAX_COUNT),
        "is_capped": count > saved_views.MAX_COUNT,
        "bins": _histogram_bins(counts, selection, is_complete=form.is_complete),
    }


def _histogram_bins(
    counts: list[int], selection: actions.BulkFilter, *, is_complete: bool
) -> list[dict[str, Any]]:
    low, high = selection.get("score_from", 0.0), selection.get("score_to", 1.0)
    maximum = max([*counts, 1])
    bins = []
    for index, count in enumerate(counts):
        # The square root keeps the few high scores visible beside the many low ones.
        height = (count / maximum) ** 0.5 * _MAX_BAR_HEIGHT
        begin, end = index / BINS, (index + 1) / BINS
        bins.append(
            {
                "x": 100 * begin,
                "height": height,
                "top": 100 - height,
                "count": count,
                "begin": begin,
                "end": end,
                "is_selected": is_complete and low < end and high > begin,
            }
        )
    return bins


def _create_job(user: User, form: BulkForm, action_form: BulkActionForm) -> BulkJob | None:
    """Create a draft job, or add the error to the form and return None."""
    data = action_form.cleaned_data
    try:
        job, _ = actions.preview_bulk(
            user=user,
            filter=form.filter(),
            action=Decision.Action(data["action"]),
            rule=data["rule"] if data["action"] == "reject" else None,
            note=data["note"],
        )
    except ModerationError as error:  # the forms allow one error only: a rejection without a reason
        action_form.add_error("rule", str(error))
        return None
    return job


@console_view("GET", "HEAD", "POST")
def job(request: HttpRequest, pk: int) -> HttpResponse:
    """Show a bulk job; POST starts, cancels or undoes it."""
    user = get_user(request)
    require(user, "moderation.bulk_decide")
    related = ("created_by", "rule", "cancelled_by", "undone_by")
    job = visible(user, BulkJob.objects.select_related(*related)).filter(pk=pk).first()
    if job is None:
        raise Http404
    context = {"title": f"Bulk job {pk}", "job": job, "selection_query": _selection_query(job.filter)}
    if request.method == "POST":
        try:
            return _change_job(request, user, job)
        except ModerationError as error:
            is_draft = job.status == BulkJob.Status.DRAFT
            if not (job.can_undo if request.POST.get("do") == "undo" else is_draft):
                raise  # the page has no form for this
            context |= {"typed": request.POST.get("typed", ""), "error": str(error)}
    if is_fetch(request):
        html = render_to_string("moderation/_job.html", context, request)
        return JsonResponse({"html": html, "is_active": job.is_active})
    if job.status == BulkJob.Status.DRAFT:
        context["sample"] = actions.sample_bulk(user=user, filter=job.filter)
    return render_page(request, "job", context, section="bulk", status=422 if "error" in context else 200)


def _selection_query(selection: actions.BulkFilter) -> str:
    """Return the query of the bulk page that selects the items of a job."""
    query: dict[str, Any] = dict(selection)
    if "community" in query:
        query["community"] = f"={query['community']}"
    return urlencode(query)


def _change_job(request: HttpRequest, user: User, job: BulkJob) -> HttpResponse:
    match request.POST.get("do"):
        case "cancel":
            actions.cancel_bulk(job_id=job.pk, user=user)
        case "undo":
            actions.undo_bulk(job_id=job.pk, user=user, typed_count=_typed_count(request, job.done))
        case _:
            actions.start_bulk(job_id=job.pk, user=user, typed_count=_typed_count(request, job.count))
    return redirect("admin:moderation_job", job.pk)


def _typed_count(request: HttpRequest, expected: int) -> int:
    """Return the count that the user typed as confirmation; thousands separators are allowed."""
    typed = "".join(request.POST.get("typed", "").split()).replace(",", "").replace(".", "")
    if not typed.isdecimal() or len(typed) > 12:
        raise ModerationError(f"Type the number {expected} to confirm.")
    return int(typed)
