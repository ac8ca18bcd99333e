"""The review page: one comment at a time, with the actions approve, reject, escalate and skip."""

from collections.abc import Sequence
from typing import Any

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect
from django.template.loader import render_to_string
from django.urls import reverse

from apps.accounts.models import User
from apps.accounts.permissions import get_user, require
from apps.moderation import actions, availability, saved_views, selectors
from apps.moderation.console.forms import DecideForm, NextItemForm, PresenceForm, ReleaseForm
from apps.moderation.console.review_context import (
    decision_problem,
    empty_context,
    item_context,
    item_url,
    last_decision_context,
    queue_url,
    similar_context,
    surroundings_context,
)
from apps.moderation.console.views import console_view, is_fetch, render_page
from apps.moderation.exceptions import ModerationError, StaleError
from apps.moderation.models import VIEWS, Decision, Preference, QueueItem
from apps.moderation.permissions import visible_item, visible_to

_MAX_NAMED_ITEMS = 10


def _get_view(request: HttpRequest) -> str:
    view = request.GET.get("view") or request.POST.get("view") or "all"
    return view if view in VIEWS else "all"


@console_view()
def review(request: HttpRequest) -> HttpResponse:
    """Redirect to the first item of a saved view, or explain why there is none. Nothing is leased."""
    user, view = get_user(request), _get_view(request)
    if user.has_perm("moderation.decide_queueitem"):
        first = availability.first_item(user, view)
    else:
        first = visible_to(user).in_view(view, user).by_priority().first()
    if first is not None:
        return redirect(item_url(first, view))
    return render_page(request, "review", empty_context(user, view), section="review")


@console_view()
def item(request: HttpRequest, pk: int) -> HttpResponse:
    """Show an item. It is leased once its text is revealed or a decision begins, not before."""
    user, view = get_user(request), _get_view(request)
    item = visible_item(user, pk)
    context = _full_context(user, item, view)
    if "similar" in request.GET and context["similar_count"]:
        context |= similar_context(user, item)
    return render_page(request, "review", context, section="review")


def _full_context(user: User, item: QueueItem, view: str) -> dict[str, Any]:
    problem = decision_problem(user, item)
    return item_context(user, item, view, problem) | surroundings_context(user, view, item)


@console_view("POST")
def next_item(request: HttpRequest) -> HttpResponse:
    """Offer the next item to a browser tab, which names the items that it shows or is deciding."""
    user, view = get_user(request), _get_view(request)
    require(user, "moderation.decide_queueitem")
    form = NextItemForm(request.POST)
    if not form.is_valid():
        raise form.to_error()
    exclude = form.cleaned_data["exclude"]
    item = availability.next_item(user, view, tab=form.cleaned_data["tab"], exclude=exclude)
    if item is None:
        return JsonResponse(_page_parts(request, None, view, empty_context(user, view)))
    context = item_context(user, item, view) | surroundings_context(user, view, item, exclude)
    return JsonResponse(_page_parts(request, item, view, context))


def _page_parts(
    request: HttpRequest, item: QueueItem | None, view: str, context: dict[str, Any]
) -> dict[str, Any]:
    preference = {"preference": Preference.for_user(get_user(request))}
    return {
        "item": item.pk if item else None,
        "url": item_url(item, view) if item else queue_url(view),
        "title": f"{context['title']} | toxicmod",  # as in the page's base template
        "html": render_to_string("moderation/_review.html", context | preference, request),
    }


@console_view()
def views(request: HttpRequest) -> HttpResponse:
    """Return the HTML of the saved views with their sizes, for a page that has changed them."""
    user, view = get_user(request), _get_view(request)
    saved_views.invalidate_counts(user)
    context = {"view": view, "views": saved_views.view_counts(user)}
    return JsonResponse({"html": render_to_string("moderation/_views.html", context, request)})


@console_view("POST")
def claim(request: HttpRequest, pk: int) -> HttpResponse:
    """Lease an item for ten minutes, or renew the lease."""
    user = get_user(request)
    visible_item(user, pk)
    item = actions.claim(item_id=pk, user=user)
    saved_views.invalidate_counts(user)
    if not is_fetch(request):
        return redirect(item_url(item, _get_view(request)))
    return JsonResponse({"lease_until": item.lease_until, "version": item.version})


@console_view("POST")
def release(request: HttpRequest, pk: int) -> HttpResponse:
    """End the lease and the offers of an item whose page is being left."""
    user = get_user(request)
    require(user, "moderation.decide_queueitem")
    visible_item(user, pk)
    form = ReleaseForm(request.POST)
    if not form.is_valid():
        raise form.to_error()
    for offered in (pk, form.cleaned_data["prefetched"]):
        if offered:
            availability.withdraw_offer(offered, form.cleaned_data["tab"])
    if form.cleaned_data["version"]:
        actions.release(item_id=pk, user=user, version=form.cleaned_data["version"])
    saved_views.invalidate_counts(user)
    return HttpResponse(status=204)


@console_view()
def similar(request: HttpRequest, pk: int) -> HttpResponse:
    """Return the HTML of the similar comments to which an approval or rejection will also apply."""
    user = get_user(request)
    item = visible_item(user, pk)
    context = similar_context(user, item) | {"item": item, "view": _get_view(request)}
    html = render_to_string("moderation/_similar.html", context, request)
    return JsonResponse({"html": html, "count": len(context["similar"])})


