"""Claim, decide, undo. Every change of an item happens under its row lock and raises its version."""

import random
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.core.cache import cache
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.db.models import F
from django.utils import timezone

from apps.accounts.models import APIKey, User
from apps.classifier.labels import LABELS
from apps.moderation import availability, triage, webhooks
from apps.moderation.actions.deliveries import create_delivery
from apps.moderation.actions.intake import strike
from apps.moderation.errors import ModerationError, StaleError
from apps.moderation.models import (
    Appeal,
    BulkJob,
    Decision,
    Delivery,
    PolicyRule,
    Queue,
    QueueItem,
    QueueItemQuerySet,
    Skip,
    Strike,
)
from apps.moderation.permissions import decidable_by, require, require_item
from apps.predictions.models import pack_labels

LEASE = timedelta(minutes=10)
UNDO = timedelta(seconds=10)
CLUSTER_LIMIT = 200
_PRESENCE_SECONDS = 20
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


def _ago(moment: datetime, now: datetime) -> str:
    """Return how long ago a moment is: `3 s ago`, `5 min ago`; from a day on, its date."""
    seconds = max(0, round((now - moment).total_seconds()))
    if seconds >= 86_400:
        return f"on {moment:%Y-%m-%d}"
    for unit, size in (("h", 3_600), ("min", 60)):
        if seconds >= size:
            return f"{seconds // size} {unit} ago"
    return f"{seconds} s ago"


def _refuse_decided(item: QueueItem, user: User, now: datetime) -> None:
    if item.status == QueueItem.Status.OPEN:
        return
    last = item.last_decision()
    if last is None or item.status == QueueItem.Status.WITHDRAWN:
        raise StaleError("This item was withdrawn: the decision that it was to check was undone.", item)
    raise StaleError(_handled(last, user, now), item)


def _handled(last: Decision, user: User, now: datetime) -> str:
    """Say who handled an item, how and when."""
    when = f"{_ago(last.created_at, now)} (at {last.created_at:%H:%M:%S} UTC)"
    if last.by_id == user.pk:
        return f"You {last.past_tense} this {when}."
    return f"Already handled by {last.actor}: {last.past_tense} {when}."


def _refuse_held(item: QueueItem, user: User, now: datetime) -> None:
    if item.lease_by and item.lease_by_id != user.pk and item.lease_until and item.lease_until > now:
        raise StaleError(
            f"{item.lease_by.get_username()} is reviewing this until {item.lease_until:%H:%M:%S} UTC.", item
        )


def _refuse_changed(item: QueueItem, user: User, version: int, now: datetime) -> None:
    """Refuse a version that is older than the item's last decision: leases may come and go meanwhile."""
    last = item.last_decision()
    if last is not None and last.item_version is not None and last.item_version >= version:
        raise StaleError(f"{_handled(last, user, now)} Open the item again before you decide.", item)
    if version > item.version:
        raise StaleError("The item has no such version. Open it again before you decide.", item)


def require_available(*, item: QueueItem, user: User) -> None:
    """Let the user decide the item now.

    Raises:
        PermissionDenied: the user may not decide it.
        StaleError: it was decided, or somebody else holds it.
    """
    require_item(user, item)
    now = timezone.now()
    _refuse_decided(item, user, now)
    _refuse_held(item, user, now)


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
    require_available(item=item, user=user)
    return _lease(item, user, timezone.now())


@transaction.atomic
def claim_next(
    *,
    user: User,
    view: str = "all",
    community: str | None = None,
    label: str | None = None,
) -> QueueItem | None:
    """Lease the most pressing free item that the user may decide and has not skipped, or return None.

    Args:
        view: one of `models.VIEWS`.

    Raises:
        PermissionDenied: the user may not decide at all.
        ValueError: there is no such view.
    """
    now = timezone.now()
    items = availability.takeable(user, view, now)
    if community is not None:
        items = items.filter(community=community)
    if label is not None:
        items = items.filter(label=label)
    # Two moderators who ask at once get two items: a row that the other has locked is passed over.
    found = (
        items.by_priority().select_for_update(skip_locked=True, of=("self",)).values_list("pk", flat=True)[:1]
    )
    item = QueueItem.objects.with_related().filter(pk__in=list(found)).first()
    return None if item is None else _lease(item, user, now)


@transaction.atomic
def release(*, item_id: int, user: User, version: int | None = None) -> QueueItem:
    """Give an item back to the queue. Giving back what one does not hold does nothing.

    Args:
        version: release only the lease of this version; None for any.

    Raises:
        ModerationError: there is no such item.
    """
    item = _locked(item_id)
    if item.lease_by_id == user.pk and version in (None, item.version):
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
    """Note that the user is viewing the item; return who else is. Only the cache holds this."""
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
    """Decide an item that nobody else holds. The platform is told ten seconds later, unless it is undone.

    Args:
        version: the item's version that the user saw. Leases that came and went since do no harm, a
            decision does.
        labels: the labels that the moderator ticked, an empty list where the moderator said that none
            applies, None where the moderator did not say.
        rule: the policy reason; a rejection needs one, of the item's policy.
        seconds: how long it took; by default since the lease began.
        client: the API key through which it came.

    Raises:
        PermissionDenied: the user may not decide it.
        StaleError: it was decided since the user saw it, or somebody else holds it; the message says who.
        ModerationError: there is no such item, the action is not one that a moderator takes, the rule is
            missing or of another policy, or a label is unknown.
    """
    item = _locked(item_id)
    require_available(item=item, user=user)
    _refuse_changed(item, user, version, timezone.now())
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
    applied_from: Decision | None = None,
) -> Decided:
    """Decide a locked, open item."""
    action = Decision.Action(action)
    if action == Decision.Action.REVERSE:
        raise ModerationError("A decision is reversed by undoing it.")
    if action == Decision.Action.REJECT and (rule is None or rule.policy_id != item.policy_id):
        raise ModerationError(f"Choose a reason of the policy {item.policy}: the author is told.")
    mask = _checked_mask(labels)
    if item.is_blind and action == Decision.Action.REJECT and mask is None:
        raise ModerationError("In a blind review, tick the labels that apply, or “None of these”.")
    now = timezone.now()
    if seconds is None and item.lease_by_id == user.pk and item.lease_until:
        seconds = (now - (item.lease_until - LEASE)).total_seconds()
    before = None if item.is_blind else item.submission.current_decision()
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
        applied_from=applied_from,
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
    item.queue, item.priority, item.due_at = rank.queue, rank.priority, rank.due_at


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
        minhash_a=item.minhash_a,
        minhash_b=item.minhash_b,
        original=item,
        excluded_reviewer=user,
        created_at=now,
        queue=rank.queue,
        severity=rank.severity,
        uncertainty=rank.uncertainty,
        author_risk=item.author_risk,
        priority=rank.priority,
        due_at=rank.due_at,
    )


