"""Send the webhooks of the outbox, with retries.

The deliveries of one endpoint are sent one at a time, so that a slow receiver occupies at most one worker. An
endpoint that fails repeatedly is paused; then its oldest delivery probes it, and the others follow in order
once it responds. Deliveries about the same comment are sent in order.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

from django.db import transaction
from django.db.models import Exists, Min, OuterRef, Q, QuerySet
from django.utils import timezone

from apps.accounts.models import User
from apps.accounts.permissions import require
from apps.core.enqueue import enqueue
from apps.core.retries import back_off
from apps.moderation import tasks
from apps.moderation.exceptions import ModerationError
from apps.moderation.models import Decision, Delivery
from apps.webhooks import retries, signing
from apps.webhooks.models import Endpoint
from apps.webhooks.retries import Attempt
from apps.webhooks.transport import DEADLINE_SECONDS

PAUSE_AFTER = 3  # failures in a row
MAX_PAUSE = timedelta(minutes=5)
MAX_BUSY_PER_API_KEY = 4  # endpoints at a time, so that one platform can't occupy every worker
PROBE_WITH_OTHERS_AFTER = timedelta(hours=2)
MAX_RESEND = 1_000
_BATCH_SECONDS = 20.0  # then the worker continues with another endpoint
_MIN_WAIT = timedelta(seconds=1)
# After this time another worker may send, because the first one was probably killed.
_LEASE_DURATION = timedelta(seconds=6 * DEADLINE_SECONDS)


def create_delivery(
    *,
    decision: Decision,
    api_key_id: int | None,
    event: Delivery.Event,
    url: str,
    payload: dict[str, Any],
    wait: timedelta,
) -> Delivery:
    """Put a webhook into the outbox, to be sent after `wait`."""
    parts = urlsplit(url)
    endpoint, _ = Endpoint.objects.get_or_create(
        api_key_id=api_key_id, origin=f"{parts.scheme}://{parts.netloc.lower()}"
    )
    send_after = timezone.now() + wait
    delivery = Delivery.objects.create(
        decision=decision,
        api_key_id=api_key_id,
        endpoint=endpoint,
        event=event,
        url=url,
        payload=payload,
        send_after=send_after,
        retry_until=send_after + retries.GIVE_UP_AFTER,
    )
    enqueue(tasks.deliver, str(delivery.pk), countdown=wait.total_seconds() + 0.5)
    return delivery


def deliver(*, delivery_id: str) -> Delivery | None:
    """Send a delivery; return it, or None if it is not due or another worker sends to the endpoint."""
    delivery = Delivery.objects.filter(pk=delivery_id).first()
    if delivery is None:
        return None
    with _lease(delivery.endpoint_id) as lease:
        return _send_next(lease, delivery_id) if lease else None


def deliver_endpoint(
    *, endpoint_id: int, limit: int | None = None, seconds: float = _BATCH_SECONDS
) -> list[Delivery]:
    """Send an endpoint's due deliveries in order; return those that were attempted.

    Args:
        limit: the maximum number of deliveries.
        seconds: the time after which the remaining deliveries are enqueued again.
    """
    end = time.monotonic() + seconds
    attempted: list[Delivery] = []
    with _lease(endpoint_id) as lease:
        while lease and (limit is None or len(attempted) < limit):
            if time.monotonic() >= end:
                enqueue(tasks.deliver_endpoint, endpoint_id)
                break
            delivery = _send_next(lease)
            if delivery is None:
                break
            attempted.append(delivery)
    return attempted


def due_endpoints(*, overdue: timedelta = timedelta(0), limit: int = 200) -> list[int]:
    """Return the ids of the endpoints with deliveries that have been due for `overdue`, longest first."""
    now = timezone.now()
    return list(
        Delivery.objects.filter(_due(now - overdue), status__in=Delivery.UNFINISHED)
        .exclude(endpoint__paused_until__gt=now)
        .exclude(endpoint__busy_until__gt=now)
        .values("endpoint")
        .annotate(since=Min("send_after"))
        .order_by("since")
        .values_list("endpoint", flat=True)[:limit]
    )


def _due(now: datetime) -> Q:
    """Return the condition for a delivery to be due.

    Retries at an endpoint that fails repeatedly are due as soon as its pause is over, but none before the
    moment that the receiver asked for.
    """
    probes = Q(endpoint__failures__gte=PAUSE_AFTER, status=Delivery.Status.PENDING, attempts__gt=0)
    may_retry = Q(not_before=None) | Q(not_before__lte=now)
    return (Q(send_after__lte=now) | probes) & may_retry


class _Lease:
    """The exclusive right to send to an endpoint until `busy_until`."""

    def __init__(self, endpoint_id: int) -> None:
        self.endpoint_id = endpoint_id
        self.busy_until: datetime | None = None

    def acquire(self) -> bool:
        """Acquire or renew the lease; return False if another worker has it or the endpoint is paused."""
        now = timezone.now()
        free = (
            Q(busy_until=self.busy_until) if self.busy_until else Q(busy_until=None) | Q(busy_until__lte=now)
        )
        endpoint = Endpoint.objects.filter(free, pk=self.endpoint_id).exclude(paused_until__gt=now)
        if not endpoint.update(busy_until=now + _LEASE_DURATION):
            return False
        self.busy_until = now + _LEASE_DURATION
        return True

    def release(self) -> None:
        if self.busy_until:
            Endpoint.objects.filter(pk=self.endpoint_id, busy_until=self.busy_until).update(busy_until=None)

    def endpoint(self) -> Endpoint:
        """Return the endpoint from the database."""
        return Endpoint.objects.get(pk=self.endpoint_id)


@contextmanager
def _lease(endpoint_id: int) -> Iterator[_Lease | None]:
    api_key = Endpoint.objects.filter(pk=endpoint_id).values("api_key")
    busy = Endpoint.objects.filter(api_key__in=api_key, busy_until__gt=timezone.now())
    lease = _Lease(endpoint_id)
    is_acquired = busy.count() < MAX_BUSY_PER_API_KEY and lease.acquire()
    try:
        yield lease if is_acquired else None
    finally:
        lease.release()


def _send_next(lease: _Lease, delivery_id: str | None = None) -> Delivery | None:
    """Send this delivery or, by default, the endpoint's next one; return None if it is not due."""
    if not lease.acquire():
        return None
    delivery = _claim_delivery(lease.endpoint(), delivery_id)
    if delivery is None:
        return None
    _record_attempt(
        delivery,
        lease.endpoint_id,
        retries.attempt(
            lambda: signing.send(
                delivery_id=str(delivery.pk),
                attempt=delivery.attempts,
                url=delivery.url,
                payload=delivery.payload,
                api_key=delivery.api_key,
            )
        ),
    )
    return delivery


