"""Tests of `console.comment`."""

import pytest

from apps.moderation.console import comment
from apps.moderation.models import (
    QueueItem,
)


def test_render_numbers_terms_in_reading_order(item: QueueItem) -> None:
    rendered = comment.render(item)
    assert [(term.number, term.text) for term in rendered.terms][:2] == [(1, "insult=0.7"), (2, "you")]
    assert "<mark>fool<sup>3</sup></mark>" in rendered.html
    assert rendered.explained_by == 1


@pytest.mark.parametrize(("contribution", "strength"), [(4.2, "strong"), (1.0, "some"), (0.3, "weak")])
def test_strength_of_a_term(contribution: float, strength: str) -> None:
    assert comment.HighlightedTerm(1, "fool", contribution).strength == strength


@pytest.mark.parametrize("text", ["", "\u202e\u2066", "x" * 20_000, "\x00\x1b[31m", "a\u200bb", "👩‍👩‍👧"])
def test_escape_text_replaces_unsafe_characters(text: str) -> None:
    html = comment.escape_text(text)
    assert not any(character in html for character in "\u202e\u2066\x00\x1b\u200b")
    assert ("👩‍👩‍👧" in html) == ("👩" in text)
