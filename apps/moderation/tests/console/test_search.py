"""Tests of `console.search`."""

from typing import Any

import pytest
from django.test import Client

from apps.accounts.models import User
from apps.moderation.models import (
    Policy,
)
from toxicmod.testing.console import console_url
from toxicmod.testing.factories import create_queue_item, restrict_to_communities


@pytest.mark.parametrize("key", ["number", "external", "session", "community", "author", "prediction"])
def test_search(model: Any, policy: Policy, platform_key: Any, moderator_client: Client, key: str) -> None:
    item = create_queue_item(
        "insult=0.7",
        api_key=platform_key,
        external_id="c-17",
        author_ref="hooligan",
        session_id="s-4",
        community="cats",
    )
    create_queue_item("insult=0.7", author_ref="other")
    queries = {
        "number": item.pk,
        "external": "c-17",
        "session": "s-4",
        "community": "cats",
        "author": "hooligan",
        "prediction": item.submission_id,
    }
    response = moderator_client.get(console_url("search", q=queries[key]))
    assert response["Location"] == console_url("item", item.pk)
    assert "No items found" in moderator_client.get(console_url("search", q="nobody")).content.decode()


@pytest.mark.parametrize("query", ["c-17", "s-4", "cats", "hooligan"])
def test_search_hides_other_communities(
    model: Any, policy: Policy, ann: User, moderator_client: Client, query: str
) -> None:
    ids = {"external_id": "c-17", "session_id": "s-4", "author_ref": "hooligan", "community": "cats"}
    create_queue_item("insult=0.7", **ids)
    restrict_to_communities(ann, "dogs")
    assert "No items found" in moderator_client.get(console_url("search", q=query)).content.decode()
