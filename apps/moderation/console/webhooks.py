"""The webhook pages: failed and retried deliveries, signing secrets, and test webhooks."""

from datetime import timedelta
from typing import Any
from uuid import UUID

from django.contrib import messages
from django.db.models import Count, OuterRef, QuerySet, Subquery
from django.db.models.functions import Coalesce
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.cache import never_cache

from apps.accounts.models import APIKey, User
from apps.accounts.permissions import get_user, require
from apps.core.text import pluralize
from apps.moderation import actions
from apps.moderation.actions.deliveries import PAUSE_AFTER
from apps.moderation.console.forms import RotateForm, TestWebhookForm
from apps.moderation.console.views import console_view, render_page
from apps.moderation.models import Delivery
from apps.moderation.selectors import visible
from apps.webhooks import actions as signing_actions
from apps.webhooks import signing as signatures
from apps.webhooks.actions import MANAGE_KEYS_PERMISSION
from apps.webhooks.examples import examples
from apps.webhooks.exceptions import WebhookError
from apps.webhooks.models import Endpoint, SigningKey
from apps.webhooks.retries import Attempt
from apps.webhooks.transport import DEADLINE_SECONDS

_NEW_KEY = "new_signing_key"  # in the session: id of a key whose secret was not shown yet
_TEST = "test_webhook"  # in the session: result of a test that was not shown yet
_TEST_RESULT = ("error", "status", "excerpt", "seconds")
_MAX_FAILED = 100
_MAX_RETRIED = 20
_MAX_PAUSED = 20
_MAX_KEYS = 10
OVERLAPS = [(0, "0 hours"), (1, "1 hour"), (24, "24 hours"), (168, "7 days"), (720, "30 days")]


def visible_deliveries(user: User) -> QuerySet[Delivery]:
    """Return the deliveries that the user may see.

    Raises:
        PermissionDeniedError: the user may not see deliveries.
    """
    require(user, "moderation.view_delivery")
    return visible(user, Delivery.objects.all())


@console_view()
def webhooks(request: HttpRequest) -> HttpResponse:
    """Show failed and retried deliveries, and which platforms' webhooks are signed."""
    user = get_user(request)
    deliveries = visible_deliveries(user)
    rows = deliveries.select_related("api_key", "decision", "endpoint").order_by("-id")
    failed = rows.filter(status=Delivery.Status.FAILED)
    retried = rows.filter(status__in=Delivery.UNFINISHED).exclude(error="")
    unfinished = deliveries.filter(status__in=Delivery.UNFINISHED)
    context = {
        "title": "Webhooks",
        "failed": failed[:_MAX_FAILED],
        "failed_count": failed.count(),
        "retried": retried[:_MAX_RETRIED],
        "retried_count": retried.count(),
        "waiting_count": unfinished.filter(error="").count(),
        "delivered_count": deliveries.filter(status=Delivery.Status.DELIVERED)[:1].count(),
        "paused": Endpoint.objects.filter(
            pk__in=unfinished.values("endpoint"), paused_until__gt=timezone.now()
        )[:_MAX_PAUSED],
        "pause_after": PAUSE_AFTER,
        "may_resend": user.has_perm("moderation.resend_delivery"),
        "api_keys": _api_keys() if user.has_perm(MANAGE_KEYS_PERMISSION) else [],
    }
    return render_page(request, "webhooks", context, section="webhooks")


def _api_keys() -> QuerySet[APIKey]:
    active = SigningKey.objects.active().filter(api_key=OuterRef("pk")).order_by().values("api_key")
    count = Subquery(active.annotate(count=Count("pk")).values("count"))
    return APIKey.objects.active().annotate(signing_keys=Coalesce(count, 0))


@console_view("POST")
def resend(request: HttpRequest, pk: UUID) -> HttpResponse:
    """Send a failed delivery again."""
    actions.resend(delivery_id=str(pk), user=get_user(request))
    messages.success(request, "The webhook is being sent again. Reload this page for the result.")
    return redirect("admin:moderation_webhooks")


@console_view("POST")
def resend_all(request: HttpRequest) -> HttpResponse:
    """Send all failed deliveries again that the user may see."""
    user = get_user(request)
    failed = visible_deliveries(user).filter(status=Delivery.Status.FAILED).order_by("pk")
    count = actions.resend_all(deliveries=failed, user=user)
    sent = pluralize(count, "webhook is", "webhooks are")
    messages.success(request, f"{sent} being sent again. Reload this page for the result.")
    return redirect("admin:moderation_webhooks")


