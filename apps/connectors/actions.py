"""Receive the comments of connected platforms, and send flags and decisions back.

Moderation does not know the platforms: `create_due_actions` finds its new decisions in the database.
"""

import time
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import Exists, F, OuterRef, Q, QuerySet
from django.utils import timezone

from apps.accounts.permissions import Actor, require, user_or_none
from apps.connectors import encryption, tasks
from apps.connectors.adapters import ADAPTERS, Adapter, IncomingComment, OutgoingAction
from apps.connectors.exceptions import CommentNotFoundError
from apps.connectors.models import Connection, PlatformAction, ReceivedComment
from apps.core.database import lock_until_commit
from apps.core.enqueue import enqueue
from apps.core.leases import Lease
from apps.core.retries import back_off
from apps.moderation import actions as moderation
from apps.moderation.actions.queue import decided_label, enqueue_item
from apps.moderation.models import Decision, QueueItem, Submission
from apps.predictions.actions import text_hash
from apps.predictions.models import Prediction
from apps.webhooks import retries
from apps.webhooks.transport import DEADLINE_SECONDS

MAX_COMMENTS = 500  # in one run of `create_due_actions`
_BATCH_SECONDS = 20.0  # then the worker continues with another connection
# An action takes up to six exchanges. After this time another worker may send.
_LEASE_DURATION = timedelta(seconds=_BATCH_SECONDS + 8 * DEADLINE_SECONDS)


def save_connection(*, actor: Actor, connection: Connection, secret: str = "", token: str = "") -> Connection:
    """Create or change a connection. An empty secret or token leaves the stored one as it is.

    Raises:
        PermissionDeniedError: the actor may not, or has no access to the community.
    """
    is_new = connection._state.adding
    permission = "connectors.add_connection" if is_new else "connectors.change_connection"
    require(actor, permission, community=connection.community)
    if is_new:
        connection.created_by = user_or_none(actor)
    if secret:
        connection.encrypted_secret = encryption.encrypt(secret)
    if token:
        connection.encrypted_token = encryption.encrypt(token)
    connection.save()
    return connection


def receive(*, connection: Connection, headers: Mapping[str, str], data: Any) -> dict[str, Any] | None:
    """Moderate the comments of a platform's request, whose signature the caller has verified.

    Returns:
        The JSON object with which to answer, or None for an empty answer.

    Raises:
        InvalidPayloadError: the data is not what the platform's documentation describes.
        NoModelError, ModerationError: see `moderation.actions.moderate`.
    """
    adapter = ADAPTERS[connection.platform]
    comments = [comment for comment in adapter.read(headers, data) if comment.text]
    return adapter.respond([_moderate(connection, adapter, comment) for comment in comments])


@transaction.atomic
def _moderate(connection: Connection, adapter: Adapter, comment: IncomingComment) -> Submission.Outcome:
    received = None
    if comment.external_id:
        lock_until_commit(("connection", connection.pk, comment.external_id))
        received = _newest_revision(connection, comment.external_id)
    is_new = received is None or received.submission.prediction.text_hash != text_hash(comment.text)
    if received is None or is_new:
        result = moderation.moderate(
            text=comment.text,
            community=connection.community,
            author_ref=comment.author,
            external_id=comment.external_id,
            context=comment.context,
            source=Prediction.Source.CONNECTOR,
            is_shared_id=True,
            id_scope=str(connection.pk),
            previous=received.submission if received else None,
        )
        received = ReceivedComment.objects.create(
            submission=result.submission, connection=connection, reference=comment.reference
        )
    elif comment.reference != received.reference:
        received.reference = received.reference | comment.reference  # a status that was reported later
        received.save(update_fields=["reference"])
    submission = received.submission
    if comment.is_reported and (decision := submission.current_decision()) and not submission.items.exists():
        enqueue_item(
            submission=submission,
            policy=submission.policy,
            kind=QueueItem.Kind.REVIEW,
            label=decided_label(decision),
        )
    outcome = Submission.Outcome(submission.outcome)
    if is_new and adapter.flags and connection.sends_actions:
        _flag(received, outcome)
    return outcome


def _newest_revision(connection: Connection, external_id: str) -> ReceivedComment | None:
    comments = ReceivedComment.objects.filter(connection=connection, submission__external_id=external_id)
    return comments.select_related("submission__prediction").order_by("-submission__revision", "-pk").first()


