"""The desk: one comment at a time, its circumstances, and the four things that can be done with it."""

from collections.abc import Collection, Sequence
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

from django.contrib import messages
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
from apps.moderation import actions, availability, insight, selectors
from apps.moderation.console import comment
from apps.moderation.console.doors import door, is_script, page, user_of
from apps.moderation.console.forms import DecideForm, NextForm, ReleaseForm
from apps.moderation.errors import StaleError
from apps.moderation.models import (
    VIEWS,
    Author,
    Decision,
    Delivery,
    Preference,
    Queue,
    QueueItem,
    QueueItemQuerySet,
    Skip,
    Submission,
)
from apps.moderation.permissions import decidable_by, require, visible_item, visible_to

NEXT = 10


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
    """Go to the most pressing item of a saved view, or say why there is none. Nothing is leased."""
    user, view = user_of(request), _view_of(request)
    if user.has_perm("moderation.decide_queueitem"):
        found = availability.first_item(user, view)
    else:
        found = visible_to(user).in_view(view, user).by_priority().first()
    if found is not None:
        return redirect(item_url(found, view))
    return page(request, "desk", _empty(user, view), here="desk")


@door()
def item(request: HttpRequest, pk: int) -> HttpResponse:
    """Show an item. It is leased when its text is revealed or a decision begins, not before."""
    user, view = user_of(request), _view_of(request)
    found = visible_item(user, pk)
    context = _card(user, found, view, _problem(user, found)) | _around(user, view, found)
    if "similar" in request.GET and context["alike"]:
        context |= _similar(user, found)
    return page(request, "desk", context | {"title": f"Item {pk}"}, here="desk")


def _problem(user: User, found: QueueItem) -> str:
    """Return why the user cannot decide the item now, or an empty string."""
    try:
        actions.require_available(item=found, user=user)
    except (StaleError, PermissionDenied) as error:
        return str(error)
    return ""


@door("POST")
def following(request: HttpRequest) -> HttpResponse:
    """Draw the next item for the script, which names the items that it shows or is deciding."""
    user, view = user_of(request), _view_of(request)
    require(user, "moderation.decide_queueitem")
    form = NextForm(request.POST)
    if not form.is_valid():
        raise form.refusal()
    besides = form.cleaned_data["besides"]
    found = availability.next_item(user, view, tab=form.cleaned_data["tab"], besides=besides)
    if found is None:
        return JsonResponse(_part(request, None, view, _empty(user, view)))
    context = _card(user, found, view) | _around(user, view, found, besides)
    return JsonResponse(_part(request, found, view, context))


def _part(
    request: HttpRequest, found: QueueItem | None, view: str, context: dict[str, Any]
) -> dict[str, Any]:
    preference = {"preference": Preference.for_user(user_of(request))}
    return {
        "item": found.pk if found else None,
        "url": item_url(found, view) if found else desk_url(view),
        "html": render_to_string("moderation/_desk.html", context | preference, request),
    }


@door("POST")
def claim(request: HttpRequest, pk: int) -> HttpResponse:
    """Lease an item for ten minutes, or renew the lease."""
    user = user_of(request)
    visible_item(user, pk)
    held = actions.claim(item_id=pk, user=user)
    if not is_script(request):
        return redirect(item_url(held, _view_of(request)))
    return JsonResponse({"until": held.lease_until, "version": held.version})


@door("POST")
def release(request: HttpRequest, pk: int) -> HttpResponse:
    """Give an item back: the page that showed it is left."""
    user = user_of(request)
    require(user, "moderation.decide_queueitem")
    visible_item(user, pk)
    form = ReleaseForm(request.POST)
    if not form.is_valid():
        raise form.refusal()
    for shown in (pk, form.cleaned_data["ahead"]):
        if shown:
            availability.withdraw_offer(shown, form.cleaned_data["tab"])
    if form.cleaned_data["version"]:
        actions.release(item_id=pk, user=user, version=form.cleaned_data["version"])
    insight.forget_counts(user)
    return HttpResponse(status=204)


@door()
def similar(request: HttpRequest, pk: int) -> HttpResponse:
    """Return the part that shows the comments to which the next decision will apply as well."""
    user = user_of(request)
    found = visible_item(user, pk)
    context = _similar(user, found) | {"item": found, "view": _view_of(request)}
    html = render_to_string("moderation/_similar.html", context, request)
    return JsonResponse({"html": html, "count": len(context["similar"])})


def _similar(user: User, found: QueueItem) -> dict[str, Any]:
    rows = _applicable(user, found).select_related("submission__prediction", "submission__author")
    return {"similar": list(rows.order_by("pk")[: actions.CLUSTER_LIMIT - 1])}


