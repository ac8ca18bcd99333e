"""Fixtures: a policy and a rejection under it."""

import pytest

from apps.moderation import actions
from apps.moderation.models import Decision, Policy, PolicyRule
from apps.registry.models import ModelVersion


@pytest.fixture
def policy(champion: ModelVersion) -> Policy:
    """A policy that removes only threats automatically, with the base model as champion."""
    actions.install_default_policy()
    rules = PolicyRule.objects.filter(policy__community="")
    rules.exclude(label="").update(review_from=0.6, reject_from=None)
    rules.filter(label="threat").update(review_from=0.2, reject_from=0.95)
    active = Policy.objects.active_for("")
    assert active is not None
    return active


@pytest.fixture
def rejection(policy: Policy) -> Decision:
    """An automatic rejection."""
    PolicyRule.objects.filter(label="insult").update(reject_from=0.65)
    actions.moderate(text="You are a stupid idiot <b>and</b> nobody likes you.", author_ref="somebody")
    return Decision.objects.get()
