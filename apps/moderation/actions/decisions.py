"""Decisions on queue items, and their undo."""

import random
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypedDict, Unpack

from django.db import transaction
from django.db.models import F, Q
from django.utils import timezone

from apps.accounts.models import APIKey, User
from apps.accounts.permissions import require
from apps.classifier.labels import LABELS
from apps.core.exceptions import PermissionDeniedError
from apps.moderation import webhooks
from apps.moderation.actions import deliveries
from apps.moderation.actions.leases import (
    LEASE,
    describe_age,
    describe_decision,
    lock_item,
    require_available,
    require_not_leased,
    require_unchanged,
)
from apps.moderation.actions.queue import enqueue_second_review, rerank, withdraw
from apps.moderation.exceptions import ModerationError, StaleError
from apps.moderation.models import (
    Appeal,
    BulkJob,
    Decision,
    Delivery,
    PolicyRule,
    Queue,
    QueueItem,
    QueueItemQuerySet,
    Strike,
)
from apps.moderation.permissions import decidable_by, has_decided_before
from apps.predictions.models import pack_labels

UNDO = timedelta(seconds=10)
CLUSTER_LIMIT = 200
_FINAL = {
    Decision.Action.APPROVE: QueueItem.Status.APPROVED,
    Decision.Action.REJECT: QueueItem.Status.REJECTED,
}


@dataclass(frozen=True)
class DecisionResult:
    """A stored decision with its item, and its webhook if there is one."""

    decision: Decision
    item: QueueItem
    delivery: Delivery | None


class Details(TypedDict, total=False):
    """What a moderator states with a decision.

    Attributes:
        labels: the labels that apply, an empty list if none applies, or None if the moderator set none.
        rule: the reason for a rejection, a rule of the item's policy.
        note: for moderators, never sent.
        seconds: the time that the decision took; by default since the lease began.
        api_key: the API key of the request.
    """

    labels: Iterable[str] | None
    rule: PolicyRule | None
    note: str
    seconds: float | None
    api_key: APIKey | None


@transaction.atomic
def decide(
    *, item_id: int, version: int, user: User, action: Decision.Action, **details: Unpack[Details]
) -> DecisionResult:
    """Decide an item. The webhook is sent ten seconds later, unless the decision is undone.

    Args:
        version: the item's version that the user saw. Changes of the lease since then don't matter.

    Raises:
        PermissionDeniedError: the user may not decide it.
        StaleError: it was decided since the user saw it, or another moderator has leased it.
        ModerationError: there is no such item, the action is a reversal, the rule is missing or of another
            policy, or a label is unknown.
    """
    item = lock_item(item_id)
    require_available(item=item, user=user)
    require_unchanged(item, user, version, timezone.now())
    return decide_locked(item, user=user, action=action, **details)


def _pack_labels(labels: Iterable[str] | None) -> int | None:
    if labels is None:
        return None
    names = set(labels)
    if unknown := sorted(names - set(LABELS)):
        raise ModerationError(f"Unknown labels: {', '.join(unknown)}. There are: {', '.join(LABELS)}.")
    return pack_labels(label in names for label in LABELS)


def decide_locked(
    item: QueueItem,
    *,
    user: User,
    action: Decision.Action,
    job: BulkJob | None = None,
    applied_from: Decision | None = None,
    **details: Unpack[Details],
) -> DecisionResult:
    """Decide an open item that the caller has locked.

    Args:
        job: the bulk job of which the decision is a part.
        applied_from: the decision on a similar item that is applied to this one as well.

    Raises:
        ModerationError: as in `decide`.
    """
    action, rule, seconds = Decision.Action(action), details.get("rule"), details.get("seconds")
    if action == Decision.Action.REVERSE:
        raise ModerationError("A decision is reversed by undoing it.")
    if action == Decision.Action.REJECT and (rule is None or rule.policy_id != item.policy_id):
        raise ModerationError(f"Choose a reason of the policy {item.policy}: the author receives it.")
    mask = _pack_labels(details.get("labels"))
    if item.is_blind and action == Decision.Action.REJECT and mask is None:
        raise ModerationError("In a blind review, tick the labels that apply, or “None of these”.")
    now = timezone.now()
    if seconds is None and item.lease_by_id == user.pk and item.lease_until:
        seconds = (now - (item.lease_until - LEASE)).total_seconds()
    previous = None if item.is_blind else item.submission.current_decision()
    decision = _create_decision(
        item,
        action=action,
        corrected_mask=mask,
        rule=rule if action == Decision.Action.REJECT else None,
        note=details.get("note", ""),
        seconds=None if seconds is None else min(max(seconds, 0.0), 3_600.0),
        by=user,
        api_key=details.get("api_key"),
        job=job,
        applied_from=applied_from,
        created_at=now,
    )
    item.lease_by = item.lease_until = None
    item.version += 1
    delivery = None
    if action == Decision.Action.ESCALATE:
        rerank(item, escalated=True)
    else:
        item.status = _FINAL[action]
        item.decided_at = now
        if not item.is_blind:
            delivery = _apply_decision(item, decision, previous)
            if job is None and item.kind != QueueItem.Kind.APPEAL:
                _sample_second_review(item, user)
    item.save()
    return DecisionResult(decision, item, delivery)


