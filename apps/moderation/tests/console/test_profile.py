"""Tests of `console.profile`."""

from django.test import Client

from apps.accounts.models import User
from apps.moderation.models import (
    Preference,
    QueueItem,
)
from toxicmod.testing.console import console_url, decision_form


def test_profile_stores_preferences(item: QueueItem, ann: User, moderator_client: Client) -> None:
    assert 'id="comment">' in moderator_client.get(console_url("item", item.pk)).content.decode()
    saved = moderator_client.post(console_url("profile"), {"exposure_limit": "0"}, follow=True)
    assert "The preferences were saved." in saved.content.decode()
    assert not Preference.for_user(ann).masked
    html = moderator_client.get(console_url("item", item.pk)).content.decode()
    assert 'id="comment" open>' in html
    assert "data-keys" not in html
    assert moderator_client.post(console_url("profile"), {"exposure_limit": "-1"}).status_code == 422


def test_profile_lists_decisions_to_undo(item: QueueItem, moderator_client: Client) -> None:
    moderator_client.get(console_url("item", item.pk))
    moderator_client.post(console_url("decide", item.pk), decision_form(item))
    assert (
        f"Undo: approval of item {item.pk}" in moderator_client.get(console_url("profile")).content.decode()
    )


def test_profile_counts_overturned_decisions(item: QueueItem, moderator_client: Client) -> None:
    moderator_client.get(console_url("item", item.pk))
    moderator_client.post(console_url("decide", item.pk), decision_form(item))
    html = moderator_client.get(console_url("profile")).content.decode()
    assert '0.0% <span class="quiet">0 decisions</span>' in html
