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
from toxicmod.testing.console import console_url, decision_form, staff_client
from toxicmod.testing.factories import decide_item
from toxicmod.testing.receivers import Receiver

pytestmark = [pytest.mark.django_db, pytest.mark.database]


@pytest.fixture
def administrator_client(person: Callable[..., User]) -> Client:
    return staff_client(person("ada", "administrator"))


@pytest.fixture
def delivery(item: QueueItem, ann: User) -> Delivery:
    delivery = decide_item(item, ann).delivery
    assert delivery is not None
    return delivery


ALL_DELIVERED = "Every webhook has been delivered."


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, "1 is waiting to be sent."),
        ({"status": "sending", "attempts": 1}, "1 is waiting to be sent."),
        ({"attempts": 2, "error": "The receiver responded 500."}, "1 is being retried."),
        ({"status": "sending", "attempts": 3, "error": "no"}, "1 is being retried."),
        ({"status": "failed", "attempts": 1, "error": "no"}, "1 webhook failed."),
        ({"status": "delivered", "attempts": 1}, ALL_DELIVERED),
        ({"status": "cancelled"}, "No webhooks yet"),
    ],
)
def test_webhooks_summary_by_delivery_status(
    delivery: Delivery, lead_client: Client, fields: dict[str, Any], expected: str
) -> None:
    Delivery.objects.update(**fields)
    html = " ".join(lead_client.get(console_url("webhooks")).content.decode().split())
    assert expected in html.replace("</b>", "")
    assert (ALL_DELIVERED in html) == (expected == ALL_DELIVERED)


def test_webhooks_summary_covers_every_status() -> None:
    assert set(Delivery.Status) == {"pending", "sending", "delivered", "cancelled", "failed"}


def test_webhooks_without_deliveries(lead_client: Client) -> None:
    assert "No webhooks yet" in lead_client.get(console_url("webhooks")).content.decode()


def test_webhooks_lists_paused_endpoints(delivery: Delivery, lead_client: Client) -> None:
    Delivery.objects.update(attempts=2, error="no")
    Endpoint.objects.update(failures=4, paused_until=timezone.now() + timedelta(minutes=3))
    html = lead_client.get(console_url("webhooks")).content.decode()
    assert "https://platform.example</bdi> keeps failing" in html
    assert "once the receiver responds again" in html
    # A receiver that asked to wait has not failed repeatedly.
    Endpoint.objects.update(failures=1)
    html = lead_client.get(console_url("webhooks")).content.decode()
    assert "https://platform.example</bdi> cannot receive webhooks at the moment" in html
    paused_until = Endpoint.objects.get().paused_until
    assert html.count(f"{paused_until:%H:%M:%S} UTC") == 2


def test_item_history_shows_a_retried_webhook(delivery: Delivery, lead_client: Client) -> None:
    Delivery.objects.update(attempts=2, error="no")
    html = lead_client.get(console_url("item", delivery.decision.item_id)).content.decode()
    assert "being retried, 2 attempts failed" in html


def test_resend_all(delivery: Delivery, lead_client: Client, ann: User) -> None:
    Delivery.objects.update(status="failed", error="no", attempts=1)
    assert staff_client(ann).post(console_url("resend_all")).status_code == 403
    assert "1 webhook is being sent again" in lead_client.post(console_url("resend_all"), follow=True).text
    delivery.refresh_from_db()
    assert (delivery.status, delivery.attempts, delivery.error) == ("pending", 0, "no")


def test_signing_shows_a_new_secret_once(
    platform_key: APIKey, administrator_client: Client, lead_client: Client
) -> None:
    page, rotate = console_url("signing", platform_key.pk), console_url("rotate_signing_key", platform_key.pk)
    assert "not signed" in administrator_client.get(console_url("webhooks")).content.decode()
    assert "Signing secrets" not in lead_client.get(console_url("webhooks")).content.decode()
    assert lead_client.get(page).status_code == lead_client.post(rotate).status_code == 403
    assert "Webhooks to this platform are not signed" in administrator_client.get(page).content.decode()
    assert administrator_client.post(rotate).status_code == 302
    from apps.webhooks.signing import secret_of

    secret = secret_of(SigningKey.objects.get())
    response = administrator_client.get(page)
    assert secret in response.content.decode()
    assert "no-store" in response["Cache-Control"]
    assert secret not in administrator_client.get(page).content.decode()
    assert "two secrets" not in administrator_client.get(console_url("webhooks")).content.decode()