def _flag(comment: ReceivedComment, outcome: Submission.Outcome) -> None:
    """Flag the comment on the platform, or remove the flag of its previous revision."""
    is_approved = outcome == Submission.Outcome.APPROVE
    is_flagged = _last_sent(comment) == PlatformAction.Kind.FLAG
    if is_approved != is_flagged:
        return
    PlatformAction.objects.create(
        comment=comment,
        kind=PlatformAction.Kind.APPROVE if is_approved else PlatformAction.Kind.FLAG,
        decision=comment.submission.current_decision() if is_approved else None,
    )
    enqueue(tasks.send_actions, str(comment.connection_id))


def create_due_actions() -> None:
    """Create actions for the decisions of moderators that are older than the time for an undo."""
    if not Connection.objects.exists():
        return
    now = timezone.now()
    decisions = Decision.objects.human().filter(
        created_at__gt=now - retries.GIVE_UP_AFTER,
        created_at__lte=now - moderation.UNDO,
        pk__gt=F("submission__received_comment__last_decision"),
    )
    comments = decisions.order_by("submission").values_list("submission", flat=True).distinct()
    for comment_id in comments[:MAX_COMMENTS]:
        _create_action(comment_id, until=now - moderation.UNDO)


@transaction.atomic
def _create_action(comment_id: UUID, until: datetime) -> None:
    """Create the actions that give the platform the comment's current decision, if it has another one."""
    comment = ReceivedComment.objects.select_for_update(of=("self",)).get(pk=comment_id)
    decisions = Decision.objects.filter(submission=comment_id, created_at__lte=until).order_by("-pk")
    newest = decisions[0]
    comment.last_decision = newest.pk
    comment.save(update_fields=["last_decision"])
    current, previous = decisions.in_force().first(), _last_sent(comment)
    adapter = ADAPTERS.get(comment.connection.platform)
    if adapter is None or not comment.connection.sends_actions or comment.submission.is_replaced:
        return
    for kind in _kinds_to_send(adapter, current, previous):
        decision = None if kind == PlatformAction.Kind.FLAG else current or newest
        action = PlatformAction(comment=comment, decision=decision, kind=kind)
        if adapter.supports(_describe(action)):
            action.save()


def _kinds_to_send(adapter: Adapter, current: Decision | None, previous: str) -> list[str]:
    """Return the kinds of the next actions after `previous`; `current` is None after an undo."""
    if current:
        needs_nothing = previous == current.action or (current.automatic and not previous)
        return [] if needs_nothing else [current.action]
    if not adapter.flags or previous in ("", PlatformAction.Kind.FLAG):
        return []
    # The comment waits for a moderator again, as when it was flagged.
    restoration = [PlatformAction.Kind.APPROVE] if previous == PlatformAction.Kind.REJECT else []
    return [*restoration, PlatformAction.Kind.FLAG]


def _last_sent(comment: ReceivedComment, before: int | None = None) -> str:
    """Return the kind of the newest action for any revision that did not fail, or an empty string."""
    if external_id := comment.submission.external_id:
        actions = PlatformAction.objects.filter(
            comment__connection=comment.connection_id, comment__submission__external_id=external_id
        )
    else:
        actions = comment.actions.all()
    actions = actions.exclude(status=PlatformAction.Status.FAILED).order_by("-pk")
    return (actions.filter(pk__lt=before) if before else actions).values_list("kind", flat=True).first() or ""


def _describe(action: PlatformAction) -> OutgoingAction:
    submission, decision = action.comment.submission, action.decision
    return OutgoingAction(
        kind=PlatformAction.Kind(action.kind),
        text=submission.text,
        author=submission.author.ref if submission.author else "",
        external_id=submission.external_id,
        reference=action.comment.reference,
        reason=decision.rule.reason if decision and decision.rule else "",
        previous=_last_sent(action.comment, action.pk),
    )


