"""Claim, decide, undo. Every change of an item happens under its row lock and raises its version."""

import random
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.core.cache import cache
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.db.models import F
from django.utils import timezone

from apps.accounts.models import APIKey, User
from apps.classifier.labels import LABELS
from apps.moderation import triage, webhooks
from apps.moderation.actions.deliveries import create_delivery
from apps.moderation.actions.intake import strike
from apps.moderation.errors import ModerationError, StaleError
from apps.moderation.models import (
    Appeal,
    BulkJob,
    Decision,
    DecisionQuerySet,
    Delivery,
    Lane,
    PolicyRule,
    QueueItem,
    QueueItemQuerySet,
    Skip,
    Strike,
)
from apps.moderation.permissions import decidable_by, require, require_item
from apps.predictions.models import pack_labels

LEASE = timedelta(minutes=10)
UNDO = timedelta(seconds=10)
SKIPPED = timedelta(days=1)
CLUSTER_LIMIT = 200
_PRESENCE_SECONDS = 20
_TOGETHER = timedelta(seconds=30)
_FINAL = {
    Decision.Action.APPROVE: QueueItem.Status.APPROVED,
    Decision.Action.REJECT: QueueItem.Status.REJECTED,
}


@dataclass(frozen=True)
class Decided:
    """What became of a `decide`."""

    decision: Decision
    item: QueueItem
    delivery: Delivery | None


def _locked(item_id: int) -> QueueItem:
    """Return the item, locked until the transaction ends.

    Raises:
        ModerationError: there is no such item.
    """
    # Lock first, read then: PostgreSQL shows a row that it waited for as it is, but its joins as they were.
    if not QueueItem.objects.select_for_update().filter(pk=item_id).values_list("pk"):
        raise ModerationError(f"There is no item {item_id}.")
    return QueueItem.objects.with_related().get(pk=item_id)


def _refuse_decided(item: QueueItem) -> None:
    if item.status == QueueItem.Status.OPEN:
        return
    last = item.last_decision()
    if last is None:
        raise StaleError("This item was withdrawn.", item)
    raise StaleError(f"{last.actor} {last.past_tense} this at {last.created_at:%H:%M:%S} UTC.", item)


def _refuse_held(item: QueueItem, user: User, now: datetime) -> None:
    if item.lease_by and item.lease_by_id != user.pk and item.lease_until and item.lease_until > now:
        raise StaleError(
            f"{item.lease_by.get_username()} holds this until {item.lease_until:%H:%M:%S} UTC.", item
        )


def _lease(item: QueueItem, user: User, now: datetime) -> QueueItem:
    if item.lease_by_id != user.pk or item.lease_until is None or item.lease_until <= now:
        item.version += 1
    item.lease_by, item.lease_until = user, now + LEASE
    item.save(update_fields=["lease_by", "lease_until", "version"])
    return item


@transaction.atomic
def claim(*, item_id: int, user: User) -> QueueItem:
    """Lease an item for ten minutes; claiming one's own again renews the lease and keeps the version.

    Raises:
        PermissionDenied: the user may not decide it.
        StaleError: it was decided, or somebody else holds it.
        ModerationError: there is no such item.
    """
    item = _locked(item_id)
    require_item(user, item)
    now = timezone.now()
    _refuse_decided(item)
    _refuse_held(item, user, now)
    return _lease(item, user, now)


@transaction.atomic
def claim_next(
    *,
    user: User,
    view: str = "all",
    community: str | None = None,
    label: str | None = None,
    after: QueueItem | None = None,
    besides: QueueItem | None = None,
) -> QueueItem | None:
    """Lease the most pressing free item that the user may decide and has not skipped, or return None.

    Args:
        view: one of `models.VIEWS`.
        after: take the next one in the queue's order after this item.
        besides: take another one than this.

    Raises:
        PermissionDenied: the user may not decide at all.
        ValueError: there is no such view.
    """
    now = timezone.now()
    items = decidable_by(user, QueueItem.objects.in_view(view, user, now)).free(user, now)
    items = items.exclude(pk__in=Skip.objects.filter(by=user, created_at__gt=now - SKIPPED).values("item"))
    if community is not None:
        items = items.filter(community=community)
    if label is not None:
        items = items.filter(label=label)
    if after is not None:
        items = items.filter(priority__lte=after.priority).exclude(pk=after.pk)
    if besides is not None:
        items = items.exclude(pk=besides.pk)
    # Two moderators who ask at once get two items: a row that the other has locked is passed over.
    found = (
        items.in_order().select_for_update(skip_locked=True, of=("self",)).values_list("pk", flat=True)[:1]
    )
    item = QueueItem.objects.with_related().filter(pk__in=list(found)).first()
    return None if item is None else _lease(item, user, now)


