"""The desk: one comment at a time, its circumstances, and the four things that can be done with it."""

from typing import Any
from urllib.parse import urlencode
from uuid import UUID

from django.core.exceptions import PermissionDenied
from django.db.models import prefetch_related_objects
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils import timezone

from apps.accounts.models import User
from apps.accounts.permissions import NO_COMMUNITY, communities_of
from apps.classifier.labels import LABELS
from apps.moderation import actions, insight, selectors
from apps.moderation.console import comment
from apps.moderation.console.doors import door, is_script, page, user_of
from apps.moderation.console.forms import DecideForm
from apps.moderation.errors import StaleError
from apps.moderation.models import (
    VIEWS,
    Author,
    Decision,
    Delivery,
    Preference,
    QueueItem,
    Skip,
    Submission,
)
from apps.moderation.permissions import decidable_by, visible_to

NEXT = 10
_ALIKE_CAP = 200


def _view_of(request: HttpRequest) -> str:
    view = request.GET.get("view") or request.POST.get("view") or "all"
    return view if view in VIEWS else "all"


def item_url(item: QueueItem, view: str) -> str:
    """Return the address of an item, within a saved view."""
    url = reverse("admin:moderation_item", args=[item.pk])
    return url if view == "all" else f"{url}?{urlencode({'view': view})}"


def desk_url(view: str) -> str:
    """Return the address that leads to a view's most pressing item."""
    url = reverse("admin:moderation_desk")
    return url if view == "all" else f"{url}?{urlencode({'view': view})}"


@door()
def desk(request: HttpRequest) -> HttpResponse:
    """Go to the most pressing item of a saved view, or say that there is none."""
    user, view = user_of(request), _view_of(request)
    if user.has_perm("moderation.decide_queueitem"):
        found = actions.claim_next(user=user, view=view)
    else:
        found = visible_to(user).in_view(view, user).in_order().first()
    if found is not None:
        return redirect(item_url(found, view))
    return page(request, "desk", _around(user, view, None) | {"title": "Queue"}, here="desk")


@door()
def item(request: HttpRequest, pk: int) -> HttpResponse:
    """Show an item and lease it, where it is free and the user may decide it."""
    user, view = user_of(request), _view_of(request)
    problem = ""
    try:
        found = actions.claim(item_id=pk, user=user)
    except (StaleError, PermissionDenied) as error:
        visible = visible_to(user, QueueItem.objects.with_related()).filter(pk=pk).first()
        if visible is None:
            raise Http404 from error
        found, problem = visible, str(error)
    context = _card(user, found, view, problem) | _around(user, view, found)
    if is_script(request):
        return JsonResponse(_part(request, found, view, context))
    return page(request, "desk", context | {"title": f"Item {pk}"}, here="desk")


@door("POST")
def ahead(request: HttpRequest, pk: int) -> HttpResponse:
    """Lease and draw the item that comes after this one, so that it is there when this one is decided."""
    user, view = user_of(request), _view_of(request)
    current = visible_to(user).filter(pk=pk).first()
    if current is None:
        raise Http404
    found = actions.claim_next(user=user, view=view, besides=current)
    if found is None:
        return JsonResponse({"url": desk_url(view)})
    return JsonResponse(_part(request, found, view, _card(user, found, view) | _around(user, view, found)))


def _part(request: HttpRequest, found: QueueItem, view: str, context: dict[str, Any]) -> dict[str, Any]:
    preference = {"preference": Preference.of(user_of(request))}
    return {
        "url": item_url(found, view),
        "html": render_to_string("moderation/_desk.html", context | preference, request),
    }


@door("POST")
def decide(request: HttpRequest, pk: int) -> HttpResponse:
    """Approve, reject or escalate, alone or with all that are alike; then the next item."""
    user, view = user_of(request), _view_of(request)
    found = visible_to(user).select_related("policy").filter(pk=pk).first()
    if found is None:
        raise Http404
    form = DecideForm(request.POST, item=found)
    form.full_clean()
    if not form.is_valid():
        raise form.refusal()
    verb = actions.decide_cluster if form.cleaned_data["alike"] else actions.decide
    try:
        verb(item_id=pk, user=user, **form.verdict())
    except StaleError as error:
        # A second click on the same button asks for what has been done.
        last = error.item.last_decision()
        if last is None or last.by_id != user.pk or last.action != form.cleaned_data["action"]:
            raise
    return _done(request, user, view)


