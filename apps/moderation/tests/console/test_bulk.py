"""Tests of `console.bulk`."""

import re
from typing import Any

from django.test import Client

from apps.accounts.models import User
from apps.moderation import actions, webhooks
from apps.moderation.models import (
    BulkJob,
    Decision,
    Policy,
)
from toxicmod.testing.console import FETCH, console_url
from toxicmod.testing.factories import create_queue_item


def test_job_from_preview_to_undo(model: Any, policy: Policy, lea: User, lead_client: Client) -> None:
    for n in range(5):
        create_queue_item(f"insult={0.61 + n / 20} text number {n} {n * 'x'}", author_ref=f"a{n}")
    selection = {"label": "insult", "score_from": "0.6", "score_to": "0.75"}
    html = lead_client.get(console_url("bulk", **selection)).content.decode()
    assert "<b>3</b> items match." in html
    without_rule = selection | {"action": "reject"}
    without_range = {"label": "insult", "action": "approve"}
    for data in (without_rule, selection, without_range, {"score_from": 0, "score_to": 1}):
        assert lead_client.post(console_url("bulk"), data).status_code == 422
    rule = policy.rules.get(label="insult")
    at = lead_client.post(
        console_url("bulk"), selection | {"action": "reject", "rule": rule.pk, "note": "sweep"}
    )["Location"]
    page = lead_client.get(at).content.decode()
    assert "Random sample of 3 items" in page
    assert lead_client.post(at, {"do": "start", "typed": "4"}).status_code == 422
    assert lead_client.post(at, {"do": "start", "typed": "many"}).status_code == 422
    assert Decision.objects.count() == 0
    lead_client.post(at, {"do": "start", "typed": " 3 "})
    job = BulkJob.objects.get()
    assert lead_client.get(at, headers=FETCH).json()["is_active"]
    actions.run_bulk(job_id=job.pk)
    progress = lead_client.get(at, headers=FETCH).json()
    assert not progress["is_active"]
    assert "3 of 3 decided" in progress["html"]
    assert Decision.objects.filter(job=job, note="sweep").count() == 3
    decisions = Decision.objects.filter(job=job).order_by("pk")
    actions.appeal(token=webhooks.appeal_token(decisions[0]), text="No.")
    assert "Undo all 3 decisions" in lead_client.get(at).content.decode()
    assert lead_client.post(at, {"do": "undo"}).status_code == 422
    assert lead_client.post(at, {"do": "undo", "typed": "2"}).status_code == 422
    lead_client.post(at, {"do": "undo", "typed": "3"})
    assert lead_client.get(at, headers=FETCH).json()["is_active"]
    actions.run_bulk(job_id=job.pk)
    progress = lead_client.get(at, headers=FETCH).json()
    assert not progress["is_active"]
    assert "2 of 3 decisions undone, 1 could not be undone" in progress["html"]
    assert "the author has appealed" in progress["html"]
    assert lead_client.post(at, {"do": "undo", "typed": "3"}).status_code == 422
    assert "Recent jobs" in lead_client.get(console_url("bulk")).content.decode()


def test_bulk_preselects_nothing(model: Any, policy: Policy, lead_client: Client) -> None:
    create_queue_item("toxic=0.8 x")
    for query in ({}, {"label": "toxic"}, {"label": "toxic", "score_from": "0.5"}):
        html = lead_client.get(console_url("bulk", **query)).content.decode()
        assert "items match" not in html
        assert "Preview sample" not in html
        assert not re.search(r"<input[^>]* checked", html)
    html = lead_client.get(
        console_url("bulk", label="toxic", score_from="0.5", score_to="1")
    ).content.decode()
    assert "<b>1</b> item matches." in html
    assert not re.search(r"<input[^>]* checked", html)
    assert '<option value="" selected>Choose a reason</option>' in html
    for queue in ("appeal", "second"):  # which are never included
        assert f'<option value="{queue}"' not in html
    assert '<option value="escalated"' in html