def test_rotate_and_end_signing_key(platform_key: APIKey, administrator_client: Client) -> None:
    page, rotate = console_url("signing", platform_key.pk), console_url("rotate_signing_key", platform_key.pk)
    administrator_client.post(rotate)
    assert administrator_client.post(rotate, {"overlap_hours": "1"}).status_code == 302
    old = SigningKey.objects.last()
    assert old is not None
    assert old.expires_at is not None
    assert old.expires_at - timezone.now() <= timedelta(hours=1)
    html = administrator_client.get(page).content.decode()
    assert "signed with both secrets" in html
    assert "Rotate secret" not in html
    assert "two secrets" in administrator_client.get(console_url("webhooks")).content.decode()
    second_click = administrator_client.post(rotate, {"overlap_hours": "1"})
    assert second_click.status_code == 422
    assert "A rotation is in progress" in second_click.content.decode()
    assert "This is the old secret." in html
    assert "This is the new secret.</b> The rotation is cancelled" in html
    end = console_url("end_signing_key", platform_key.pk, old.key_id)
    unconfirmed = administrator_client.post(end)
    assert unconfirmed.status_code == 422
    assert "<details open>" in unconfirmed.text
    assert 'role="alert">Tick the box to confirm. Nothing was changed.' in unconfirmed.text
    assert SigningKey.objects.active().count() == 2
    assert administrator_client.post(end, {"confirmed": "on"}).status_code == 302
    assert "Rotate secret" in administrator_client.get(page).content.decode()
    assert administrator_client.post(end, {"confirmed": "on"}).status_code == 422
    too_long = administrator_client.post(rotate, {"overlap_hours": "721"})
    assert too_long.status_code == 422
    assert 'role="alert">Ensure this value is less than or equal to 720.' in too_long.text
    assert administrator_client.get(console_url("signing", 0)).status_code == 404


def test_test_webhook_shows_the_response(
    platform_key: APIKey, administrator_client: Client, receiver: Receiver
) -> None:
    send = console_url("test_webhook", platform_key.pk)
    receiver.body = b"<script>alert(1)</script>"
    html = administrator_client.post(send, {"url": receiver.url}, follow=True).content.decode()
    assert "Delivered." in html
    assert "<dd>200</dd>" in html
    assert "&lt;script&gt;alert(1)" in html
    assert "not signed: the platform has no secret" in html
    signing = console_url("signing", platform_key.pk)
    assert administrator_client.post(send, {"url": receiver.url})["Location"] == f"{signing}#test"
    assert "Delivered." in administrator_client.get(signing).content.decode()
    assert "Delivered." not in administrator_client.get(signing).content.decode()  # shown once
    receiver.status = 503
    html = administrator_client.post(send, {"url": receiver.url}, follow=True).content.decode()
    assert "Not delivered." in html
    assert "503 Service Unavailable" in html
    response = administrator_client.post(send, {"url": "nonsense:"})
    assert response.status_code == 422
    assert 'role="alert">Enter a valid URL.' in response.text
    assert 'value="nonsense:"' in response.text


def test_signing_documents_verification(platform_key: APIKey, administrator_client: Client) -> None:
    html = administrator_client.get(console_url("signing", platform_key.pk)).content.decode()
    for expected in ("Webhook-Signature", "hmac.compare_digest", "timingSafeEqual", "hash_equals"):
        assert expected in html


def test_api_key_admin_links_to_signing(platform_key: APIKey, administrator_client: Client) -> None:
    page = administrator_client.get(reverse("admin:accounts_apikey_change", args=[platform_key.pk]))
    assert console_url("signing", platform_key.pk) in page.content.decode()
    assert administrator_client.get(reverse("admin:accounts_apikey_add")).status_code == 200


def test_resend(item: QueueItem, moderator_client: Client, lead_client: Client) -> None:
    moderator_client.get(console_url("item", item.pk))
    moderator_client.post(console_url("decide", item.pk), decision_form(item))
    Delivery.objects.update(status="failed", error="The receiver responded 400 Bad Request.")
    html = lead_client.get(console_url("webhooks")).content.decode()
    assert "The receiver responded 400 Bad Request." in html
    resend_url = console_url("resend", Delivery.objects.get().pk)
    assert moderator_client.post(resend_url).status_code == 403
    assert lead_client.post(resend_url).status_code == 302
    assert Delivery.objects.get().status == "pending"