def _applicable(user: User, found: QueueItem) -> QueueItemQuerySet:
    """Return the similar items to which the user's decision can apply."""
    similar = QueueItem.objects.filter(pk__in=found.similar().values("pk"), policy=found.policy_id)
    return decidable_by(user, similar).free(user)


@door("POST")
def decide(request: HttpRequest, pk: int) -> HttpResponse:
    """Approve, reject or escalate, alone or with the similar comments that were shown; then the next item."""
    user, view = user_of(request), _view_of(request)
    found = visible_item(user, pk)
    form = DecideForm(request.POST, item=found)
    if not form.is_valid():
        raise form.refusal()
    wanted = form.cleaned_data["similar"]
    if wanted:
        results = actions.decide_cluster(item_id=pk, user=user, similar=wanted, **form.verdict())
    else:
        results = [actions.decide(item_id=pk, user=user, **form.verdict())]
    left_out = sorted(set(wanted) - {result.item.pk for result in results})
    notice = ""
    if left_out:
        notice = f"Not applied to {_named(left_out)}: held or decided by another moderator."
    return _done(request, user, view, results[0].decision, notice)


def _named(pks: Sequence[int]) -> str:
    """Return the items by number: `item 5`, `items 5, 6 and 9 others`."""
    shown = ", ".join(str(pk) for pk in pks[:10])
    more = f" and {len(pks) - 10} others" if len(pks) > 10 else ""
    return f"item{'s' if len(pks) > 1 else ''} {shown}{more}"


@door("POST")
def skip(request: HttpRequest, pk: int) -> HttpResponse:
    """Leave an item to the others; what stands in the note is the reason."""
    user, view = user_of(request), _view_of(request)
    skipped = actions.skip(item_id=pk, user=user, reason=request.POST.get("note", ""))
    insight.forget_counts(user)
    if not is_script(request):
        messages.info(request, f"Skipped item {pk}. For a day it is offered to others only.")
        return redirect(desk_url(view))
    strip = render_to_string("moderation/_last.html", {"skipped": skipped, "view": view}, request)
    return JsonResponse({"last": strip, "message": f"Skipped item {pk}.", "back": item_url(skipped, view)})


@door("POST")
def later(request: HttpRequest, pk: int) -> HttpResponse:
    """Give an item back and go to the one after it."""
    user, view = user_of(request), _view_of(request)
    visible_item(user, pk)
    current = actions.release(item_id=pk, user=user)
    found = availability.takeable(user, view).filter(priority__lte=current.priority).exclude(pk=pk)
    after = found.by_priority().first()
    return redirect(item_url(after, view) if after else desk_url(view))


@door("POST")
def look(request: HttpRequest, pk: int) -> HttpResponse:
    """Say that the user is still viewing the item; answer who else is, and until when the lease lasts."""
    user = user_of(request)
    found = visible_item(user, pk)
    form = NextForm(request.POST)
    if form.is_valid() and form.cleaned_data["begins"]:
        availability.offer(pk, form.cleaned_data["tab"])
    others = actions.look(item=found, user=user)
    mine = found.lease_by_id == user.pk and found.lease_until
    return JsonResponse(
        {"others": others, "until": found.lease_until if mine else None, "problem": _problem(user, found)}
    )


@door("POST")
def undo(request: HttpRequest, pk: int) -> HttpResponse:
    """Undo a decision, with those that were applied along with it, and show its item."""
    user, view = user_of(request), _view_of(request)
    decision = selectors.visible(user, Decision.objects.all()).filter(pk=pk).first()
    if decision is None:
        raise Http404
    undone, failed = actions.undo_together(decision_id=pk, user=user)
    insight.forget_counts(user)
    message = f"Undone: {decision.noun} of item {decision.item_id}"
    message += f" and of {len(undone) - 1} similar." if len(undone) > 1 else "."
    if failed:
        reasons = " ".join(f"Item {item_id}: {reason}" for item_id, reason in failed[:10])
        message += f" {len(failed)} could not be undone. {reasons}"
    found = QueueItem.objects.with_related().get(pk=undone[0].item.pk)
    if not is_script(request):
        (messages.warning if failed else messages.info)(request, message)
        return redirect(item_url(found, view))
    context = _card(user, found, view, _problem(user, found)) | _around(user, view, found)
    return JsonResponse(_part(request, found, view, context) | {"message": message})


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