def _api_key_and_user(request: HttpRequest, pk: int) -> tuple[APIKey, User]:
    """Return the platform's API key, and the user, who may manage its signing keys.

    Raises:
        PermissionDeniedError: the user may not manage signing keys.
        Http404: there is no such API key.
    """
    user = get_user(request)
    require(user, MANAGE_KEYS_PERMISSION)
    api_key = APIKey.objects.filter(pk=pk).first()
    if api_key is None:
        raise Http404
    return api_key, user


@console_view()
@never_cache
def signing(request: HttpRequest, pk: int) -> HttpResponse:
    """Show a platform's signing keys, and once the secret of the key that this session just created."""
    api_key, _ = _api_key_and_user(request, pk)
    context: dict[str, Any] = {}
    if attempt := request.session.pop(f"{_TEST} {pk}", None):
        context |= {"attempt": Attempt(**attempt["result"]), "test_url": attempt["url"]}
    new_key = SigningKey.objects.filter(api_key=api_key, key_id=request.session.pop(_NEW_KEY, "")).first()
    if new_key:
        context |= {"secret_key": new_key, "secret": signatures.secret_of(new_key)}
    return _signing_page(request, api_key, context)


def _signing_page(
    request: HttpRequest, api_key: APIKey, context: dict[str, Any], status: int = 200
) -> HttpResponse:
    keys = SigningKey.objects.filter(api_key=api_key)[:_MAX_KEYS]
    newest = visible(get_user(request), Delivery.objects.filter(api_key=api_key)).order_by("-pk").first()
    shared = {
        "title": f"Webhooks of {api_key.name}",
        "api_key": api_key,
        "keys": keys,
        "is_rotating": sum(key.is_active for key in keys) > 1,
        "is_signed": any(key.is_active for key in keys),
        "overlaps": OVERLAPS,
        "test_url": newest.url if newest else "",
        "deadline": DEADLINE_SECONDS,
        "examples": examples(),
    }
    return render_page(request, "signing", shared | context, section="webhooks", status=status)


@console_view("POST")
def rotate_signing_key(request: HttpRequest, pk: int) -> HttpResponse:
    """Create or rotate a platform's secret; the page of the redirect shows it once."""
    api_key, user = _api_key_and_user(request, pk)
    form = RotateForm(request.POST)
    if not form.is_valid():
        return _signing_page(request, api_key, {"rotate_form": form}, status=422)
    hours = form.cleaned_data["overlap_hours"]
    try:
        key, _ = signing_actions.rotate_signing_key(
            api_key=api_key,
            actor=user,
            overlap=signing_actions.DEFAULT_OVERLAP if hours is None else timedelta(hours=hours),
        )
    except WebhookError:
        if _NEW_KEY in request.session.load():  # a double click: the secret was not shown yet
            return redirect("admin:moderation_signing", pk)
        raise
    request.session[_NEW_KEY] = key.key_id
    return redirect("admin:moderation_signing", pk)


@console_view("POST")
def end_signing_key(request: HttpRequest, pk: int, key_id: str) -> HttpResponse:
    """Deactivate one of two active secrets, if the user has confirmed it."""
    api_key, user = _api_key_and_user(request, pk)
    if "confirmed" not in request.POST:
        return _signing_page(request, api_key, {"unconfirmed": key_id}, status=422)
    signing_actions.end_signing_key(api_key=api_key, key_id=key_id, actor=user)
    return redirect("admin:moderation_signing", pk)


@console_view("POST")
def test_webhook(request: HttpRequest, pk: int) -> HttpResponse:
    """Send a test webhook; the page of the redirect shows the receiver's response once."""
    api_key, user = _api_key_and_user(request, pk)
    form = TestWebhookForm(request.POST)
    url = request.POST.get("url", "")
    if form.is_valid():
        url = form.cleaned_data["url"]
        try:
            attempt = signing_actions.send_test(api_key=api_key, url=url, actor=user)
        except WebhookError as error:  # other tests are being sent
            form.add_error("url", str(error))
    if form.errors:
        return _signing_page(request, api_key, {"test_form": form, "test_url": url}, status=422)
    result = {name: getattr(attempt, name) for name in _TEST_RESULT}
    request.session[f"{_TEST} {pk}"] = {"url": url, "result": result}
    return redirect(reverse("admin:moderation_signing", args=[pk]) + "#test")