def _create_decision(item: QueueItem, **fields: Any) -> Decision:
    return Decision.objects.create(
        submission=item.submission,
        item=item,
        item_version=item.version,
        author=item.submission.author,
        model_version=item.prediction.model_version,
        policy=item.policy,
        **fields,
    )


def _sample_second_review(item: QueueItem, user: User) -> None:
    # The reviewer of an appeal sees the decision, so a blind second review is not possible.
    if random.random() < item.policy.second_review_share and not item.submission.is_appealed:
        enqueue_second_review(item, user)


def _apply_decision(item: QueueItem, decision: Decision, previous: Decision | None) -> Delivery | None:
    """Update strikes and the appeal; return the webhook if the comment's current decision changes."""
    is_change = previous is None or previous.action != decision.action
    if is_change:
        Strike.objects.filter(decision__submission=item.submission_id, lifted_at=None).update(
            lifted_at=decision.created_at
        )
        add_strikes(decision)
    if item.kind == QueueItem.Kind.APPEAL:
        # A decision on one of the other items would override the decision on the appeal without notice.
        withdraw(QueueItem.objects.filter(submission=item.submission_id).exclude(pk=item.pk))
        is_overturned = decision.action == Decision.Action.APPROVE
        Appeal.objects.filter(item=item).update(
            status=Appeal.Status.OVERTURNED if is_overturned else Appeal.Status.UPHELD,
            outcome=decision,
            resolved_at=decision.created_at,
        )
        return _create_delivery(decision, Delivery.Event.APPEAL)
    if decision.action == Decision.Action.APPROVE and _overturn_open_appeal(decision):
        return _create_delivery(decision, Delivery.Event.APPEAL)
    return _create_delivery(decision, Delivery.Event.DECIDED) if is_change else None


def _overturn_open_appeal(decision: Decision) -> bool:
    """Close the comment's open appeal, because an approval on another item overturns the rejection."""
    withdraw(QueueItem.objects.filter(submission=decision.submission_id, kind=QueueItem.Kind.APPEAL))
    appeals = Appeal.objects.filter(item__submission=decision.submission_id, status=Appeal.Status.OPEN)
    closed = appeals.update(
        status=Appeal.Status.OVERTURNED, outcome=decision, resolved_at=decision.created_at
    )
    return closed > 0


def _reopen_appeal(decision: Decision, item: QueueItem) -> None:
    """Reopen the appeal that the undone decision closed, and the items that were withdrawn with it."""
    condition = Q(appeal__outcome=decision)
    if item.kind == QueueItem.Kind.APPEAL and decision.action in _FINAL and not item.submission.is_replaced:
        # Blind second reviews were withdrawn when the author appealed.
        kinds = (QueueItem.Kind.APPEAL, QueueItem.Kind.SECOND)
        condition = Q(submission=item.submission_id) & ~Q(kind__in=kinds)
    items = QueueItem.objects.filter(condition, status=QueueItem.Status.WITHDRAWN)
    items.update(status=QueueItem.Status.OPEN, version=F("version") + 1)
    Appeal.objects.filter(outcome=decision).update(status=Appeal.Status.OPEN, outcome=None, resolved_at=None)


def add_strikes(decision: Decision) -> None:
    """Add the author's strikes for a rejection."""
    if (
        decision.action == Decision.Action.REJECT
        and decision.author_id
        and decision.rule
        and decision.rule.strikes
    ):
        Strike.objects.create(
            author_id=decision.author_id,
            decision=decision,
            points=decision.rule.strikes,
            expires_at=decision.created_at + timedelta(days=decision.policy.strike_days),
        )