def _due(now: datetime) -> QuerySet[PlatformAction]:
    """Return the actions that are due. Those of one comment and its revisions are sent in order."""
    pending = PlatformAction.objects.filter(status=PlatformAction.Status.PENDING)
    earlier = pending.filter(
        Q(comment=OuterRef("comment"))
        | ~Q(comment__submission__external_id="")
        & Q(
            comment__connection=OuterRef("comment__connection"),
            comment__submission__external_id=OuterRef("comment__submission__external_id"),
        ),
        pk__lt=OuterRef("pk"),
    )
    return pending.filter(~Exists(earlier), send_after__lte=now, comment__connection__is_active=True).exclude(
        comment__connection__paused_until__gt=now
    )


def due_connections() -> list[UUID]:
    """Return the IDs of the connections with actions that are due."""
    due = _due(timezone.now()).order_by("comment__connection")
    return list(due.values_list("comment__connection", flat=True).distinct())


def send_actions(*, connection_id: str, seconds: float = _BATCH_SECONDS) -> int:
    """Send the actions that are due to a platform, and return how many were attempted.

    Another worker that sends to the platform makes it return 0.

    Args:
        seconds: the time after which the remaining actions are enqueued again.
    """
    lease = Lease.acquire(Connection.objects.filter(pk=connection_id), _LEASE_DURATION)
    if lease is None:
        return 0
    end, count = time.monotonic() + seconds, 0
    try:
        while (
            action := _due(timezone.now())
            .filter(comment__connection=UUID(connection_id))
            .order_by("pk")
            .first()
        ):
            if time.monotonic() >= end:
                enqueue(tasks.send_actions, connection_id)
                break
            if not lease.update():
                break
            _record(action, _attempt(action))
            count += 1
    finally:
        lease.release()
    return count


def _attempt(action: PlatformAction) -> retries.Attempt:
    connection = action.comment.connection
    adapter = ADAPTERS.get(connection.platform)
    if adapter is None or action.kind not in PlatformAction.Kind.values:
        return retries.Attempt(
            error="This version does not know the platform or the action.", is_permanent=True
        )
    try:
        return retries.attempt(lambda: adapter.send(connection, _describe(action)))
    except CommentNotFoundError as error:
        return retries.Attempt(error=str(error), is_permanent=True)


@transaction.atomic
def _record(action: PlatformAction, attempt: retries.Attempt) -> None:
    """Store the result of an attempt, and pause the connection if the platform can't process any action."""
    now = timezone.now()
    action.attempts += 1
    action.response_status, action.error = attempt.status, attempt.error[:300]
    if attempt.is_delivered:
        action.status, action.delivered_at = PlatformAction.Status.DELIVERED, now
    elif attempt.is_permanent or now >= action.retry_until:
        action.status = PlatformAction.Status.FAILED
    else:
        action.send_after = now + _wait(attempt, action.attempts)
    action.save(
        update_fields=["attempts", "response_status", "error", "status", "delivered_at", "send_after"]
    )
    connections = Connection.objects.filter(pk=action.comment.connection_id)
    if attempt.is_outage:
        failures = connections.values_list("failures", flat=True)[0] + 1
        connections.update(failures=failures, paused_until=now + _wait(attempt, failures))
    else:
        connections.update(failures=0, paused_until=None)


def _wait(attempt: retries.Attempt, failures: int) -> timedelta:
    if attempt.retry_after is not None:
        return attempt.retry_after
    return back_off(failures, first=retries.FIRST_WAIT, longest=retries.MAX_WAIT)


def resend(*, actor: Actor, actions: QuerySet[PlatformAction]) -> int:
    """Send failed actions again unless a later one was created for the comment; return how many.

    Raises:
        PermissionDeniedError: the actor may not change connections.
    """
    require(actor, "connectors.change_connection")
    same_id = ~Q(comment__submission__external_id="") & Q(
        comment__connection=OuterRef("comment__connection"),
        comment__submission__external_id=OuterRef("comment__submission__external_id"),
    )
    newer = PlatformAction.objects.filter(Q(comment=OuterRef("comment")) | same_id, pk__gt=OuterRef("pk"))
    failed = actions.filter(~Exists(newer), status=PlatformAction.Status.FAILED)
    now = timezone.now()
    return PlatformAction.objects.filter(pk__in=list(failed.values_list("pk", flat=True))).update(
        status=PlatformAction.Status.PENDING,
        attempts=0,
        send_after=now,
        retry_until=now + retries.GIVE_UP_AFTER,
    )