@transaction.atomic
def release(*, item_id: int, user: User) -> QueueItem:
    """Give an item back to the queue. Giving back what one does not hold does nothing.

    Raises:
        ModerationError: there is no such item.
    """
    item = _locked(item_id)
    if item.lease_by_id == user.pk:
        _free(item)
    return item


def _free(item: QueueItem) -> None:
    item.lease_by = item.lease_until = None
    item.version += 1
    item.save(update_fields=["lease_by", "lease_until", "version"])


@transaction.atomic
def skip(*, item_id: int, user: User, reason: str = "") -> QueueItem:
    """Pass an item on to the others: for a day `claim_next` does not offer it to the user again.

    Raises:
        PermissionDenied, ModerationError: as in `claim`.
    """
    item = _locked(item_id)
    require_item(user, item)
    Skip.objects.create(item=item, by=user, reason=reason[:200])
    if item.lease_by_id == user.pk:
        _free(item)
    return item


@transaction.atomic
def expire_leases(*, limit: int = 1_000) -> int:
    """Return items whose lease has run out to the queue; return how many."""
    # Rows that somebody is working on are passed over, so this never waits and never deadlocks.
    ended = list(
        QueueItem.objects.select_for_update(skip_locked=True)
        .filter(lease_by__isnull=False, lease_until__lte=timezone.now())
        .order_by("pk")
        .values_list("pk", flat=True)[:limit]
    )
    return QueueItem.objects.filter(pk__in=ended).update(
        lease_by=None, lease_until=None, version=F("version") + 1
    )


def look(*, item: QueueItem, user: User) -> list[str]:
    """Note that the user is looking at the item; return who else is. A courtesy, so it lives in the cache."""
    key = f"moderation:looking:{item.pk}"
    now = timezone.now().timestamp()
    seen: dict[str, float] = cache.get(key) or {}
    seen = {name: time for name, time in seen.items() if time > now - _PRESENCE_SECONDS} | {
        user.get_username(): now
    }
    cache.set(key, seen, _PRESENCE_SECONDS)
    return sorted(set(seen) - {user.get_username()})


@transaction.atomic
def decide(
    *,
    item_id: int,
    version: int,
    user: User,
    action: Decision.Action,
    labels: Iterable[str] | None = None,
    rule: PolicyRule | None = None,
    note: str = "",
    seconds: float | None = None,
    client: APIKey | None = None,
) -> Decided:
    """Decide an item that the user holds. The platform is told ten seconds later, unless it is undone.

    Args:
        version: the item's version that `claim` returned.
        labels: the labels that are true, an empty list for none, None where the moderator did not say.
        rule: the policy reason; a rejection needs one, of the item's policy.
        seconds: how long it took; by default since the lease began.
        client: the API key through which it came.

    Raises:
        PermissionDenied: the user may not decide it.
        StaleError: it was decided, somebody else holds it, or it was not claimed; the message says who.
        ModerationError: there is no such item, the action is not one that a moderator takes, the rule is
            missing or of another policy, or a label is unknown.
    """
    item = _locked(item_id)
    require_item(user, item)
    _refuse_decided(item)
    _refuse_held(item, user, timezone.now())
    # A lease that ran out while nobody took the item still counts: the version is the guard.
    if item.version != version or item.lease_by_id != user.pk:
        raise StaleError("Your lease ran out and the item went back to the queue. Claim it again.", item)
    return _decide(
        item, user=user, action=action, labels=labels, rule=rule, note=note, seconds=seconds, client=client
    )


