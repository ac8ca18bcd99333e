"""Tests of `console.webhooks`."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from apps.accounts.models import APIKey, User
from apps.moderation.models import Delivery, QueueItem
from apps.webhooks.models import Endpoint, SigningKey
from toxicmod.testing.factories import decide_item
from toxicmod.testing.receivers import Receiver

pytestmark = [pytest.mark.django_db, pytest.mark.database]


def url(name: str, *args: Any) -> str:
    return reverse(f"admin:moderation_{name}", args=args)


def signed_in(user: User) -> Client:
    User.objects.filter(pk=user.pk).update(is_staff=True)
    client = Client()
    client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
    return client


@pytest.fixture
def admin(person: Callable[..., User]) -> Client:
    return signed_in(person("ada", "administrator"))


@pytest.fixture
def lead(lea: User) -> Client:
    return signed_in(lea)


@pytest.fixture
def delivery(item: QueueItem, ann: User) -> Delivery:
    found = decide_item(item, ann).delivery
    assert found is not None
    return found


EVERYTHING = "Every webhook has been delivered."


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, "1 is waiting to be sent."),
        ({"status": "sending", "attempts": 1}, "1 is waiting to be sent."),
        ({"attempts": 2, "error": "The receiver responded 500."}, "1 is being retried."),
        ({"status": "sending", "attempts": 3, "error": "no"}, "1 is being retried."),
        ({"status": "failed", "attempts": 1, "error": "no"}, "1 webhook failed."),
        ({"status": "delivered", "attempts": 1}, EVERYTHING),
        ({"status": "cancelled"}, "No webhooks yet"),
    ],
)
def test_webhooks_summary_by_delivery_status(
    delivery: Delivery, lead: Client, fields: dict[str, Any], expected: str
) -> None:
    Delivery.objects.update(**fields)
    html = " ".join(lead.get(url("webhooks")).content.decode().split())
    assert expected in html.replace("</b>", "")
    assert (EVERYTHING in html) == (expected == EVERYTHING)
    assert "every platform has been told" not in html


def test_webhooks_summary_covers_every_status() -> None:
    assert set(Delivery.Status) == {"pending", "sending", "delivered", "cancelled", "failed"}


def test_webhooks_without_deliveries(lead: Client) -> None:
    assert "No webhooks yet" in lead.get(url("webhooks")).content.decode()


def test_webhooks_lists_paused_endpoints(delivery: Delivery, lead: Client) -> None:
    Delivery.objects.update(attempts=2, error="no")
    Endpoint.objects.update(failures=4, paused_until=timezone.now() + timedelta(minutes=3))
    html = lead.get(url("webhooks")).content.decode()
    assert "https://platform.example</bdi> keeps failing" in html
    assert "once the receiver responds again" in html


def test_item_history_shows_a_retried_webhook(delivery: Delivery, lead: Client) -> None:
    Delivery.objects.update(attempts=2, error="no")
    html = lead.get(url("item", delivery.decision.item_id)).content.decode()
    assert "being retried, 2 attempts failed" in html


def test_resend_all(delivery: Delivery, lead: Client, ann: User) -> None:
    Delivery.objects.update(status="failed", error="no", attempts=1)
    assert signed_in(ann).post(url("resend_all")).status_code == 403
    assert lead.post(url("resend_all")).status_code == 302
    delivery.refresh_from_db()
    assert (delivery.status, delivery.attempts, delivery.error) == ("pending", 0, "")


def test_signing_shows_a_new_secret_once(client_key: APIKey, admin: Client, lead: Client) -> None:
    page, rotate = url("signing", client_key.pk), url("rotate_signing_key", client_key.pk)
    assert "not signed" in admin.get(url("webhooks")).content.decode()
    assert "Signing secrets" not in lead.get(url("webhooks")).content.decode()
    assert lead.get(page).status_code == lead.post(rotate).status_code == 403
    assert "Webhooks to this platform are not signed" in admin.get(page).content.decode()
    assert admin.post(rotate).status_code == 302
    from apps.webhooks.signing import secret_of

    secret = secret_of(SigningKey.objects.get())
    shown = admin.get(page)
    assert secret in shown.content.decode()
    assert "no-store" in shown["Cache-Control"]
    assert secret not in admin.get(page).content.decode()
    assert "two secrets" not in admin.get(url("webhooks")).content.decode()


def test_rotate_and_end_signing_key(client_key: APIKey, admin: Client) -> None:
    page, rotate = url("signing", client_key.pk), url("rotate_signing_key", client_key.pk)
    admin.post(rotate)
    assert admin.post(rotate, {"overlap_hours": "1"}).status_code == 302
    old = SigningKey.objects.last()
    assert old is not None
    assert old.expires_at is not None
    assert old.expires_at - timezone.now() <= timedelta(hours=1)
    html = admin.get(page).content.decode()
    assert "signed with both secrets" in html
    assert "Rotate secret" not in html
    assert "two secrets" in admin.get(url("webhooks")).content.decode()
    second_click = admin.post(rotate, {"overlap_hours": "1"})
    assert second_click.status_code == 422
    assert "A rotation is in progress" in second_click.content.decode()
    assert admin.post(url("end_signing_key", client_key.pk, old.key_id)).status_code == 302
    assert "Rotate secret" in admin.get(page).content.decode()
    assert admin.post(url("end_signing_key", client_key.pk, old.key_id)).status_code == 422
    assert admin.post(rotate, {"overlap_hours": "721"}).status_code == 422
    assert admin.get(url("signing", 0)).status_code == 404


def test_test_webhook_shows_the_response(client_key: APIKey, admin: Client, receiver: Receiver) -> None:
    send = url("test_webhook", client_key.pk)
    receiver.body = b"<script>alert(1)</script>"
    html = admin.post(send, {"url": receiver.url}).content.decode()
    assert "Delivered." in html
    assert "<dd>200</dd>" in html
    assert "&lt;script&gt;alert(1)" in html
    assert "not signed: the platform has no secret" in html
    receiver.status = 503
    html = admin.post(send, {"url": receiver.url}).content.decode()
    assert "Not delivered." in html
    assert "503 Service Unavailable" in html
    assert admin.post(send, {"url": "nonsense:"}).status_code == 422


def test_signing_documents_verification(client_key: APIKey, admin: Client) -> None:
    html = admin.get(url("signing", client_key.pk)).content.decode()
    for expected in ("Webhook-Signature", "hmac.compare_digest", "timingSafeEqual", "hash_equals"):
        assert expected in html


def test_api_key_admin_links_to_signing(client_key: APIKey, admin: Client) -> None:
    page = admin.get(reverse("admin:accounts_apikey_change", args=[client_key.pk]))
    assert url("signing", client_key.pk) in page.content.decode()
    assert admin.get(reverse("admin:accounts_apikey_add")).status_code == 200