def _done(request: HttpRequest, user: User, view: str, decision: Decision, notice: str) -> HttpResponse:
    insight.forget_counts(user)
    if not is_script(request):
        if notice:
            messages.warning(request, notice)
        return redirect(desk_url(view))
    last = _strip(decision, view)
    title = _OUTCOMES.get(decision.action, decision.action)
    more = f" and {last['together'] - 1} similar" if last["together"] > 1 else ""
    return JsonResponse(
        {
            "last": render_to_string("moderation/_last.html", last, request),
            "undo": reverse("admin:moderation_undo", args=[decision.pk]),
            "message": f"{title} item {decision.item_id}{more}. {notice}".strip(),
            "notice": notice,
        }
    )


_OUTCOMES = {"approve": "Approved", "reject": "Rejected", "escalate": "Escalated", "reverse": "Undone"}


def _last(user: User, view: str) -> dict[str, Any]:
    """Return the user's newest decision, with what undoing it means at this moment."""
    mine = Decision.objects.filter(by=user).select_related("rule", "applied_from__rule", "reverses")
    last = mine.order_by("-created_at", "-pk").first()
    if last is None or last.item_id is None or last.job_id:  # of a bulk job, its undo included
        return {"last": None}
    return _strip(last.applied_from or last, view)


def _strip(last: Decision, view: str) -> dict[str, Any]:
    passed = timezone.now() - last.created_at
    can_undo = last.action != Decision.Action.REVERSE
    together = Decision.objects.filter(applied_from=last, reversal=None).count()
    return {
        "last": last,
        "outcome": _OUTCOMES.get(last.action, last.action),
        "undone": last.reverses.noun if last.reverses else "",
        "together": together + 1,
        "view": view,
        "seconds_left": max(0, round((actions.UNDO - passed).total_seconds())),
        "can_undo": can_undo,
    }


def _empty(user: User, view: str) -> dict[str, Any]:
    """Return what an empty view shows: why nothing is there to take."""
    insight.forget_counts(user)
    why = insight.why_empty(user, view) if user.has_perm("moderation.decide_queueitem") else []
    return _around(user, view, None) | {"title": "Queue", "why": why}


def _around(
    user: User, view: str, current: QueueItem | None, besides: Collection[int] = ()
) -> dict[str, Any]:
    """Return what stands round the comment: saved views, the next items, the last decision, the shift."""
    decides = user.has_perm("moderation.decide_queueitem")
    if decides:
        rows = availability.takeable(user, view, own_escalations=view == Queue.ESCALATED)
    else:
        rows = visible_to(user).in_view(view, user)
    rows = rows.exclude(pk__in=besides).select_related("submission__author", "submission__prediction")
    return {
        "view": view,
        "views": insight.view_counts(user),
        "rows": list(rows.by_priority()[:NEXT]),
        "decides": decides,
        "no_community": NO_COMMUNITY if communities_of(user) == [] else "",
        "shift": insight.shift_of(user),
        "item": current,
        "labels": LABELS,
    } | _last(user, view)


def _card(user: User, item: QueueItem, view: str, problem: str = "") -> dict[str, Any]:
    """Return the comment with all that helps to judge it; a blind review gets less."""
    can_decide = item.status == QueueItem.Status.OPEN and not problem
    author = item.submission.author
    prefetch_related_objects([item.policy], "rules")
    blind = item.is_blind and item.status == QueueItem.Status.OPEN
    alike = _applicable(user, item)[: actions.CLUSTER_LIMIT - 1].count() if can_decide and not blind else 0
    history = [] if blind else _history(user, item)
    decided = [event["decision"] for event in history if "decision" in event]
    return {
        "title": f"Item {item.pk}",
        "priority_explanation": item.explain_priority(user),
        "problem": problem,
        "can_decide": can_decide,
        "holds": can_decide and item.lease_by_id == user.pk and item.is_leased,
        "blind": blind,
        "comment": comment.shown(item),
        "bars": _bars(item, blind),
        "rules": list(item.policy.rules.all()),
        "others": [],
        "alike": alike,
        "author": None if blind else author,
        "strikes": selectors.active_strikes(user, author) if author and not blind else 0,
        "decisions": list(selectors.author_decisions(user, author)[:5]) if author and not blind else [],
        "appeals": selectors.open_appeals(author).count() if author and not blind else 0,
        "appeal": getattr(item, "appeal", None) if item.kind == QueueItem.Kind.APPEAL else None,
        "history": history,
        "last_of_item": max((one.pk for one in decided if one.item_id == item.pk), default=None),
        "may_bulk": user.has_perm("moderation.bulk_decide"),
    }


def _bars(item: QueueItem, blind: bool) -> list[dict[str, Any]]:
    rules = {rule.label: rule for rule in item.policy.rules.all()}
    probabilities = item.prediction.probabilities
    return [
        {
            "key": number,
            "label": label,
            "title": label.replace("_", " "),
            "probability": probabilities[label],
            "rule": rules.get(label),
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