def escalate(
    *, item_id: int, version: int, user: User, note: str = "", client: APIKey | None = None
) -> Decided:
    """Hand an item to the leads.

    Raises:
        PermissionDenied, StaleError, ModerationError: as in `decide`.
    """
    return decide(
        item_id=item_id, version=version, user=user, action=Decision.Action.ESCALATE, note=note, client=client
    )


def _checked_mask(labels: Iterable[str] | None) -> int | None:
    if labels is None:
        return None
    said = set(labels)
    if unknown := sorted(said - set(LABELS)):
        raise ModerationError(f"Unknown labels: {', '.join(unknown)}. There are: {', '.join(LABELS)}.")
    return pack_labels(label in said for label in LABELS)


def _decide(
    item: QueueItem,
    *,
    user: User,
    action: Decision.Action,
    labels: Iterable[str] | None = None,
    rule: PolicyRule | None = None,
    note: str = "",
    seconds: float | None = None,
    client: APIKey | None = None,
    job: BulkJob | None = None,
) -> Decided:
    """Decide a locked, open item."""
    action = Decision.Action(action)
    if action == Decision.Action.REVERSE:
        raise ModerationError("A decision is taken back with undo.")
    if action == Decision.Action.REJECT and (rule is None or rule.policy_id != item.policy_id):
        raise ModerationError(f"Choose a reason of the policy {item.policy}: the author is told.")
    mask = _checked_mask(labels)
    if item.is_blind and action == Decision.Action.REJECT and mask is None:
        raise ModerationError("In a blind review say which labels are true.")
    now = timezone.now()
    if seconds is None and item.lease_until:
        seconds = (now - (item.lease_until - LEASE)).total_seconds()
    before = None if item.is_blind else item.submission.current()
    decision = Decision.objects.create(
        submission=item.submission,
        item=item,
        item_version=item.version,
        author=item.submission.author,
        action=action,
        corrected_mask=mask,
        rule=rule if action == Decision.Action.REJECT else None,
        note=note,
        model_version=item.prediction.model_version,
        policy=item.policy,
        seconds=None if seconds is None else min(max(seconds, 0.0), 3_600.0),
        by=user,
        client=client,
        job=job,
        created_at=now,
    )
    item.lease_by = item.lease_until = None
    item.version += 1
    delivery = None
    if action == Decision.Action.ESCALATE:
        _place(item, escalated=True)
    else:
        item.status = _FINAL[action]
        item.decided_at = now
        if not item.is_blind:
            delivery = _take_effect(item, decision, before)
            if job is None:
                _maybe_second_review(item, user)
    item.save()
    return Decided(decision, item, delivery)


def _place(item: QueueItem, *, escalated: bool) -> None:
    """Put an item where its scores and whether it was escalated make it belong."""
    author = item.submission.author
    rank = triage.rank(
        probabilities=item.prediction.probabilities,
        policy=item.policy,
        kind=QueueItem.Kind(item.kind),
        strikes=author.active_strikes() if author else 0,
        now=item.created_at,
        escalated=escalated,
    )
    item.lane, item.priority, item.due_at = rank.lane, rank.priority, rank.due_at


def _take_effect(item: QueueItem, decision: Decision, before: Decision | None) -> Delivery | None:
    """Settle strikes and the appeal, and tell the platform where something changed for it."""
    changed = before is None or before.action != decision.action
    if changed:
        Strike.objects.filter(decision__submission=item.submission_id, lifted_at=None).update(
            lifted_at=decision.created_at
        )
        strike(decision)
    if item.kind == QueueItem.Kind.APPEAL:
        is_overturned = decision.action == Decision.Action.APPROVE
        Appeal.objects.filter(item=item).update(
            status=Appeal.Status.OVERTURNED if is_overturned else Appeal.Status.UPHELD,
            outcome=decision,
            resolved_at=decision.created_at,
        )
        return _announce(decision, Delivery.Event.APPEAL)
    return _announce(decision, Delivery.Event.DECIDED) if changed else None


def _announce(decision: Decision, event: Delivery.Event, *, wait: timedelta = UNDO) -> Delivery | None:
    """Put a webhook in the outbox, if the platform asked for one."""
    submission = decision.submission
    if not submission.callback_url:
        return None
    return create_delivery(
        decision=decision,
        client_id=submission.client_id,
        event=event,
        url=submission.callback_url,
        payload=webhooks.payload(decision, event),
        wait=wait,
    )