def _create_delivery(decision: Decision, event: Delivery.Event, *, wait: timedelta = UNDO) -> Delivery | None:
    """Put a webhook into the outbox if the submission has a callback URL."""
    submission = decision.submission
    if not submission.callback_url:
        return None
    return deliveries.create_delivery(
        decision=decision,
        api_key_id=submission.api_key_id,
        event=event,
        url=submission.callback_url,
        payload=webhooks.payload(decision, event),
        wait=wait,
    )


@transaction.atomic
def undo(
    *,
    decision_id: int,
    user: User,
    lease: bool = True,
    job: BulkJob | None = None,
    applied_from: Decision | None = None,
) -> DecisionResult:
    """Undo a decision: append its reversal and reopen the item.

    If the comment has been edited since, the item is withdrawn instead, because nobody needs to review the
    old text; an appeal is reopened even so, also one that the decision closed from another item. A blind
    second review is withdrawn if the author has appealed since.

    If the decision was on an appeal, the items that it withdrew are reopened.

    Within ten seconds the platform gets no webhook; later it gets a correction.

    Args:
        lease: whether to lease the item to the user again, if the user may decide it.
        job: the bulk job that is being undone.
        applied_from: the undo of a similar decision that is applied to this one as well.

    Raises:
        PermissionDeniedError: the decision is another user's, and the user is no lead.
        StaleError: it is not the item's last decision, or another moderator has leased the item.
        ModerationError: there is no such decision, it was automatic, or its author has appealed.
    """
    decision = Decision.objects.select_related("by").filter(pk=decision_id).first()
    if decision is None or decision.item_id is None:
        raise ModerationError("There is no such decision of a moderator.")
    item = lock_item(decision.item_id)
    require(user, "moderation.decide_queueitem", community=item.community)
    if decision.by_id != user.pk and not user.has_perm("moderation.decide_escalated"):
        raise PermissionDeniedError(f"Only {decision.actor} or a lead can undo this decision.")
    if decision.action == Decision.Action.REVERSE:
        raise ModerationError("This is an undo itself: decide the item again instead.")
    _require_undoable(decision, item, user)
    reversal = _create_decision(
        item,
        action=Decision.Action.REVERSE,
        reverses=decision,
        by=user,
        job=job,
        applied_from=applied_from,
    )
    now = reversal.created_at
    is_withdrawn = (
        item.status == QueueItem.Status.WITHDRAWN
        or (item.kind != QueueItem.Kind.APPEAL and item.submission.is_replaced)
        or (item.is_blind and item.submission.is_appealed)
    )
    item.status = QueueItem.Status.WITHDRAWN if is_withdrawn else QueueItem.Status.OPEN
    item.decided_at = None
    if decision.action == Decision.Action.ESCALATE:
        escalations = item.decisions.filter(action=Decision.Action.ESCALATE, reversal=None)
        rerank(item, escalated=escalations.exists())
    may_lease = (
        lease
        and not is_withdrawn
        and not has_decided_before(user, item)
        and (item.queue != Queue.ESCALATED or user.has_perm("moderation.decide_escalated"))
    )
    item.lease_by, item.lease_until = (user, now + LEASE) if may_lease else (None, None)
    item.version += 1
    item.save()
    withdraw(QueueItem.objects.filter(original=item))
    _reopen_appeal(decision, item)
    delivery = None
    if decision.action in _FINAL and not item.is_blind:
        _update_strikes(item, now)
        delivery = _send_correction(decision, reversal)
    return DecisionResult(reversal, item, delivery)


def _require_undoable(decision: Decision, item: QueueItem, user: User) -> None:
    """Raise an error if something that happened since the decision prevents its undo."""
    now = timezone.now()
    newest = item.last_decision()
    if newest is None or newest.pk != decision.pk:
        reversal = Decision.objects.filter(reverses=decision).select_related("by").first()
        if reversal is not None:
            actor = "You" if reversal.by_id == user.pk else reversal.actor
            raise StaleError(f"{actor} undid this decision {describe_age(reversal.created_at, now)}.", item)
        handled = f" {describe_decision(newest, user, now)}" if newest else ""
        raise StaleError(f"This is no longer the last decision on item {item.pk}.{handled}", item)
    require_not_leased(item, user, now)
    if Appeal.objects.filter(decision=decision).exists():
        raise ModerationError("It is too late to undo this: the author has appealed, and the appeal decides.")
    current = item.submission.current_decision()
    if current and current.pk > decision.pk and not item.is_blind:
        raise StaleError(
            f"It is too late to undo this: {current.actor} has decided the comment again since.", item
        )


