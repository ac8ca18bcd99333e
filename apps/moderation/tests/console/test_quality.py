"""Tests of `console.quality`."""

import json

from django.test import Client

from apps.moderation.models import (
    Decision,
    QueueItem,
)
from toxicmod.testing.console import console_url, decision_form


def test_quality_by_pair_is_for_leads(item: QueueItem, moderator_client: Client, lead_client: Client) -> None:
    moderator_client.get(console_url("item", item.pk))
    moderator_client.post(console_url("decide", item.pk), decision_form(item))
    assert "by pair" not in moderator_client.get(console_url("quality")).content.decode()
    assert "by pair" in lead_client.get(console_url("quality")).content.decode()


def test_decisions_csv_and_statement(item: QueueItem, moderator_client: Client, lead_client: Client) -> None:
    moderator_client.get(console_url("item", item.pk))
    moderator_client.post(console_url("decide", item.pk), decision_form(item, "reject", note="=cmd()"))
    decision = Decision.objects.get()
    lines = b"".join(lead_client.get(console_url("decisions_csv", days=7))).decode().splitlines()
    assert len(lines) == 2
    assert "'=cmd()" in lines[1]
    response = lead_client.get(console_url("decisions_csv", days="5000", automatic="on"))
    assert response.status_code == 422
    assert 'role="alert">Choose between 1 and 3650 days.' in response.text
    assert 'value="5000"' in response.text
    assert 'name="automatic" checked' in response.text
    statement = json.loads(lead_client.get(console_url("statement", decision.pk)).content)
    assert statement["automated_decision"] == "AUTOMATED_DECISION_NOT_AUTOMATED"
    assert moderator_client.get(console_url("statement", decision.pk)).status_code == 403