@transaction.atomic
def undo(
    *,
    decision_id: int,
    user: User,
    lease: bool = True,
    job: BulkJob | None = None,
    applied_from: Decision | None = None,
) -> Decided:
    """Undo a decision: append its reversal and reopen the item.

    Within ten seconds the platform never hears of it; later it is sent a correction.

    Args:
        lease: whether to lease the item to the user again, where the user may decide it.
        job: the bulk job that is being undone.
        applied_from: the undo along with which this decision is undone as well.

    Raises:
        PermissionDenied: it is neither the user's own decision nor the user a lead.
        StaleError: it is not the item's last decision, or somebody else holds the item.
        ModerationError: there is no such decision, it was automatic, or its author has appealed.
    """
    decision = Decision.objects.select_related("by").filter(pk=decision_id).first()
    if decision is None or decision.item_id is None:
        raise ModerationError("There is no such decision of a moderator.")
    item = _locked(decision.item_id)
    require(user, "moderation.decide_queueitem", community=item.community)
    if decision.by_id != user.pk and not user.has_perm("moderation.decide_escalated"):
        raise PermissionDenied(f"Only {decision.actor} or a lead can undo this decision.")
    if decision.action == Decision.Action.REVERSE:
        raise ModerationError("This is an undo itself: decide the item again instead.")
    now = timezone.now()
    newest = item.last_decision()
    if newest is None or newest.pk != decision.pk:
        reversal = Decision.objects.filter(reverses=decision).select_related("by").first()
        if reversal is not None:
            who = "You" if reversal.by_id == user.pk else reversal.actor
            raise StaleError(f"{who} undid this decision {_ago(reversal.created_at, now)}.", item)
        handled = f" {_handled(newest, user, now)}" if newest else ""
        raise StaleError(f"This is no longer the last decision on item {item.pk}.{handled}", item)
    _refuse_held(item, user, now)
    if Appeal.objects.filter(decision=decision).exists():
        raise ModerationError("It is too late to undo this: the author has appealed, and the appeal decides.")
    later = item.submission.current_decision()
    if later and later.pk > decision.pk and not item.is_blind:
        raise StaleError(
            f"It is too late to undo this: {later.actor} has decided the comment again since.", item
        )
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
        job=job,
        applied_from=applied_from,
    )
    now = reversal.created_at
    item.status = QueueItem.Status.OPEN
    item.decided_at = None
    if decision.action == Decision.Action.ESCALATE:
        _place(item, escalated=False)
    may_lease = (
        lease
        and item.excluded_reviewer_id != user.pk
        and (item.queue != Queue.ESCALATED or user.has_perm("moderation.decide_escalated"))
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


@transaction.atomic
def undo_together(*, decision_id: int, user: User) -> tuple[list[Decided], list[tuple[int, str]]]:
    """Undo a decision, and with it those that `decide_cluster` applied to similar items.

    Returns:
        What was undone, and of each similar item that was not the item's id and the reason.

    Raises:
        PermissionDenied, StaleError, ModerationError: as in `undo`; nothing was undone.
    """
    undone, failed = [undo(decision_id=decision_id, user=user)], []
    applied = Decision.objects.filter(applied_from=decision_id, reversal=None).order_by("pk")
    for pk, item_id in applied.values_list("pk", "item"):
        try:
            undone.append(undo(decision_id=pk, user=user, lease=False, applied_from=undone[0].decision))
        except (ModerationError, PermissionDenied) as error:
            failed.append((item_id, str(error)))
    return undone, failed


def _settle_strikes(item: QueueItem, now: datetime) -> None:
    """Let the strike of the decision that holds again count, and no other of this comment."""
    holds = item.submission.current_decision()
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
    seconds: float | None = None,
    client: APIKey | None = None,
    similar: Collection[int] | None = None,
) -> list[Decided]:
    """Decide an item and the open ones like it, at most 200 at a time, each with a decision of its own.

    Those that somebody else holds, that the user may not decide or that have another policy stay.

    Args:
        similar: the ids of the similar items that the user has seen; None for all of them.

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
        seconds=seconds,
        client=client,
    )
    if first.item.is_blind:
        return [first]
    found = QueueItem.objects.filter(pk__in=first.item.similar().values("pk"), policy=first.item.policy_id)
    if similar is not None:
        found = found.filter(pk__in=similar)
    locked = lock_free(found, user=user, limit=CLUSTER_LIMIT - 1)
    return [
        first,
        *(
            _decide(
                item,
                user=user,
                action=action,
                labels=said,
                rule=rule,
                note=note,
                client=client,
                seconds=0.0,
                applied_from=first.decision,
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