def _maybe_second_review(item: QueueItem, user: User) -> None:
    if item.kind == QueueItem.Kind.APPEAL or random.random() >= item.policy.second_review_share:
        return
    now = timezone.now()
    rank = triage.rank(
        probabilities=item.prediction.probabilities, policy=item.policy, kind=QueueItem.Kind.SECOND, now=now
    )
    QueueItem.objects.create(
        submission=item.submission,
        policy=item.policy,
        community=item.community,
        kind=QueueItem.Kind.SECOND,
        label=item.label,
        score=item.score,
        sampling_chance=item.policy.second_review_share,
        cluster=item.cluster,
        sketch_a=item.sketch_a,
        sketch_b=item.sketch_b,
        original=item,
        not_for=user,
        created_at=now,
        lane=rank.lane,
        severity=rank.severity,
        uncertainty=rank.uncertainty,
        history=item.history,
        priority=rank.priority,
        due_at=rank.due_at,
    )


@transaction.atomic
def undo(*, decision_id: int, user: User) -> Decided:
    """Take a decision back: append its reversal, reopen the item and lease it to the user again.

    Within ten seconds the platform never hears of it; later it is sent a correction.

    Raises:
        PermissionDenied: it is neither the user's own decision nor the user a lead.
        StaleError: it was taken back before, or the item has moved on.
        ModerationError: there is no such decision, it was automatic, or its author has appealed.
    """
    decision = Decision.objects.select_related("by").filter(pk=decision_id).first()
    if decision is None or decision.item_id is None:
        raise ModerationError("There is no such decision of a moderator.")
    item = _locked(decision.item_id)
    if decision.by_id == user.pk:
        require(user, "moderation.decide_queueitem", community=item.community)
    else:
        require(user, "moderation.decide_escalated", community=item.community)
    newest = item.last_decision()
    if newest is None or newest.pk != decision.pk:
        who = f": {newest.actor} was last to decide" if newest else ""
        raise StaleError(f"This decision was taken back or followed by another{who}.", item)
    _refuse_held(item, user, timezone.now())
    if Appeal.objects.filter(decision=decision).exists():
        raise ModerationError("The author has appealed: the appeal decides.")
    later = item.submission.current()
    if later and later.pk > decision.pk and not item.is_blind:
        raise StaleError(f"{later.actor} has decided this comment anew since.", item)
    reversal = Decision.objects.create(
        submission=item.submission,
        item=item,
        item_version=item.version,
        author=item.submission.author,
        action=Decision.Action.REVERSE,
        reverses=decision,
        model_version=item.prediction.model_version,
        policy=item.policy,
        by=user,
    )
    now = reversal.created_at
    item.status = QueueItem.Status.OPEN
    item.decided_at = None
    if decision.action == Decision.Action.ESCALATE:
        _place(item, escalated=False)
    may_lease = item.not_for_id != user.pk and (
        item.lane != Lane.ESCALATED or user.has_perm("moderation.decide_escalated")
    )
    item.lease_by, item.lease_until = (user, now + LEASE) if may_lease else (None, None)
    item.version += 1
    item.save()
    QueueItem.objects.open().filter(original=item).update(
        status=QueueItem.Status.WITHDRAWN, lease_by=None, lease_until=None, version=F("version") + 1
    )
    Appeal.objects.filter(outcome=decision).update(status=Appeal.Status.OPEN, outcome=None, resolved_at=None)
    delivery = None
    if decision.action in _FINAL and not item.is_blind:
        _settle_strikes(item, now)
        delivery = _correct(decision, reversal)
    return Decided(reversal, item, delivery)


def decided_together(decision: Decision) -> DecisionQuerySet:
    """Return the other decisions that `decide_cluster` made along with this one and that still hold."""
    if decision.item is None:
        return Decision.objects.none()
    return (
        Decision.objects.effective()
        .filter(by=decision.by, created_at__gte=decision.created_at, pk__gt=decision.pk)
        .filter(created_at__lt=decision.created_at + _TOGETHER, action=decision.action, seconds=0.0, job=None)
        .filter(item__cluster=decision.item.cluster)
    )


