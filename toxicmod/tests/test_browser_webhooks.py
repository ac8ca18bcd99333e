"""The webhook pages in headless Chromium: create, test and rotate a secret."""

import re
from collections.abc import Callable
from datetime import timedelta

import pytest
from django.contrib.auth.models import Group
from django.utils import timezone
from playwright.sync_api import expect
from uuid_utils.compat import uuid7

from apps.accounts.models import APIKey, User
from apps.moderation.models import Delivery, QueueItem
from apps.moderation.roles import create_roles
from apps.webhooks.models import Endpoint, SigningKey
from toxicmod.testing.browser import APPEARANCES, Visit, assert_sound
from toxicmod.testing.factories import decide_item
from toxicmod.testing.receivers import Receiver

pytestmark = pytest.mark.django_db(transaction=True)
WEBHOOKS = "/admin/moderation/queueitem/console/webhooks/"


@pytest.fixture
def admin(db: None) -> User:
    create_roles()
    user = User.objects.create_user("ada", password="correct horse battery", is_staff=True)
    user.all_communities = True
    user.save()
    user.groups.add(Group.objects.get(name="administrator"))
    return user


@pytest.mark.parametrize(("width", "theme"), APPEARANCES)
def test_webhook_pages_in_every_state(
    item: QueueItem,
    platform_key: APIKey,
    admin: User,
    visit: Callable[..., Visit],
    width: int,
    theme: str,
) -> None:
    opened = visit(WEBHOOKS, user=admin, width=width, theme=theme)
    expect(opened.page.get_by_text("No webhooks yet")).to_be_visible()
    assert_sound(opened, "webhooks-none")
    first = decide_item(item, admin).delivery
    assert first is not None
    error = "The receiver responded 400 Bad Request. Response: " + "W" * 160
    Delivery.objects.update(status="failed", error=error, attempts=1)
    for number in range(2):
        first.pk, first._state.adding = uuid7(), True
        first.status, first.error, first.attempts = ("failed", "pending")[number], error, 2
        first.save()
    Endpoint.objects.update(failures=4, paused_until=timezone.now() + timedelta(hours=1))
    opened.page.goto(WEBHOOKS)
    expect(opened.page.get_by_role("button", name="Send all 2 again")).to_be_visible()
    assert_sound(opened, "webhooks-failed")
    opened.page.get_by_role("link", name="Secret and test").click()
    assert_sound(opened, "webhooks-unsigned")


@pytest.mark.parametrize(("width", "theme"), [(1440, "light"), (390, "dark")])
def test_signing_secret_create_test_and_rotate(
    platform_key: APIKey,
    receiver: Receiver,
    admin: User,
    visit: Callable[..., Visit],
    width: int,
    theme: str,
) -> None:
    opened = visit(f"{WEBHOOKS}signing/{platform_key.pk}/", user=admin, width=width, theme=theme)
    page = opened.page
    page.get_by_role("button", name="Create secret").click()
    expect(page.locator(".secret")).to_have_text(re.compile("^[0-9a-f]{64}$"))
    assert_sound(opened, "webhooks-secret")
    page.reload()
    expect(page.locator(".secret")).to_have_count(0)
    page.get_by_label("URL of the receiver").fill(receiver.url)
    page.get_by_role("button", name="Send a test").click()
    expect(page.get_by_role("status")).to_contain_text("Delivered.")
    assert "Webhook-Signature" in receiver.got[0][0]
    receiver.status, receiver.body = 410, b"<b>gone</b>" * 90
    page.get_by_role("button", name="Send a test").click()
    expect(page.get_by_role("status")).to_contain_text("410 Gone")
    assert_sound(opened, "webhooks-test")
    # Two quick clicks rotate once: the second one is rejected, and the old secret remains active.
    page.get_by_role("button", name="Rotate secret").dblclick()
    expect(page.locator(".secret").or_(page.get_by_text("A rotation is in progress"))).to_be_visible()
    page.goto(f"{WEBHOOKS}signing/{platform_key.pk}/")
    expect(page.locator("summary", has_text="End now")).to_have_count(2)
    assert SigningKey.objects.active().count() == 2
    page.locator("summary", has_text="End now").last.click()
    page.get_by_label("I understand that this cannot be undone").last.check()
    page.get_by_role("button", name="End the old secret").click()
    expect(page.get_by_role("button", name="Rotate secret")).to_be_visible()
    for summary in page.locator(".example summary").all():
        summary.click()
    assert_sound(opened, "webhooks-examples")