def test_bulk_selects_comments_without_a_community(model: Any, policy: Policy, lead_client: Client) -> None:
    create_queue_item("toxic=0.8 x")
    html = lead_client.get(console_url("bulk")).content.decode()
    assert '<option value="=">(no community)</option>' in html
    for n in range(2):
        create_queue_item(f"toxic=0.8 other {n}", community="gaming")
    selection = {"label": "toxic", "score_from": "0.5", "score_to": "1"}
    for community, count in (("", 3), ("=", 1), ("=gaming", 2)):
        html = lead_client.get(console_url("bulk", **selection, community=community)).content.decode()
        assert f"<b>{count}</b> item" in html
        assert f'name="community" value="{community}"' in html
    at = lead_client.post(console_url("bulk"), selection | {"community": "=", "action": "approve"})[
        "Location"
    ]
    job = BulkJob.objects.get()
    assert (job.count, job.filter["community"]) == (1, "")
    page = lead_client.get(at).content.decode()
    assert "<bdi>(no community)</bdi>" in page
    assert "community=%3D" in page


def test_job_cancel(model: Any, policy: Policy, lead_client: Client) -> None:
    create_queue_item("toxic=0.8 x")
    at = lead_client.post(
        console_url("bulk"), {"label": "toxic", "score_from": 0, "score_to": 1, "action": "approve"}
    )["Location"]
    lead_client.post(at, {"do": "cancel"})
    assert "Cancelled" in lead_client.get(at).content.decode()
    assert (
        lead_client.get(console_url("bulk", label="toxic", score_from="0.9", score_to="0.2")).status_code
        == 200
    )


def test_bulk_errors_name_the_problem_once(model: Any, policy: Policy, lead_client: Client) -> None:
    create_queue_item("toxic=0.8 x")
    selection = {"label": "toxic", "score_from": 0, "score_to": 1}
    at = lead_client.post(console_url("bulk"), selection | {"action": "approve"})["Location"]
    response = lead_client.post(at, {"do": "start", "typed": "one"})
    assert response.status_code == 422
    assert response.text.count("Type the number 1 to confirm.") == 1
    response = lead_client.post(
        console_url("bulk"), selection | {"community": "=beta", "action": "approve", "note": "sweep"}
    )
    assert response.status_code == 422
    assert response.text.count("Community: There is no community “beta”.") == 1
    assert 'value="sweep"' in response.text


def test_bulk_shows_the_entered_values_with_the_error(
    model: Any, policy: Policy, lead_client: Client
) -> None:
    create_queue_item("toxic=0.8 x")
    selection = {"label": "toxic", "score_from": "0.5", "score_to": "1"}
    form = selection | {"action": "reject", "note": "a long note"}
    response = lead_client.post(console_url("bulk"), form)
    assert response.status_code == 422
    assert re.search(r'role="alert">Choose a reason: the authors receive it\.', response.text)
    assert re.search(r'<input[^>]* value="reject"[^>]* checked', response.text)
    assert 'value="a long note"' in response.text
    assert response.text.count('name="score_from"') == response.text.count('value="0.5"') == 2
    rule = policy.rules.get(label="toxic")
    response = lead_client.post(console_url("bulk"), selection | {"rule": rule.pk})
    assert re.search(r'role="alert">Choose Approve or Reject\.', response.text)
    assert f'<option value="{rule.pk}" selected>' in response.text
    assert not BulkJob.objects.exists()


def test_job_shows_the_typed_count_with_the_error(model: Any, policy: Policy, lead_client: Client) -> None:
    create_queue_item("toxic=0.8 x")
    selection = {"label": "toxic", "score_from": 0, "score_to": 1, "action": "approve"}
    at = lead_client.post(console_url("bulk"), selection)["Location"]
    response = lead_client.post(at, {"do": "start", "typed": "4"})
    assert response.status_code == 422
    assert 'value="4"' in response.text
    assert 'role="alert">You typed 4, but the job has 1 item.' in response.text
    assert "Random sample of 1 item" in response.text
    lead_client.post(at, {"do": "start", "typed": "1"})
    # The page of a job that was started has no form for its number.
    again = lead_client.post(at, {"do": "start", "typed": "1"})
    assert (again.status_code, "This job was started or cancelled before." in again.text) == (422, True)
    actions.run_bulk(job_id=BulkJob.objects.get().pk)
    response = lead_client.post(at, {"do": "undo", "typed": "2"})
    assert response.status_code == 422
    assert 'role="alert">You typed 2, but the job made 1 decision.' in response.text
