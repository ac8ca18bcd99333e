"""The outbox: every webhook is tried until the platform confirms it, or given up where it is seen."""

import random
from datetime import timedelta

from django.db import transaction
from django.utils import timezone
from urllib3.exceptions import HTTPError

from apps.accounts.models import APIKey, User
from apps.moderation import webhooks
from apps.moderation.actions.background import enqueue
from apps.moderation.errors import ModerationError
from apps.moderation.models import Decision, Delivery, WebhookKey
from apps.moderation.permissions import require

MAX_ATTEMPTS = 12  # the last one some six hours after the first
_FIRST_WAIT = 10.0
_LONGEST_COUNTDOWN = 3_600.0  # what waits longer is left to the schedule, not to the broker
# While this lasts nobody else tries; after it, the sender is taken for dead.
_SENDING = timedelta(seconds=6 * webhooks.TIMEOUT_SECONDS)


def deliver(*, delivery_id: str) -> Delivery | None:
    """Send a delivery that is due; return it, or None where it is not due, cancelled or in other hands."""
    delivery = _take(delivery_id)
    if delivery is None:
        return None
    status, error = None, ""
    try:
        status = webhooks.send(delivery)
        if not 200 <= status < 300:
            error = f"The platform answered {status}."
    except webhooks.RefusedAddressError as refused:
        error = str(refused)
    except HTTPError as failure:
        error = f"{failure.__class__.__name__}: no answer."
    _settle(delivery, status, error)
    return delivery


@transaction.atomic
def _take(delivery_id: str) -> Delivery | None:
    now = timezone.now()
    delivery = (
        Delivery.objects.select_for_update(skip_locked=True, of=("self",))
        .select_related("client")
        .filter(
            pk=delivery_id, status__in=(Delivery.Status.PENDING, Delivery.Status.SENDING), send_after__lte=now
        )
        .first()
    )
    if delivery:
        delivery.status = Delivery.Status.SENDING
        delivery.attempts += 1
        delivery.send_after = now + _SENDING
        delivery.save(update_fields=["status", "attempts", "send_after"])
    return delivery


@transaction.atomic
def _settle(delivery: Delivery, response_status: int | None, error: str) -> None:
    now = timezone.now()
    delivery.response_status, delivery.error = response_status, error[:300]
    if not error:
        delivery.status, delivery.delivered_at = Delivery.Status.DELIVERED, now
    elif Decision.objects.filter(reverses=delivery.decision_id).exists():
        # Taken back while it was under way: the correction must not be overtaken by what it corrects.
        delivery.status = Delivery.Status.CANCELLED
    elif delivery.attempts >= MAX_ATTEMPTS:
        delivery.status = Delivery.Status.DEAD
    else:
        wait = _FIRST_WAIT * 2 ** (delivery.attempts - 1) * random.uniform(0.9, 1.1)
        delivery.status, delivery.send_after = Delivery.Status.PENDING, now + timedelta(seconds=wait)
        if wait < _LONGEST_COUNTDOWN:
            enqueue("deliver", str(delivery.pk), countdown=wait)
    # Only the attempt that still owns the row may write: a sender taken for dead comes too late.
    Delivery.objects.filter(
        pk=delivery.pk, status=Delivery.Status.SENDING, attempts=delivery.attempts
    ).update(
        status=delivery.status,
        send_after=delivery.send_after,
        response_status=delivery.response_status,
        error=delivery.error,
        delivered_at=delivery.delivered_at,
    )


def due_deliveries(*, late: timedelta = timedelta(0), limit: int = 200) -> list[str]:
    """Return the ids of the deliveries that have been due for so long, the oldest first."""
    ids = (
        Delivery.objects.filter(
            status__in=(Delivery.Status.PENDING, Delivery.Status.SENDING),
            send_after__lte=timezone.now() - late,
        )
        .order_by("send_after")
        .values_list("pk", flat=True)[:limit]
    )
    return [str(pk) for pk in ids]


@transaction.atomic
def resend(*, delivery_id: str, user: User) -> Delivery:
    """Begin anew with a delivery that was given up.

    Raises:
        PermissionDenied: the user may not.
        ModerationError: it was not given up.
    """
    delivery = Delivery.objects.select_for_update().filter(pk=delivery_id).first()
    community = delivery.payload.get("community") if delivery else None
    require(user, "moderation.resend_delivery", community=community)
    if delivery is None or delivery.status != Delivery.Status.DEAD:
        raise ModerationError("Only a delivery that was given up can be sent again.")
    delivery.status, delivery.attempts, delivery.send_after = Delivery.Status.PENDING, 0, timezone.now()
    delivery.save(update_fields=["status", "attempts", "send_after"])
    enqueue("deliver", str(delivery.pk))
    return delivery


@transaction.atomic
def rotate_webhook_key(*, client: APIKey, user: User) -> WebhookKey:
    """Give the client a further signing key; it and the one before sign from now on, older ones no more.

    Raises:
        PermissionDenied: the user may not change API keys.
    """
    require(user, "accounts.change_apikey")
    APIKey.objects.select_for_update().get(pk=client.pk)
    key = webhooks.new_key(client)
    kept = [active.pk for active in webhooks.active_keys(client)]
    WebhookKey.objects.filter(client=client, retired_at=None).exclude(pk__in=kept).update(
        retired_at=timezone.now()
    )
    return key


def retire_webhook_key(*, key: WebhookKey, user: User) -> None:
    """Let a key sign no more, once the platform has the newer one.

    Raises:
        PermissionDenied: the user may not change API keys.
    """
    require(user, "accounts.change_apikey")
    WebhookKey.objects.filter(pk=key.pk, retired_at=None).update(retired_at=timezone.now())