@console_view("POST")
def decide(request: HttpRequest, pk: int) -> HttpResponse:
    """Approve or reject an item and the similar comments that were shown, or escalate the item only."""
    user, view = get_user(request), _get_view(request)
    item = visible_item(user, pk)
    form = DecideForm(request.POST, item=item)
    try:
        if not form.is_valid():
            raise form.to_error()
        requested, arguments = form.cleaned_data["similar"], form.decision_arguments()
        if requested:
            results = actions.decide_cluster(item_id=pk, user=user, similar=requested, **arguments)
        else:
            results = [actions.decide(item_id=pk, user=user, **arguments)]
    except StaleError:
        raise
    except ModerationError as error:
        if is_fetch(request):
            raise
        return _show_decision_error(request, user, item, view, str(error))
    skipped = sorted(set(requested) - {result.item.pk for result in results})
    notice = ""
    if skipped:
        notice = f"Not applied to {_format_items(skipped)}: reserved or decided by another moderator."
    return _decided_response(request, user, view, results[0].decision, notice)


def _show_decision_error(
    request: HttpRequest, user: User, item: QueueItem, view: str, error: str
) -> HttpResponse:
    """Show the item again with the error and the decision that the moderator entered."""
    context = _full_context(user, item, view)
    for row in context["label_rows"]:
        row["is_ticked"] = row["label"] in request.POST.getlist("labels")
    context |= {
        "is_none_ticked": "none" in request.POST,
        "note": request.POST.get("note", ""),
        "selected_rule": request.POST.get("rule", ""),
        "decision_error": error,
    }
    if request.POST.get("similar"):
        context |= similar_context(user, item)
    return render_page(request, "review", context, section="review", status=422)


def _format_items(ids: Sequence[int]) -> str:
    """Return the items by number: `item 5`, or `items 5, 6 and 9 others`."""
    named = ", ".join(str(pk) for pk in ids[:_MAX_NAMED_ITEMS])
    unnamed = len(ids) - _MAX_NAMED_ITEMS
    return f"item{'s' if len(ids) > 1 else ''} {named}{f' and {unnamed} others' if unnamed > 0 else ''}"


def _decided_response(
    request: HttpRequest, user: User, view: str, decision: Decision, notice: str
) -> HttpResponse:
    saved_views.invalidate_counts(user)
    if not is_fetch(request):
        if notice:
            messages.warning(request, notice)
        return redirect(queue_url(view))
    context = last_decision_context(decision, view)
    similar = f" and {context['group_size'] - 1} similar" if context["group_size"] > 1 else ""
    return JsonResponse(
        {
            "last_decision": render_to_string("moderation/_last_decision.html", context, request),
            "undo_url": reverse("admin:moderation_undo", args=[decision.pk]),
            "message": f"{context['outcome']} item {decision.item_id}{similar}. {notice}".strip(),
            "notice": notice,
        }
    )


@console_view("POST")
def skip(request: HttpRequest, pk: int) -> HttpResponse:
    """Leave an item to other moderators. The note, if there is one, is stored as the reason."""
    user, view = get_user(request), _get_view(request)
    visible_item(user, pk)
    item = actions.skip(item_id=pk, user=user, reason=request.POST.get("note", ""))
    saved_views.invalidate_counts(user)
    if not is_fetch(request):
        messages.info(request, f"Skipped item {pk}. For one day it is offered to other moderators only.")
        return redirect(queue_url(view))
    context = {"skipped": item, "view": view}
    return JsonResponse(
        {
            "last_decision": render_to_string("moderation/_last_decision.html", context, request),
            "message": f"Skipped item {pk}.",
            "item_url": item_url(item, view),
        }
    )


@console_view("POST")
def release_and_next(request: HttpRequest, pk: int) -> HttpResponse:
    """End the lease of an item and go to the one after it."""
    user, view = get_user(request), _get_view(request)
    visible_item(user, pk)
    current = actions.release(item_id=pk, user=user)
    saved_views.invalidate_counts(user)
    following = availability.takeable(user, view).after(current).by_priority().first()
    return redirect(item_url(following, view) if following else queue_url(view))


@console_view("POST")
def presence(request: HttpRequest, pk: int) -> HttpResponse:
    """Record that the user is viewing the item; return the other viewers and the end of the user's lease."""
    user = get_user(request)
    item = visible_item(user, pk)
    form = PresenceForm(request.POST)
    if form.is_valid() and form.cleaned_data["is_first"]:
        availability.offer(pk, form.cleaned_data["tab"])
    other_viewers = actions.record_presence(item=item, user=user)
    return JsonResponse(
        {
            "other_viewers": other_viewers,
            "lease_until": item.lease_until if item.lease_by_id == user.pk else None,
            "problem": decision_problem(user, item),
        }
    )


@console_view("POST")
def undo(request: HttpRequest, pk: int) -> HttpResponse:
    """Undo a decision and those that were applied to similar comments with it, and show its item."""
    user, view = get_user(request), _get_view(request)
    decision = selectors.visible(user, Decision.objects.all()).filter(pk=pk).first()
    if decision is None:
        raise Http404
    undone, failed = actions.undo_cluster(decision_id=pk, user=user)
    saved_views.invalidate_counts(user)
    message = f"Undone: {decision.noun} of item {decision.item_id}"
    message += f" and of {len(undone) - 1} similar." if len(undone) > 1 else "."
    if failed:
        reasons = " ".join(f"Item {item_id}: {reason}" for item_id, reason in failed[:_MAX_NAMED_ITEMS])
        message += f" {len(failed)} could not be undone. {reasons}"
    item = QueueItem.objects.with_related().get(pk=undone[0].item.pk)
    if not is_fetch(request):
        (messages.warning if failed else messages.info)(request, message)
        return redirect(item_url(item, view))
    return JsonResponse(
        _page_parts(request, item, view, _full_context(user, item, view)) | {"message": message}
    )
