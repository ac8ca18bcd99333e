"""The default policy removes nothing automatically."""

from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from apps.accounts.models import APIKey, User
from apps.moderation import actions
from apps.moderation.models import Decision, Policy, Submission

pytestmark = pytest.mark.django_db

# Harmless comments that the base model scores high, and abuse that only a person may remove.
SENTENCES = (
    "You are not stupid.",
    "Fuck yeah, we won!",
    "He called me a fucking faggot and a worthless piece of shit. Please help me.",
    "You stupid fucking idiot, I will kill you.",
)


@pytest.fixture(autouse=True)
def default_policy(champion: object) -> Policy:
    policy = actions.install_default_policy()
    assert policy is not None
    return policy


def test_default_rules_reject_nothing(default_policy: Policy) -> None:
    assert not default_policy.rules.exclude(reject_from=None).exists()
    assert default_policy.rules.exclude(review_from=None).count() == 6


@pytest.mark.parametrize("community", ["", "news"])
def test_draft_policy_defaults_reject_nothing(lea: User, community: str) -> None:
    draft = actions.draft_policy(user=lea, community=community)
    assert not draft.rules.exclude(reject_from=None).exists()


@pytest.mark.parametrize("text", SENTENCES)
def test_moderate_rejects_nothing_by_default(client: Client, auth: dict[str, Any], text: str) -> None:
    response = client.post("/api/v1/moderate", {"text": text}, content_type="application/json", **auth)
    assert response.json()["outcome"] in ("approve", "human_review")


@pytest.mark.parametrize("text", SENTENCES)
def test_perspective_review_rejects_nothing_by_default(
    client: Client, api_key: tuple[APIKey, str], text: str
) -> None:
    key, secret = api_key
    APIKey.objects.filter(pk=key.pk).update(review_perspective=True)
    body = {"comment": {"text": text}, "languages": ["en"], "requestedAttributes": {"TOXICITY": {}}}
    response = client.post(f"/v1alpha1/comments:analyze?key={secret}", body, content_type="application/json")
    assert response.status_code == 200
    assert not Submission.objects.filter(outcome=Submission.Outcome.REJECT).exists()
    assert not Decision.objects.filter(action=Decision.Action.REJECT).exists()


@pytest.mark.parametrize("text", SENTENCES)
@pytest.mark.parametrize("path", ["pages:home", "pages:live"])
def test_pages_remove_nothing_by_default(client: Client, path: str, text: str) -> None:
    page = client.post(reverse(path), {"text": text}).content.decode()
    assert 'class="verdict review"' in page or 'class="verdict approve"' in page
    assert "Would be removed" not in page


def test_policy_page_warns_of_automatic_removal(
    client: Client, person: Callable[..., User], default_policy: Policy
) -> None:
    lead = person("lead", "lead")
    User.objects.update(is_staff=True)
    client.force_login(lead, backend="django.contrib.auth.backends.ModelBackend")
    page = client.get(reverse("admin:moderation_policy", args=[default_policy.pk])).content.decode()
    assert "without a human review" in page
    assert "removes no comment automatically" in page
    rules = actions.rules_of(default_policy)
    rules[0]["reject_from"] = 0.97
    draft = actions.draft_policy(user=lead, based_on=default_policy, rules=rules)
    page = client.get(reverse("admin:moderation_policy", args=[draft.pk])).content.decode()
    assert "removes no comment automatically" not in page
    assert "Threats: from 97%" in page
