"""The contract of every adapter, checked with requests as the platforms document them."""

import json
from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.connectors.adapters import ADAPTERS
from apps.connectors.adapters.base import comment_text, html_to_text
from apps.connectors.exceptions import InvalidPayloadError
from apps.connectors.models import Connection
from apps.connectors.tests.payloads import (
    CORAL,
    DISCOURSE,
    MASTODON_REPORT,
    MASTODON_STATUS,
    REQUESTS,
    RUDE,
    SECRET,
    SIGNATURE_HEADERS,
    STATUS,
    signature,
    with_text,
)

PLATFORMS = Connection.Platform.values


@pytest.mark.parametrize("platform", PLATFORMS)
def test_verify_accepts_signature_of_body_only(platform: str) -> None:
    adapter, body = ADAPTERS[platform], b'{"a": 1}'
    header = SIGNATURE_HEADERS[platform]
    assert adapter.verify(SECRET, {header: signature(body)}, body)
    assert not adapter.verify(SECRET, {header: signature(body, "another")}, body)
    assert not adapter.verify(SECRET, {header: signature(body)}, body + b" ")
    assert not adapter.verify("", {header: signature(body, "")}, body)
    assert not adapter.verify(SECRET, {header: "sha256=é"}, body)
    assert not adapter.verify(SECRET, {}, body)


def test_verify_accepts_one_of_several_signatures() -> None:
    """Coral signs with the previous secret as well while a new one is introduced."""
    header = f"{signature(b'{}', 'another')},{signature(b'{}')}"
    assert ADAPTERS["coral"].verify(SECRET, {"X-Coral-Signature": header}, b"{}")


@pytest.mark.parametrize("platform", PLATFORMS)
def test_read_returns_comment_with_text_and_author(platform: str) -> None:
    data, headers = REQUESTS[platform]
    (comment,) = ADAPTERS[platform].read(headers, data)
    assert comment.text == RUDE
    assert comment.author
    assert comment.context["parent"]
    assert comment.context["url"]


def test_read_of_coral_keeps_author_story_and_parent() -> None:
    for action in ("NEW", "EDIT"):
        (comment,) = ADAPTERS["coral"].read({}, CORAL | {"action": action})
        assert comment.author == "author-1"
        assert comment.context == {
            "url": "https://news.example.org/story-1",
            "story": "story-1",
            "parent": "parent-1",
        }
        assert comment.reference == {"story": "story-1", "parent": "parent-1"}
        assert comment.external_id == ""
    (comment,) = ADAPTERS["coral"].read({}, CORAL | {"comment": {"body": RUDE, "parentID": None}})
    assert comment.reference["parent"] == ""


def test_read_of_discourse_ignores_other_events_and_personal_messages() -> None:
    adapter = ADAPTERS["discourse"]
    assert adapter.read({"X-Discourse-Event": "ping"}, {"ping": "OK"}) == []
    private = {"post": DISCOURSE["post"] | {"topic_archetype": "private_message"}}
    assert adapter.read({"X-Discourse-Event": "post_created"}, private) == []
    (comment,) = adapter.read({"X-Discourse-Event": "post_edited"}, DISCOURSE)
    assert (comment.external_id, comment.author, comment.context["title"]) == ("42", "anna", "A topic")


def test_read_of_mastodon_reads_public_and_reported_statuses() -> None:
    adapter = ADAPTERS["mastodon"]
    (comment,) = adapter.read({}, MASTODON_STATUS)
    assert (comment.external_id, comment.author, comment.reference) == ("1100", "77", {})
    (reported,) = adapter.read({}, MASTODON_REPORT)
    assert reported.reference == {"report": "8437"}
    assert reported.is_reported
    assert not comment.is_reported
    private = MASTODON_STATUS | {"object": STATUS | {"visibility": "direct"}}
    assert adapter.read({}, private) == []
    assert adapter.read({}, {"event": "account.created", "object": {"id": "1"}}) == []
    (warned,) = adapter.read({}, MASTODON_STATUS | {"object": STATUS | {"spoiler_text": "Rude"}})
    assert warned.text == f"Rude\n{RUDE}"


def test_html_to_text_ends_lines_and_decodes_entities() -> None:
    assert html_to_text("<p>a &lt;b&gt;</p><p>c<br>d</p>") == "a <b>\nc\nd"


def test_comment_text_is_cut_to_the_limit_between_characters() -> None:
    assert len(comment_text("é" * 20_000).encode()) == 20_480
    assert comment_text("a" + "é" * 20_000)[-1] == "é"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def _paths(data: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return [path, *(inner for name, value in items for inner in _paths(value, (*path, name)))]


def _replaced(data: Any, path: tuple[str | int, ...], value: Any) -> Any:
    if not path:
        return value
    data = deepcopy(data)
    parent = data
    for name in path[:-1]:
        parent = parent[name]
    parent[path[-1]] = value
    return data


@pytest.mark.parametrize(
    "data", [CORAL, DISCOURSE, MASTODON_STATUS, MASTODON_REPORT], ids=lambda data: len(data)
)
@given(generated=st.data())
def test_read_rejects_or_reads_every_value(data: dict[str, Any], generated: st.DataObject) -> None:
    platform = next(name for name, entry in REQUESTS.items() if entry[0].keys() == data.keys())
    path = generated.draw(st.sampled_from(_paths(data)))
    changed = _replaced(data, path, generated.draw(JSON))
    try:
        comments = ADAPTERS[platform].read(REQUESTS[platform][1], changed)
    except InvalidPayloadError:
        return
    for comment in comments:
        json.dumps([comment.text, comment.author, comment.context, comment.reference]).encode()


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("text", ["a\0b", "\ud800"])
def test_read_makes_text_storable(platform: str, text: str) -> None:
    (comment,) = ADAPTERS[platform].read(REQUESTS[platform][1], with_text(platform, text))
    comment.text.encode()
    assert "\0" not in comment.text