@transaction.atomic
def _claim_delivery(endpoint: Endpoint, delivery_id: str | None) -> Delivery | None:
    now = timezone.now()
    earlier = Delivery.objects.filter(
        decision__submission=OuterRef("decision__submission"),
        decision__lt=OuterRef("decision"),
        status__in=Delivery.UNFINISHED,
    )
    due = (
        Delivery.objects.select_for_update(skip_locked=True, of=("self",))
        .select_related("api_key")
        .filter(_due(now), ~Exists(earlier), endpoint=endpoint, status__in=Delivery.UNFINISHED)
        .order_by("pk")
    )
    delivery = (due.filter(pk=delivery_id) if delivery_id else due).first()
    if (
        delivery
        and not delivery_id
        and endpoint.failures >= PAUSE_AFTER
        and delivery.created_at < now - PROBE_WITH_OTHERS_AFTER
    ):
        # The receiver may reject only this delivery, so a different one probes the endpoint.
        delivery = due.order_by("attempts", "pk").first()
    if delivery:
        delivery.status = Delivery.Status.SENDING
        delivery.attempts += 1
        delivery.send_after = now + _LEASE_DURATION
        delivery.save(update_fields=["status", "attempts", "send_after"])
    return delivery


@transaction.atomic
def _record_attempt(delivery: Delivery, endpoint_id: int, attempt: Attempt) -> None:
    now = timezone.now()
    delivery.response_status, delivery.error = attempt.status, attempt.error[:300]
    if attempt.is_delivered:
        delivery.status, delivery.delivered_at = Delivery.Status.DELIVERED, now
    elif Decision.objects.filter(reverses=delivery.decision_id).exists():
        # The decision was undone meanwhile: a retry could arrive after the correction.
        delivery.status = Delivery.Status.CANCELLED
    elif attempt.is_permanent or now >= delivery.retry_until:
        delivery.status = Delivery.Status.FAILED
    else:
        wait = (
            attempt.retry_after
            if attempt.retry_after is not None
            else back_off(delivery.attempts, first=retries.FIRST_WAIT, longest=retries.MAX_WAIT)
        )
        delivery.status, delivery.send_after = Delivery.Status.PENDING, now + max(wait, _MIN_WAIT)
    delivery.not_before = now + attempt.retry_after if attempt.retry_after is not None else None
    # If another worker has taken over the delivery, this attempt must not overwrite its result.
    is_owner = Delivery.objects.filter(
        pk=delivery.pk, status=Delivery.Status.SENDING, attempts=delivery.attempts
    ).update(
        status=delivery.status,
        send_after=delivery.send_after,
        not_before=delivery.not_before,
        response_status=delivery.response_status,
        error=delivery.error,
        delivered_at=delivery.delivered_at,
    )
    if is_owner:
        _record_health(Endpoint.objects.select_for_update().get(pk=endpoint_id), delivery, attempt, now)


