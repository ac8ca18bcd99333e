"""Template context of the review page. Called by `console.review`; reads only, and leases nothing."""

from collections.abc import Collection
from typing import Any
from urllib.parse import urlencode

from django.db.models import prefetch_related_objects
from django.urls import reverse
from django.utils import timezone

from apps.accounts.models import User
from apps.accounts.permissions import NO_COMMUNITY, communities_of
from apps.classifier.labels import LABELS
from apps.core.exceptions import PermissionDeniedError
from apps.moderation import actions, availability, saved_views, selectors, statistics
from apps.moderation.console import comment
from apps.moderation.exceptions import StaleError
from apps.moderation.models import Decision, Delivery, Queue, QueueItem, QueueItemQuerySet, Skip
from apps.moderation.permissions import decidable_by, visible_to

NEXT_ITEMS = 10
_HISTORY = 50
_AUTHOR_DECISIONS = 5


def item_url(item: QueueItem, view: str) -> str:
    """Return the URL of an item within a saved view."""
    return _with_view(reverse("admin:moderation_item", args=[item.pk]), view)


def queue_url(view: str) -> str:
    """Return the URL that redirects to the first item of a saved view."""
    return _with_view(reverse("admin:moderation_review"), view)


def _with_view(url: str, view: str) -> str:
    return url if view == "all" else f"{url}?{urlencode({'view': view})}"


def decision_problem(user: User, item: QueueItem) -> str:
    """Return why the user cannot decide the item now, or an empty string."""
    try:
        actions.require_available(item=item, user=user)
    except (StaleError, PermissionDeniedError) as error:
        return str(error)
    return ""


def similar_context(user: User, item: QueueItem) -> dict[str, Any]:
    """Return the similar comments to which an approval or rejection of the item can also apply."""
    rows = _similar_items(user, item).select_related("submission__prediction", "submission__author")
    return {"similar": list(rows.order_by("pk")[: actions.CLUSTER_LIMIT - 1])}


def _similar_items(user: User, item: QueueItem) -> QueueItemQuerySet:
    similar = QueueItem.objects.filter(pk__in=item.similar().values("pk"), policy=item.policy_id)
    return decidable_by(user, similar).free(user)


def empty_context(user: User, view: str) -> dict[str, Any]:
    """Return the context of a view in which the user can take no item, with the reasons."""
    saved_views.invalidate_counts(user)
    reasons = (
        saved_views.explain_empty_view(user, view) if user.has_perm("moderation.decide_queueitem") else []
    )
    return surroundings_context(user, view, None) | {"title": "Queue", "empty_reasons": reasons}


def surroundings_context(
    user: User, view: str, item: QueueItem | None, exclude: Collection[int] = ()
) -> dict[str, Any]:
    """Return what surrounds the comment: saved views, the next items, the last decision, the shift.

    Args:
        exclude: ids of the items to leave out of the list of next items.
    """
    is_moderator = user.has_perm("moderation.decide_queueitem")
    if is_moderator:
        items = availability.takeable(user, view, include_escalated=view == Queue.ESCALATED)
    else:
        items = visible_to(user).in_view(view, user)
    items = items.exclude(pk__in=exclude).select_related("submission__author", "submission__prediction")
    return {
        "view": view,
        "views": saved_views.view_counts(user),
        "next_items": list(items.by_priority()[:NEXT_ITEMS]),
        "next_url": queue_url(view) if item is None or is_moderator else _following_url(user, view, item),
        "is_moderator": is_moderator,
        "no_community": NO_COMMUNITY if communities_of(user) == [] else "",
        "shift": statistics.shift_exposure(user),
        "item": item,
    } | _newest_decision_context(user, view)


def _following_url(user: User, view: str, item: QueueItem) -> str:
    """Return the URL of the item after this one for a user who only reads, at the end that of the first."""
    following = visible_to(user).in_view(view, user).after(item).by_priority().first()
    return item_url(following, view) if following else queue_url(view)


def _newest_decision_context(user: User, view: str) -> dict[str, Any]:
    decisions = Decision.objects.filter(by=user).select_related("rule", "applied_from__rule", "reverses")
    decision = decisions.order_by("-created_at", "-pk").first()
    # Decisions of a bulk job and their reversals are undone on the job's page.
    if decision is None or decision.item_id is None or decision.job_id:
        return {"last": None}
    return last_decision_context(decision.applied_from or decision, view)


