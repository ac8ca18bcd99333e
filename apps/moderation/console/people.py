"""A moderator's own page, and what is known of the quality of all decisions."""

from datetime import timedelta

from django.http import Http404, HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.shortcuts import redirect
from django.utils import timezone

from apps.accounts.permissions import communities_of, in_communities_of
from apps.moderation import actions, exports, insight
from apps.moderation.console.doors import door, page, user_of
from apps.moderation.console.forms import PreferenceForm
from apps.moderation.errors import ModerationError
from apps.moderation.models import Decision, Preference
from apps.moderation.permissions import require
from apps.moderation.selectors import visible

DAYS = 30
_LONGEST_EXPORT = 3_650


@door("GET", "HEAD", "POST")
def me(request: HttpRequest) -> HttpResponse:
    """Show the user's own figures, decisions and preferences; a post sets the preferences."""
    user = user_of(request)
    require(user, "moderation.view_queueitem")
    form = PreferenceForm(request.POST or None, instance=Preference.for_user(user))
    if request.method == "POST" and form.is_valid():
        actions.set_preferences(user=user, **form.cleaned_data)
        return redirect("admin:moderation_me")
    figures = insight.own_figures(user, days=DAYS)
    most = max([count for _, count in figures.by_day] or [1])
    context = {
        "title": "My page",
        "form": form,
        "figures": figures,
        "days": [(day, count, 100 * count / most) for day, count in figures.by_day],
        "span": DAYS,
        "shift": insight.shift_of(user),
        "mine": in_communities_of(user, Decision.objects.filter(by=user), "submission__community")
        .exclude(action=Decision.Action.REVERSE)
        .select_related("rule", "reversal", "item")
        .order_by("-created_at")[:20],
    }
    return page(request, "me", context, here="me", status=422 if form.errors else 200)


@door()
def quality(request: HttpRequest) -> HttpResponse:
    """Show how far blind second reviews agree with the first ones, and what became of appeals."""
    user = user_of(request)
    require(user, "moderation.view_decision")
    communities = communities_of(user)
    labels, pairs = insight.agreement(communities=communities)
    context = {
        "title": "Quality",
        "agreement": labels.items(),
        "pairs": pairs.items() if user.has_perm("moderation.decide_escalated") else None,
        "appeals": insight.appeal_counts(communities=communities),
    }
    return page(request, "quality", context, here="quality")


@door()
def decisions_csv(request: HttpRequest) -> StreamingHttpResponse:
    """Stream the decisions of the last days, human ones only unless `automatic=on`, as CSV."""
    user = user_of(request)
    require(user, "moderation.export_decision")
    days = request.GET.get("days", str(DAYS))
    if not days.isdecimal() or len(days) > 4 or not 0 < int(days) <= _LONGEST_EXPORT:
        raise ModerationError(f"Choose between 1 and {_LONGEST_EXPORT} days.")
    since = timezone.now() - timedelta(days=int(days))
    found = Decision.objects.filter(created_at__gte=since)
    if request.GET.get("automatic") != "on":
        found = found.human()
    rows = (
        visible(user, found)
        .select_related("by", "rule", "policy", "model_version", "submission__author")
        .order_by("pk")
    )
    return StreamingHttpResponse(
        exports.decisions_csv(rows.iterator(chunk_size=2_000)),
        content_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": f'attachment; filename="decisions-{timezone.now():%Y-%m-%d}.csv"'},
    )


@door()
def statement(request: HttpRequest, pk: int) -> HttpResponse:
    """Return a rejection's statement of reasons as the EU's transparency database takes it."""
    user = user_of(request)
    decision = (
        visible(user, Decision.objects.filter(pk=pk))
        .select_related("rule", "policy", "model_version", "submission__prediction")
        .first()
    )
    if decision is None:
        raise Http404
    require(user, "moderation.export_decision", community=decision.submission.community)
    try:
        found = exports.statement_of_reasons(decision)
    except ValueError as error:
        raise ModerationError(str(error)) from error
    return JsonResponse(found, json_dumps_params={"indent": 2})
