"""Tests of `models`."""

import pytest

from apps.moderation.models import Decision


@pytest.mark.parametrize("action", Decision.Action)
def test_past_tense_of_every_action(action: Decision.Action) -> None:
    assert Decision(action=action).past_tense in ("approved", "rejected", "escalated", "reversed")
    assert str(Decision(action=action, automatic=True)).endswith("ed by policy")
