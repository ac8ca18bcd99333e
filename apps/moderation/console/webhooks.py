"""The console's pages about webhooks: what failed, what is retried, signing secrets and tests."""

from datetime import timedelta
from typing import Any
from uuid import UUID

from django.db.models import Count, OuterRef, QuerySet, Subquery
from django.db.models.functions import Coalesce
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils import timezone
from django.views.decorators.cache import never_cache

from apps.accounts.models import APIKey, User
from apps.moderation import actions
from apps.moderation.actions.deliveries import PAUSE_AFTER
from apps.moderation.console.doors import door, page, user_of
from apps.moderation.console.forms import RotateForm, TestWebhookForm
from apps.moderation.errors import ModerationError
from apps.moderation.models import Delivery
from apps.moderation.permissions import require
from apps.moderation.selectors import visible
from apps.webhooks import actions as signing_actions
from apps.webhooks import signing as signatures
from apps.webhooks.actions import MANAGE_KEYS, Actor
from apps.webhooks.examples import examples
from apps.webhooks.exceptions import WebhookError
from apps.webhooks.models import Endpoint, SigningKey
from apps.webhooks.retries import Attempt
from apps.webhooks.transport import DEADLINE_SECONDS

_NEW_KEY = "new_signing_key"
OVERLAPS = [(0, "no time"), (1, "1 hour"), (24, "24 hours"), (168, "7 days"), (720, "30 days")]


def visible_deliveries(user: User) -> QuerySet[Delivery]:
    """Return the deliveries that the user may see.

    Raises:
        PermissionDenied: the user may not see deliveries.
    """
    require(user, "moderation.view_delivery")
    return visible(user, Delivery.objects.all())


@door()
def webhooks(request: HttpRequest) -> HttpResponse:
    """Show the deliveries that failed and those that are being retried, and the platforms' signing state."""
    user = user_of(request)
    deliveries = visible_deliveries(user)
    rows = deliveries.select_related("client", "decision", "endpoint").order_by("-id")
    failed = rows.filter(status=Delivery.Status.FAILED)
    retried = rows.filter(status__in=Delivery.UNFINISHED).exclude(error="")
    unfinished = deliveries.filter(status__in=Delivery.UNFINISHED)
    context = {
        "title": "Webhooks",
        "failed": failed[:100],
        "failed_count": failed.count(),
        "retried": retried[:20],
        "retried_count": retried.count(),
        "waiting_count": unfinished.filter(error="").count(),
        "delivered_count": deliveries.filter(status=Delivery.Status.DELIVERED)[:1].count(),
        "paused": Endpoint.objects.filter(
            pk__in=unfinished.values("endpoint"), paused_until__gt=timezone.now()
        )[:20],
        "pause_after": PAUSE_AFTER,
        "may_resend": user.has_perm("moderation.resend_delivery"),
        "clients": _clients() if user.has_perm(MANAGE_KEYS) else [],
    }
    return page(request, "webhooks", context, here="webhooks")


def _clients() -> QuerySet[APIKey]:
    active = SigningKey.objects.active().filter(client=OuterRef("pk")).order_by().values("client")
    count = Subquery(active.annotate(count=Count("pk")).values("count"))
    return APIKey.objects.active().annotate(signing_keys=Coalesce(count, 0))


@door("POST")
def resend(request: HttpRequest, pk: UUID) -> HttpResponse:
    """Send a failed delivery again."""
    actions.resend(delivery_id=str(pk), user=user_of(request))
    return redirect("admin:moderation_webhooks")


@door("POST")
def resend_all(request: HttpRequest) -> HttpResponse:
    """Send every failed delivery again that the user may see."""
    user = user_of(request)
    failed = visible_deliveries(user).filter(status=Delivery.Status.FAILED).order_by("pk")
    actions.resend_all(deliveries=failed, user=user)
    return redirect("admin:moderation_webhooks")


def _client(request: HttpRequest, pk: int) -> tuple[APIKey, Actor]:
    """Return the API key, and the user as one who may manage its signing keys."""
    actor = Actor.for_user(user_of(request))
    client = APIKey.objects.filter(pk=pk).first()
    if client is None:
        raise Http404
    return client, actor


@door()
@never_cache
def signing(request: HttpRequest, pk: int) -> HttpResponse:
    """Show a platform's signing keys; the secret of one that this session has just created, once."""
    client, _ = _client(request, pk)
    context: dict[str, Any] = {}
    new_key = SigningKey.objects.filter(client=client, key_id=request.session.pop(_NEW_KEY, "")).first()
    if new_key:
        context = {"secret_key": new_key, "secret": signatures.secret_of(new_key)}
    return _signing_page(request, client, context)


def _signing_page(request: HttpRequest, client: APIKey, context: dict[str, Any]) -> HttpResponse:
    keys = SigningKey.objects.filter(client=client)[:10]
    last = visible(user_of(request), Delivery.objects.filter(client=client)).order_by("-pk").first()
    shared = {
        "title": f"Webhooks of {client.name}",
        "client": client,
        "keys": keys,
        "is_rotating": sum(key.is_active for key in keys) > 1,
        "is_signed": any(key.is_active for key in keys),
        "overlaps": OVERLAPS,
        "test_url": last.url if last else "",
        "deadline": DEADLINE_SECONDS,
        "examples": examples(),
    }
    return page(request, "signing", shared | context, here="webhooks")


@door("POST")
def rotate_signing_key(request: HttpRequest, pk: int) -> HttpResponse:
    """Create or rotate a platform's secret, which the next page shows."""
    client, actor = _client(request, pk)
    form = RotateForm(request.POST)
    if not form.is_valid():
        raise form.refusal()
    hours = form.cleaned_data["overlap_hours"]
    try:
        key, _ = signing_actions.rotate_signing_key(
            client=client,
            actor=actor,
            overlap=signing_actions.DEFAULT_OVERLAP if hours is None else timedelta(hours=hours),
        )
    except WebhookError as error:
        if _NEW_KEY in request.session.load():  # a second click, before the page has shown the secret
            return redirect("admin:moderation_signing", pk)
        raise ModerationError(str(error)) from error
    request.session[_NEW_KEY] = key.key_id
    return redirect("admin:moderation_signing", pk)


@door("POST")
def end_signing_key(request: HttpRequest, pk: int, key_id: str) -> HttpResponse:
    """End one of two active secrets."""
    client, actor = _client(request, pk)
    try:
        signing_actions.end_signing_key(client=client, key_id=key_id, actor=actor)
    except WebhookError as error:
        raise ModerationError(str(error)) from error
    return redirect("admin:moderation_signing", pk)


@door("POST")
def test_webhook(request: HttpRequest, pk: int) -> HttpResponse:
    """Send a test webhook and show how it ended."""
    client, actor = _client(request, pk)
    form = TestWebhookForm(request.POST)
    if not form.is_valid():
        raise form.refusal()
    url = form.cleaned_data["url"]
    try:
        attempt: Attempt = signing_actions.send_test(client=client, url=url, actor=actor)
    except WebhookError as error:
        raise ModerationError(str(error)) from error
    return _signing_page(request, client, {"attempt": attempt, "test_url": url})