@door("POST")
def skip(request: HttpRequest, pk: int) -> HttpResponse:
    """Leave an item to the others; what stands in the note is the reason."""
    user, view = user_of(request), _view_of(request)
    actions.skip(item_id=pk, user=user, reason=request.POST.get("note", ""))
    return _done(request, user, view)


@door("POST")
def later(request: HttpRequest, pk: int) -> HttpResponse:
    """Give an item back and go to the one after it."""
    user, view = user_of(request), _view_of(request)
    if not visible_to(user).filter(pk=pk).exists():
        raise Http404
    current = actions.release(item_id=pk, user=user)
    found = actions.claim_next(user=user, view=view, after=current)
    return redirect(item_url(found, view) if found else desk_url(view))


@door("POST")
def look(request: HttpRequest, pk: int) -> HttpResponse:
    """Say that the user is still looking; answer who else is, and until when the lease lasts."""
    user = user_of(request)
    found = visible_to(user).filter(pk=pk).first()
    if found is None:
        raise Http404
    if request.POST.get("renew"):
        found = actions.claim(item_id=pk, user=user)
    others = actions.look(item=found, user=user)
    mine = found.lease_by_id == user.pk and found.lease_until
    if not is_script(request):
        return redirect(item_url(found, _view_of(request)))
    return JsonResponse(
        {"others": others, "until": found.lease_until if mine else None, "version": found.version}
    )


@door("POST")
def undo(request: HttpRequest, pk: int) -> HttpResponse:
    """Take a decision back, with those that were made along with it, and show its item."""
    undone = actions.undo_together(decision_id=pk, user=user_of(request))
    return redirect(item_url(undone[0].item, _view_of(request)))


@door()
def search(request: HttpRequest) -> HttpResponse:
    """Find an item by its number, the platform's id, the prediction's id or the author's reference."""
    user = user_of(request)
    wanted = request.GET.get("q", "").strip()[:200]
    found = _find(user, wanted) if wanted else []
    if len(found) == 1:
        return redirect(item_url(found[0], "all"))
    context = {"title": "Search", "wanted": wanted, "found": found}
    return page(request, "search", context, here="search")


def _find(user: User, wanted: str) -> list[QueueItem]:
    visible = visible_to(user, QueueItem.objects.select_related("submission__author"))
    if wanted.isdecimal() and len(wanted) < 18 and (by_number := visible.filter(pk=int(wanted)).first()):
        return [by_number]
    try:
        ids = [UUID(wanted)]
    except ValueError:
        ids = []
    # Each look-up goes by an index. Several comments may have the same external id: the newest are found.
    submissions = selectors.visible(user, Submission.objects.order_by("-pk")).values_list("pk", flat=True)
    ids += submissions.filter(external_id=wanted)[:50] if wanted else []
    authors = selectors.visible(user, Author.objects.filter(ref=wanted)).values_list("pk", flat=True)[:20]
    ids += submissions.filter(author__in=list(authors))[:50]
    return list(visible.filter(submission__in=ids).order_by("-pk")[:50])


def _done(request: HttpRequest, user: User, view: str) -> HttpResponse:
    if is_script(request):
        return JsonResponse({"last": render_to_string("moderation/_last.html", _last(user, view), request)})
    return redirect(desk_url(view))


def _last(user: User, view: str) -> dict[str, Any]:
    """Return the user's newest decision, with what undoing it means at this moment."""
    mine = Decision.objects.filter(by=user).select_related("rule", "item", "by")
    last = mine.order_by("-created_at").first()
    if last is None or last.item is None or last.job_id:
        return {"last": None}
    last = actions.decided_first(last)
    passed = timezone.now() - last.created_at
    together = actions.decided_together(last).count() if last.action != Decision.Action.REVERSE else 0
    return {
        "last": last,
        "together": together + 1,
        "view": view,
        "seconds_left": max(0, round((actions.UNDO - passed).total_seconds())),
        "can_undo": last.action != Decision.Action.REVERSE,
    }