def _record_health(endpoint: Endpoint, delivery: Delivery, attempt: Attempt, now: datetime) -> None:
    """Pause an endpoint that fails repeatedly; when it responds again, make its retries due."""
    was_paused = endpoint.failures >= PAUSE_AFTER
    if attempt.is_delivered or (attempt.is_permanent and attempt.status is not None):
        if endpoint.failures or endpoint.paused_until:
            endpoint.failures, endpoint.paused_until = 0, None
            endpoint.save(update_fields=["failures", "paused_until"])
        if was_paused:
            Delivery.objects.filter(
                endpoint=endpoint, status=Delivery.Status.PENDING, attempts__gt=0, send_after__gt=now
            ).update(send_after=now)
        return
    # A response such as 500 may concern one delivery only, so its retries do not count against the endpoint.
    if attempt.is_permanent or not (attempt.is_outage or delivery.attempts == 1 or was_paused):
        return
    endpoint.failures += 1
    if attempt.is_timeout:
        # A timeout occupies a worker until the deadline, so the first one pauses the endpoint.
        endpoint.failures = max(endpoint.failures, PAUSE_AFTER)
    waits = [attempt.retry_after] if attempt.retry_after is not None and attempt.is_outage else []
    if endpoint.failures >= PAUSE_AFTER:
        waits.append(
            back_off(endpoint.failures - PAUSE_AFTER + 1, first=retries.FIRST_WAIT, longest=MAX_PAUSE)
        )
    endpoint.paused_until = now + max(waits) if waits else None
    endpoint.save(update_fields=["failures", "paused_until"])


@transaction.atomic
def resend(*, delivery_id: str, user: User) -> Delivery:
    """Send a failed delivery again; until then, it keeps the error of the last attempt.

    Raises:
        PermissionDeniedError: the user may not.
        ModerationError: it has not failed, or the platform has received a later decision on the comment.
    """
    delivery = Delivery.objects.select_for_update().filter(pk=delivery_id).first()
    community = delivery.payload.get("community") if delivery else None
    require(user, "moderation.resend_delivery", community=community)
    if delivery is None or delivery.status != Delivery.Status.FAILED:
        raise ModerationError("Only a webhook that failed can be sent again.")
    newer = Delivery.objects.filter(
        decision__submission=delivery.decision.submission_id,
        decision__gt=delivery.decision_id,
        status=Delivery.Status.DELIVERED,
    ).first()
    if newer:
        raise ModerationError(
            "The platform has received a later decision on this comment; this one would overwrite it."
        )
    now = timezone.now()
    delivery.status, delivery.attempts = Delivery.Status.PENDING, 0
    delivery.send_after, delivery.not_before = now, None
    delivery.retry_until = now + retries.GIVE_UP_AFTER
    delivery.save()
    enqueue(tasks.deliver, str(delivery.pk))
    return delivery


def resend_all(*, deliveries: QuerySet[Delivery], user: User) -> int:
    """Send failed deliveries again, except outdated ones; return how many.

    Raises:
        PermissionDeniedError: the user may not.
    """
    require(user, "moderation.resend_delivery")
    count = 0
    for delivery_id in deliveries.values_list("pk", flat=True)[:MAX_RESEND]:
        try:
            resend(delivery_id=str(delivery_id), user=user)
        except ModerationError:
            continue
        count += 1
    return count