def last_decision_context(decision: Decision, view: str) -> dict[str, Any]:
    """Return the context of `_last_decision.html`: the decision, and what an undo would do now."""
    elapsed = timezone.now() - decision.created_at
    is_reversal = decision.action == Decision.Action.REVERSE
    return {
        "last": decision,
        "outcome": "Undone" if is_reversal else decision.past_tense.capitalize(),
        "undone": decision.reverses.noun if decision.reverses else "",
        "group_size": Decision.objects.filter(applied_from=decision, reversal=None).count() + 1,
        "view": view,
        "seconds_left": max(0, round((actions.UNDO - elapsed).total_seconds())),
        "can_undo": not is_reversal,
    }


def item_context(user: User, item: QueueItem, view: str, problem: str = "") -> dict[str, Any]:
    """Return the comment and what helps to decide it. A blind second review gets less.

    Args:
        problem: why the user cannot decide the item, from `decision_problem`.
    """
    can_decide = item.status == QueueItem.Status.OPEN and not problem
    is_blind = item.is_blind and item.status == QueueItem.Status.OPEN
    prefetch_related_objects([item.policy], "rules")
    author = None if is_blind else item.submission.author
    similar_count = 0
    if can_decide and not is_blind:
        similar_count = _similar_items(user, item)[: actions.CLUSTER_LIMIT - 1].count()
    undone = _undone_decision(user, item) if can_decide else None
    history = [] if is_blind else _history(user, item)
    decisions = [event["decision"].pk for event in history if _is_decision_on(item, event)]
    return {
        "title": f"Item {item.pk}",
        "priority_explanation": item.explain_priority(user),
        "problem": problem,
        "can_decide": can_decide,
        "has_lease": can_decide and item.lease_by_id == user.pk and item.is_leased,
        "is_blind": is_blind,
        "comment": comment.render(item),
        "label_rows": _label_rows(item, undone),
        "is_none_ticked": is_blind and undone is not None and undone.corrected_mask == 0,
        "note": undone.note if undone else "",
        "rules": list(item.policy.rules.all()),
        "similar_count": similar_count,
        "author": author,
        "strikes": selectors.active_strikes(user, author) if author else 0,
        "author_decisions": (
            list(selectors.author_decisions(user, author)[:_AUTHOR_DECISIONS]) if author else []
        ),
        "open_appeals": selectors.open_appeals(author).count() if author else 0,
        "appeal": getattr(item, "appeal", None) if item.kind == QueueItem.Kind.APPEAL else None,
        "history": history,
        "last_decision_id": max(decisions, default=None),
    }


def _is_decision_on(item: QueueItem, event: dict[str, Any]) -> bool:
    return "decision" in event and event["decision"].item_id == item.pk


def _undone_decision(user: User, item: QueueItem) -> Decision | None:
    """Return the user's last decision on the item if the user has undone it; the form contains it again."""
    last = item.last_decision()
    if last is None or last.reverses is None or {last.by_id, last.reverses.by_id} != {user.pk}:
        return None
    return last.reverses


def _label_rows(item: QueueItem, undone: Decision | None) -> list[dict[str, Any]]:
    ticked = (undone.labels if undone else None) or {}
    rules = {rule.label: rule for rule in item.policy.rules.all()}
    probabilities = item.prediction.probabilities
    rows = []
    for key, label in enumerate(LABELS, 1):
        rule = rules.get(label)
        rows.append(
            {
                "key": key,
                "label": label,
                "title": label.replace("_", " "),
                "probability": probabilities[label],
                "review_from": rule.review_from if rule else None,
                "reject_from": rule.reject_from if rule else None,
                "is_main": label == item.label,
                "is_ticked": ticked.get(label, False),
            }
        )
    return rows


def _history(user: User, item: QueueItem) -> list[dict[str, Any]]:
    """Return the newest decisions, skips and webhooks of the comment, oldest first."""
    decisions = (
        selectors.visible(user, Decision.objects.filter(submission=item.submission_id))
        .exclude(item__kind=QueueItem.Kind.SECOND, item__status=QueueItem.Status.OPEN)
        .select_related("by", "rule", "policy", "reverses__by")
        .order_by("-pk")[:_HISTORY]
    )
    skips = Skip.objects.filter(item=item).select_related("by").order_by("-pk")[:_HISTORY]
    deliveries = selectors.visible(user, Delivery.objects.filter(decision__submission=item.submission_id))
    events = [
        *({"at": decision.created_at, "decision": decision} for decision in decisions),
        *({"at": skip.created_at, "skip": skip} for skip in skips),
        *(
            {"at": delivery.created_at, "delivery": delivery}
            for delivery in deliveries.order_by("-pk")[:_HISTORY]
        ),
    ]
    return sorted(events, key=lambda event: event["at"])