def _around(user: User, view: str, current: QueueItem | None) -> dict[str, Any]:
    """Return what stands round the comment: saved views, the next items, the last decision, the shift."""
    decides = user.has_perm("moderation.decide_queueitem")
    rows = QueueItem.objects.in_view(view, user).select_related("submission__author", "lease_by")
    if decides:
        skipped = Skip.objects.filter(by=user, created_at__gt=timezone.now() - actions.SKIPPED)
        rows = decidable_by(user, rows).free(user).exclude(pk__in=skipped.values("item"))
    else:
        rows = visible_to(user, rows)
    return {
        "view": view,
        "views": insight.view_counts(user),
        "rows": list(rows.in_order()[:NEXT]),
        "decides": decides,
        "no_community": NO_COMMUNITY if communities_of(user) == [] else "",
        "shift": insight.shift_of(user),
        "item": current,
        "labels": LABELS,
    } | _last(user, view)


def _card(user: User, item: QueueItem, view: str, problem: str = "") -> dict[str, Any]:
    """Return the comment with all that helps to judge it; a blind review gets less."""
    holds = item.lease_by_id == user.pk and item.status == QueueItem.Status.OPEN and not problem
    author = item.submission.author
    prefetch_related_objects([item.policy], "rules")
    blind = item.is_blind and item.status == QueueItem.Status.OPEN
    alike = item.similar()[: _ALIKE_CAP + 1].count() if holds and not blind else 0
    history = [] if blind else _history(user, item)
    decided = [event["decision"] for event in history if "decision" in event]
    return {
        "title": f"Item {item.pk}",
        "problem": problem,
        "holds": holds,
        "blind": blind,
        "comment": comment.shown(item),
        "bars": _bars(item, blind),
        "rules": list(item.policy.rules.all()),
        "chosen_rule": item.rule(),
        "others": actions.look(item=item, user=user) if holds else [],
        "alike": min(alike, _ALIKE_CAP),
        "author": None if blind else author,
        "strikes": selectors.active_strikes(user, author) if author and not blind else 0,
        "decisions": list(selectors.visible(user, author.decisions())[:5]) if author and not blind else [],
        "appeals": author.open_appeals().count() if author and not blind else 0,
        "appeal": getattr(item, "appeal", None) if item.kind == QueueItem.Kind.APPEAL else None,
        "history": history,
        "last_of_item": max((one.pk for one in decided if one.item_id == item.pk), default=None),
        "may_bulk": user.has_perm("moderation.bulk_decide"),
    }


def _bars(item: QueueItem, blind: bool) -> list[dict[str, Any]]:
    rules = {rule.label: rule for rule in item.policy.rules.all()}
    probabilities, flags = item.prediction.probabilities, item.prediction.labels
    return [
        {
            "key": number,
            "label": label,
            "title": label.replace("_", " "),
            "probability": probabilities[label],
            "rule": rules.get(label),
            "is_ticked": flags[label] and not blind,
            "is_main": label == item.label,
        }
        for number, label in enumerate(LABELS, 1)
    ]


def _history(user: User, item: QueueItem) -> list[dict[str, Any]]:
    """Return the newest things that were done with the comment, the oldest first."""
    decisions = (
        selectors.visible(user, Decision.objects.filter(submission=item.submission_id))
        .exclude(item__kind=QueueItem.Kind.SECOND, item__status=QueueItem.Status.OPEN)
        .select_related("by", "rule", "policy", "reverses__by")
        .order_by("-pk")[:50]
    )
    skips = Skip.objects.filter(item=item).select_related("by").order_by("-pk")[:50]
    sent = selectors.visible(user, Delivery.objects.filter(decision__submission=item.submission_id))
    events = [
        *({"at": decision.created_at, "decision": decision} for decision in decisions),
        *({"at": skip.created_at, "skip": skip} for skip in skips),
        *({"at": delivery.created_at, "delivery": delivery} for delivery in sent.order_by("-pk")[:50]),
    ]
    return sorted(events, key=lambda event: event["at"])
