"""Tests of `console.policies`."""

from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client

from apps.accounts.models import User
from apps.moderation import actions
from apps.moderation.models import (
    Policy,
    QueueItem,
)
from toxicmod.testing.console import FETCH, console_url, staff_client
from toxicmod.testing.factories import create_queue_item, restrict_to_communities


def rules_form(policy: Policy, **changes: Any) -> dict[str, Any]:
    rules = actions.rules_of(policy)
    form: dict[str, Any] = {"rule-TOTAL_FORMS": len(rules) + 1, "rule-INITIAL_FORMS": len(rules)}
    # The empty row at the end comes with its defaults, as a browser sends them.
    blank = {"strikes": 1, "category": "STATEMENT_CATEGORY_ILLEGAL_OR_HARMFUL_SPEECH"}
    for number, rule in enumerate([*rules, blank]):
        for name, value in rule.items():
            form[f"rule-{number}-{name}"] = "" if value is None else value
    fields = (
        "audit_share", "reject_audit_share", "second_review_share", "due_minutes", "urgent_due_minutes",
        "strike_days",
    )  # fmt: skip
    return form | {name: getattr(policy, name) for name in fields} | changes


def test_policy_simulate_save_and_activate(item: QueueItem, policy: Policy, lead_client: Client) -> None:
    create_queue_item("toxic=0.75 x")
    at = console_url("policy", policy.pk)
    assert "On past traffic" in lead_client.get(at).content.decode()
    edited = rules_form(policy, do="try") | {"rule-5-review_from": "0.9"}
    assert "50.0%" in lead_client.post(at, edited, headers=FETCH).json()["html"]
    assert Policy.objects.count() == 1
    invalid = rules_form(policy, do="try") | {"rule-5-review_from": "0.995"}
    message = lead_client.post(at, invalid, headers=FETCH).json()["message"]
    assert "at or below the threshold for rejection" in message
    assert lead_client.post(at, invalid).status_code == 422
    draft_at = lead_client.post(at, rules_form(policy, do="save") | {"rule-5-review_from": "0.9"})["Location"]
    draft = Policy.objects.get(status="draft")
    assert (draft.version, draft.rules.get(label="toxic").review_from) == (2, 0.9)
    assert "The draft default v2 was saved." in lead_client.get(draft_at).content.decode()
    assert lead_client.post(draft_at, {"do": "activate", "reason": " "}).status_code == 422
    activated = lead_client.post(draft_at, {"do": "activate", "reason": "Too much noise"}, follow=True)
    assert "The policy default v2 was activated." in activated.content.decode()
    assert Policy.objects.active_for("") == draft
    html = lead_client.get(console_url("policies")).content.decode()
    assert "Too much noise" in html
    assert "UTC\n        by lea" in html


def test_policy_that_another_lead_has_changed(policy: Policy, lead_client: Client) -> None:
    at = lead_client.post(console_url("policy", policy.pk), rules_form(policy, do="save"))["Location"]
    draft = Policy.objects.get(status="draft")
    seen = lead_client.get(at).context["fingerprint"]
    form = rules_form(draft, do="save", expected=seen)
    assert lead_client.post(at, form | {"rule-5-review_from": "0.6"}).status_code == 302
    edited = form | {"rule-4-review_from": "0.5"}
    # A rejected form that comes back does not count the other lead's change as seen.
    rejected = lead_client.post(at, edited | {"rule-4-review_from": "7"})
    assert (rejected.status_code, rejected.context["fingerprint"]) == (422, seen)
    response = lead_client.post(at, edited)
    assert (response.status_code, response.context["fingerprint"] == seen) == (409, False)
    assert all(
        part in response.text
        for part in ("has been changed since you opened", "If you save again", 'value="0.5"', "data-unsaved")
    )
    response = lead_client.post(at, {"do": "activate", "reason": "fewer reviews", "expected": seen})
    assert (response.status_code, "has been changed since you opened" in response.text) == (422, True)
    assert 'value="fewer reviews"' in response.text
    assert response.context["fingerprint"] != seen
    draft.refresh_from_db()
    assert (draft.status, draft.rules.get(label="toxic").review_from) == ("draft", 0.6)
    # A simulation needs no comparison, and saving again replaces the other version.
    assert lead_client.post(at, edited | {"do": "try"}, headers=FETCH).status_code == 200
    seen = lead_client.get(at).context["fingerprint"]
    assert lead_client.post(at, edited | {"expected": seen}).status_code == 302
    seen = lead_client.get(at).context["fingerprint"]
    lead_client.post(at, {"do": "activate", "reason": "fewer reviews", "expected": seen})
    assert Policy.objects.active_for("") == draft


def test_policy_adds_and_removes_rules(policy: Policy, lead_client: Client) -> None:
    new = {"rule-7-title": "Spoilers", "rule-7-reason": "It gives the end away.", "rule-7-strikes": "0"}
    new |= {"rule-7-category": "STATEMENT_CATEGORY_OTHER_VIOLATION_TC", "rule-6-DELETE": "on"}
    lead_client.post(console_url("policy", policy.pk), rules_form(policy, do="save") | new)
    titles = list(Policy.objects.get(status="draft").rules.values_list("title", flat=True))
    assert "Spoilers" in titles
    assert "Spam or off topic" not in titles


