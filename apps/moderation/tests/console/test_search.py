"""Tests of `console.search`."""

from typing import Any

import pytest
from django.test import Client

from apps.moderation.models import (
    Policy,
)
from toxicmod.testing.console import console_url
from toxicmod.testing.factories import create_queue_item


@pytest.mark.parametrize("wanted", ["number", "external", "author", "prediction"])
def test_search(model: Any, policy: Policy, client_key: Any, moderator_client: Client, wanted: str) -> None:
    found = create_queue_item("insult=0.7", api_key=client_key, external_id="c-17", author_ref="hooligan")
    create_queue_item("insult=0.7", author_ref="other")
    what = {"number": found.pk, "external": "c-17", "author": "hooligan", "prediction": found.submission_id}
    assert moderator_client.get(console_url("search", q=what[wanted]))["Location"] == console_url(
        "item", found.pk
    )
    assert "No items found" in moderator_client.get(console_url("search", q="nobody")).content.decode()
