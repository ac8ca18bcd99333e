"""Tests that concern every page of the console."""

from typing import Any

import pytest
from django.core.cache import cache
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from apps.accounts.models import User
from apps.moderation import actions
from apps.moderation.models import (
    Decision,
    Delivery,
    Policy,
    QueueItem,
)
from toxicmod.testing.console import console_url
from toxicmod.testing.factories import create_queue_item

PAGES = {
    "item": 45,
    "profile": 20,
    "help": 10,
    "quality": 15,
    "bulk": 25,
    "policies": 12,
    "policy": 20,
    "webhooks": 15,
    "search": 20,
}


@pytest.mark.parametrize("name", PAGES)
def test_query_count_does_not_grow(
    model: Any, policy: Policy, lea: User, lead_client: Client, name: str
) -> None:
    def fill(count: int) -> None:
        for n in range(count):
            item = create_queue_item(
                f"insult=0.7 {name} number {n} of {count} {n * n}",
                author_ref="troll",
                callback_url="https://platform.example/hook",
            )
            held = actions.claim(item_id=item.pk, user=lea)
            actions.decide(
                item_id=held.pk,
                version=held.version,
                user=lea,
                action=Decision.Action.REJECT,
                rule=held.default_rule(),
            )
            create_queue_item(f"insult=0.7 {name} left {n} of {count} {n * n * 7}", author_ref="troll")
        Delivery.objects.update(status="failed", error="no")

    def queries() -> int:
        args = {"item": [QueueItem.objects.open().first().pk], "policy": [policy.pk]}.get(name, [])  # type: ignore[union-attr]
        query = {"q": "troll"} if name == "search" else {}
        lead_client.get(console_url(name, *args, **query))
        cache.clear()  # the sizes of views, which are cached for some seconds
        with CaptureQueriesContext(connection) as captured:
            assert lead_client.get(console_url(name, *args, **query)).status_code == 200
        return len(captured)

    fill(2)
    expected = queries()
    fill(8)
    assert queries() <= expected
    assert expected <= PAGES[name]
