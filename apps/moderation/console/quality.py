"""The quality page: agreement between reviewers, results of appeals, and exports of decisions."""

from datetime import timedelta

from django.http import (
    Http404,
    HttpRequest,
    HttpResponse,
    HttpResponseBase,
    JsonResponse,
    StreamingHttpResponse,
)
from django.utils import timezone

from apps.accounts.permissions import communities_of, get_user, require
from apps.moderation import exports, statistics
from apps.moderation.console.views import console_view, render_page
from apps.moderation.models import Decision
from apps.moderation.selectors import visible

EXPORT_DAYS = 30
MAX_EXPORT_DAYS = 3_650
_CHUNK_SIZE = 2_000


@console_view()
def quality(request: HttpRequest) -> HttpResponse:
    """Show how often blind second reviews agree with the first decision, and the results of appeals."""
    return _quality_page(request)


def _quality_page(request: HttpRequest, export_error: str = "") -> HttpResponse:
    user = get_user(request)
    require(user, "moderation.view_decision")
    communities = communities_of(user)
    by_label, by_pair = statistics.agreement(communities=communities)
    context = {
        "title": "Quality",
        "agreement_by_label": by_label.items(),
        "agreement_by_pair": by_pair.items() if user.has_perm("moderation.decide_escalated") else None,
        "appeals": statistics.appeal_counts(communities=communities),
        "export_days": request.GET.get("days", EXPORT_DAYS),
        "max_export_days": MAX_EXPORT_DAYS,
        "export_automatic": "automatic" in request.GET,
        "export_error": export_error,
    }
    status = 422 if export_error else 200
    return render_page(request, "quality", context, section="quality", status=status)


@console_view()
def decisions_csv(request: HttpRequest) -> HttpResponseBase:
    """Stream the decisions of the last `days` days as CSV; automatic ones only if `automatic=on`."""
    user = get_user(request)
    require(user, "moderation.export_decision")
    days = request.GET.get("days", str(EXPORT_DAYS))
    if not days.isdecimal() or len(days) > 4 or not 0 < int(days) <= MAX_EXPORT_DAYS:
        return _quality_page(request, f"Choose between 1 and {MAX_EXPORT_DAYS} days.")
    decisions = Decision.objects.filter(created_at__gte=timezone.now() - timedelta(days=int(days)))
    if request.GET.get("automatic") != "on":
        decisions = decisions.human()
    rows = (
        visible(user, decisions)
        .select_related("by", "rule", "policy", "model_version", "submission__author")
        .order_by("pk")
    )
    return StreamingHttpResponse(
        exports.decisions_csv(rows.iterator(chunk_size=_CHUNK_SIZE)),
        content_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": f'attachment; filename="decisions-{timezone.now():%Y-%m-%d}.csv"'},
    )


@console_view()
def statement(request: HttpRequest, pk: int) -> HttpResponse:
    """Return a rejection's statement of reasons in the format of the EU's transparency database."""
    user = get_user(request)
    decision = (
        visible(user, Decision.objects.filter(pk=pk))
        .select_related("rule", "policy", "model_version", "submission__prediction")
        .first()
    )
    if decision is None:
        raise Http404
    require(user, "moderation.export_decision", community=decision.submission.community)
    return JsonResponse(exports.statement_of_reasons(decision), json_dumps_params={"indent": 2})