def test_policies_creates_a_community_draft(
    policy: Policy, lead_client: Client, moderator_client: Client
) -> None:
    at = lead_client.post(console_url("policies"), {"community": "gaming"})["Location"]
    assert at == console_url("policy", Policy.objects.get(community="gaming").pk)
    assert moderator_client.post(console_url("policies"), {"community": "x"}).status_code == 403
    assert "On past traffic" not in moderator_client.get(at).content.decode()


def test_policy_of_unknown_community_is_named_and_can_be_discarded(
    item: QueueItem, policy: Policy, lead_client: Client, moderator_client: Client
) -> None:
    create_queue_item("toxic=0.75 x", community="gaming")
    known = lead_client.post(console_url("policies"), {"community": "gaming"})["Location"]
    assert "Check that the name" not in lead_client.get(known).content.decode()
    mistyped = lead_client.post(console_url("policies"), {"community": "gamign"})["Location"]
    html = lead_client.get(mistyped).content.decode()
    assert "No comment has come from the community “<bdi>gamign</bdi>” yet." in html
    assert "Other communities: <bdi>gaming</bdi>." in html
    assert moderator_client.post(mistyped, {"do": "discard"}).status_code == 403
    assert Policy.objects.filter(community="gamign").exists()
    html = lead_client.post(mistyped, {"do": "discard"}, follow=True).content.decode()
    assert "The draft gamign v1 was discarded." in html
    assert not Policy.objects.filter(community="gamign").exists()
    assert "Discard this draft" not in lead_client.get(console_url("policy", policy.pk)).content.decode()
    assert lead_client.post(console_url("policy", policy.pk), {"do": "discard"}).status_code == 422
    assert Policy.objects.filter(pk=policy.pk).exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"due_minutes": 10**15}, "Review within (minutes): Enter a number from 1 to 525,600."),
        ({"due_minutes": 0}, "Review within (minutes): Enter a number from 1 to 525,600."),
        ({"urgent_due_minutes": 525_601}, "Review urgent comments within (minutes): Enter a number from 1"),
        ({"due_minutes": 10, "urgent_due_minutes": 11}, "Urgent comments must be due no later than other"),
        ({"strike_days": 999_999_999}, "Strikes expire after (days): Enter a number from 1 to 3,650."),
        ({"rule-0-strikes": 10**15}, "Strikes: Enter a number from 0 to 100."),
        ({"rule-0-guideline": "x" * 5_001}, "Guideline: Ensure this value has at most 5000 characters"),
        ({"rule-TOTAL_FORMS": 1_500}, "A policy has at most 50 rules."),
    ],
)
def test_policy_rejects_values_without_sense(
    policy: Policy, lead_client: Client, changes: dict[str, Any], message: str
) -> None:
    at = console_url("policy", policy.pk)
    form = rules_form(policy, do="save") | changes
    assert lead_client.post(at, form).status_code == 422
    response = lead_client.post(at, form, headers=FETCH)
    assert response.status_code == 422
    assert message in response.json()["message"]
    assert Policy.objects.get() == policy


def test_policy_rejects_two_rules_for_a_label(policy: Policy, lead_client: Client) -> None:
    form = rules_form(policy, do="save") | {"rule-0-label": "threat", "rule-1-label": "threat"}
    form |= {"rule-0-title": "Menaces"}
    response = lead_client.post(console_url("policy", policy.pk), form)
    assert response.status_code == 422
    assert 'role="alert">A policy has one rule for each label' in response.text
    assert 'value="Menaces"' in response.text
    response = lead_client.post(console_url("policy", policy.pk), form, headers=FETCH)
    assert response.status_code == 422
    assert response.json()["message"] == (
        "A policy has one rule for each label, but there are several for: threat."
    )
    assert Policy.objects.get() == policy


def test_policy_rejects_a_long_reason_for_activation(policy: Policy, lead_client: Client) -> None:
    at = lead_client.post(console_url("policies"), {"community": "gaming"})["Location"]
    response = lead_client.post(at, {"do": "activate", "reason": "x" * 5_000})
    assert response.status_code == 422
    assert 'role="alert">Shorten the reason to at most 2,000 characters.' in response.text
    assert f'value="{"x" * 5_000}"' in response.text
    response = lead_client.post(at, {"do": "activate", "reason": " "})
    assert response.status_code == 422
    assert 'role="alert">Give a reason: it is stored with the policy.' in response.text
    assert Policy.objects.get(community="gaming").status == "draft"
    lead_client.post(at, {"do": "activate", "reason": "Now"})
    again = lead_client.post(at, {"do": "activate", "reason": "Now"})
    assert (again.status_code, "gaming v1 is active already." in again.text) == (422, True)


def test_policies_show_a_wrong_community_again(policy: Policy, lead_client: Client) -> None:
    response = lead_client.post(console_url("policies"), {"community": "g" * 101})
    assert response.status_code == 422
    assert 'role="alert">Enter the community as the platform names it' in response.text
    assert f'value="{"g" * 101}"' in response.text


def test_policies_show_a_community_without_access_again(policy: Policy, person: Callable[..., User]) -> None:
    lead = person("leo", "lead")
    restrict_to_communities(lead, "gaming")
    response = staff_client(lead).post(console_url("policies"), {"community": "gamign"})
    assert response.status_code == 422
    html = response.content.decode()
    assert 'value="gamign"' in html
    assert "You do not have access to this community." in html