@transaction.atomic
def undo_cluster(*, decision_id: int, user: User) -> tuple[list[DecisionResult], list[tuple[int, str]]]:
    """Undo a decision and those that `decide_cluster` applied to similar items.

    Returns:
        The reversals, and the id and the reason of each similar item whose decision could not be undone.

    Raises:
        PermissionDeniedError, StaleError, ModerationError: as in `undo`; nothing was undone.
    """
    undone, failed = [undo(decision_id=decision_id, user=user)], []
    applied = Decision.objects.filter(applied_from=decision_id, reversal=None).order_by("pk")
    for pk, item_id in applied.values_list("pk", "item"):
        try:
            undone.append(undo(decision_id=pk, user=user, lease=False, applied_from=undone[0].decision))
        except (ModerationError, PermissionDeniedError) as error:
            failed.append((item_id, str(error)))
    return undone, failed


def _update_strikes(item: QueueItem, now: datetime) -> None:
    """Lift the comment's strikes, except that of the decision that is in force again."""
    current = item.submission.current_decision()
    strikes = Strike.objects.filter(decision__submission=item.submission_id)
    strikes.filter(lifted_at=None).exclude(decision=current).update(lifted_at=now)
    if current:
        strikes.filter(decision=current).update(lifted_at=None)


def _send_correction(decision: Decision, reversal: Decision) -> Delivery | None:
    """Cancel pending webhooks; send a correction if the platform may have received one."""
    webhook_deliveries = Delivery.objects.filter(decision=decision)
    webhook_deliveries.filter(status=Delivery.Status.PENDING).update(status=Delivery.Status.CANCELLED)
    # A delivery that waits to be sent again has no attempts, but an error.
    unsent = Q(status=Delivery.Status.CANCELLED, attempts=0, error="")
    was_attempted = webhook_deliveries.exclude(unsent).exists()
    return _create_delivery(reversal, Delivery.Event.REVERSED, wait=timedelta(0)) if was_attempted else None


@transaction.atomic
def decide_cluster(
    *,
    item_id: int,
    version: int,
    user: User,
    action: Decision.Action,
    similar: Collection[int] | None = None,
    **details: Unpack[Details],
) -> list[DecisionResult]:
    """Decide an item and the similar open items, at most 200; each gets its own decision.

    Items that another moderator has leased, that the user may not decide or that have another policy are
    left out. An escalation applies to the item only.

    Args:
        similar: the ids of the similar items that the user has seen; None for all of them.

    Raises:
        PermissionDeniedError, StaleError, ModerationError: as in `decide`; nothing was decided.
    """
    if (labels := details.get("labels")) is not None:
        details["labels"] = list(labels)
    first = decide(item_id=item_id, version=version, user=user, action=action, **details)
    if first.item.is_blind or action not in _FINAL:
        return [first]
    items = QueueItem.objects.filter(pk__in=first.item.similar().values("pk"), policy=first.item.policy_id)
    if similar is not None:
        items = items.filter(pk__in=similar)
    details["seconds"] = 0.0
    return [
        first,
        *(
            decide_locked(item, user=user, action=action, applied_from=first.decision, **details)
            for item in lock_available(items, user=user, limit=CLUSTER_LIMIT - 1)
        ),
    ]


def lock_available(items: QueueItemQuerySet, *, user: User, limit: int) -> list[QueueItem]:
    """Lock and return the open items, by id, that the user may decide and no other user has leased.

    An appeal is left out while another transaction has locked one of the comment's other items.
    """
    try:
        available = decidable_by(user, items.open()).free(user)
    except PermissionDeniedError:
        return []
    locked = (
        available.order_by("pk")
        .select_for_update(skip_locked=True, of=("self",))
        .values_list("pk", flat=True)
    )
    rows = QueueItem.objects.with_related().filter(pk__in=list(locked[:limit])).order_by("pk")
    return [item for item in rows if item.kind != QueueItem.Kind.APPEAL or _lock_other_items(item)]


def _lock_other_items(item: QueueItem) -> bool:
    """Lock the comment's other items without waiting; return whether all could be locked."""
    items = QueueItem.objects.filter(submission=item.submission_id).exclude(pk=item.pk)
    return len(items.select_for_update(skip_locked=True).values_list("pk")) == items.count()