def decided_first(decision: Decision) -> Decision:
    """Return the decision that `decide_cluster` began with when it made this one, or the decision itself."""
    if decision.seconds != 0.0 or decision.item is None or decision.job_id:
        return decision
    return (
        Decision.objects.effective()
        .filter(by=decision.by, action=decision.action, job=None, item__cluster=decision.item.cluster)
        .filter(created_at__gt=decision.created_at - _TOGETHER, pk__lt=decision.pk, seconds__gt=0.0)
        .select_related("rule", "item")
        .order_by("-created_at")
        .first()
    ) or decision


@transaction.atomic
def undo_together(*, decision_id: int, user: User) -> list[Decided]:
    """Take a decision back, and those of `decide_cluster` with it where nobody has moved on from them.

    Raises:
        PermissionDenied, StaleError, ModerationError: as in `undo`; nothing was taken back.
    """
    first = undo(decision_id=decision_id, user=user)
    assert first.decision.reverses is not None
    undone = [first]
    for decision in decided_together(first.decision.reverses).order_by("pk"):
        try:
            undone.append(undo(decision_id=decision.pk, user=user))
        except ModerationError:
            continue
        release(item_id=undone[-1].item.pk, user=user)
    return undone


def _settle_strikes(item: QueueItem, now: datetime) -> None:
    """Let the strike of the decision that holds again count, and no other of this comment."""
    holds = item.submission.current()
    strikes = Strike.objects.filter(decision__submission=item.submission_id)
    strikes.filter(lifted_at=None).exclude(decision=holds).update(lifted_at=now)
    if holds:
        strikes.filter(decision=holds).update(lifted_at=None)


def _correct(decision: Decision, reversal: Decision) -> Delivery | None:
    """Cancel what was not sent; where the platform may have heard of the decision, send a correction."""
    deliveries = Delivery.objects.filter(decision=decision)
    heard = deliveries.exclude(status=Delivery.Status.PENDING, attempts=0).exists()
    deliveries.filter(status=Delivery.Status.PENDING).update(status=Delivery.Status.CANCELLED)
    return _announce(reversal, Delivery.Event.REVERSED, wait=timedelta(0)) if heard else None


@transaction.atomic
def decide_cluster(
    *,
    item_id: int,
    version: int,
    user: User,
    action: Decision.Action,
    labels: Iterable[str] | None = None,
    rule: PolicyRule | None = None,
    note: str = "",
    client: APIKey | None = None,
) -> list[Decided]:
    """Decide an item and the open ones like it, at most 200 at a time, each with a decision of its own.

    Those that somebody else holds, that the user may not decide or that have another policy stay.

    Raises:
        PermissionDenied, StaleError, ModerationError: as in `decide`; nothing was decided.
    """
    if Decision.Action(action) not in _FINAL:
        raise ModerationError("Similar items can be approved or rejected together.")
    said = None if labels is None else list(labels)
    first = decide(
        item_id=item_id,
        version=version,
        user=user,
        action=action,
        labels=said,
        rule=rule,
        note=note,
        client=client,
    )
    if first.item.is_blind:
        return [first]
    similar = QueueItem.objects.filter(pk__in=first.item.similar().values("pk"), policy=first.item.policy_id)
    locked = lock_free(similar, user=user, limit=CLUSTER_LIMIT - 1)
    return [
        first,
        *(
            _decide(
                item, user=user, action=action, labels=said, rule=rule, note=note, client=client, seconds=0.0
            )
            for item in locked
        ),
    ]


def lock_free(items: QueueItemQuerySet, *, user: User, limit: int) -> list[QueueItem]:
    """Return, locked and by id, the open items that the user may decide and nobody else holds."""
    try:
        free = decidable_by(user, items.open()).free(user)
    except PermissionDenied:
        return []
    locked = (
        free.order_by("pk").select_for_update(skip_locked=True, of=("self",)).values_list("pk", flat=True)
    )
    return list(QueueItem.objects.with_related().filter(pk__in=list(locked[:limit])).order_by("pk"))


decide_locked = _decide
