"""Discourse's webhooks for posts, and its API. Its documentation describes both at docs.discourse.org."""

from collections.abc import Mapping
from typing import Any

from apps.connectors.adapters.base import (
    MAX_TITLE,
    MAX_URL,
    Adapter,
    IncomingComment,
    OutgoingAction,
    comment_text,
    member,
    request_json,
    text_member,
)
from apps.connectors.exceptions import InvalidPayloadError
from apps.connectors.models import Connection, PlatformAction
from apps.webhooks.transport import Response

_EVENTS = ("post_created", "post_edited")
_INAPPROPRIATE = 4  # the ID of the type of flag


class Discourse(Adapter):
    """Discourse reports each new and each edited post. Personal messages are not read."""

    signature_header = "X-Discourse-Event-Signature"
    flags = True

    def read(self, headers: Mapping[str, str], data: Any) -> list[IncomingComment]:
        if headers.get("X-Discourse-Event") not in _EVENTS:
            return []
        post = member(data, "post")
        raw = member(post, "raw")
        if not isinstance(raw, str):
            raise InvalidPayloadError("“post.raw” must be a string.")
        if member(post, "topic_archetype") == "private_message":
            return []
        identifier = text_member(post, "id")
        if not identifier.isascii() or not identifier.isdecimal():
            raise InvalidPayloadError("“post.id” must be a number.")
        context = {
            "url": text_member(post, "post_url", size=MAX_URL),
            "title": text_member(post, "topic_title", size=MAX_TITLE),
            "parent": text_member(post, "reply_to_post_number"),
        }
        return [
            IncomingComment(
                text=comment_text(raw),
                author=text_member(post, "username"),
                external_id=identifier,
                context={name: value for name, value in context.items() if value},
            )
        ]

    def supports(self, action: OutgoingAction) -> bool:
        # A post that was neither flagged nor deleted needs no approval.
        return action.kind != PlatformAction.Kind.APPROVE or bool(action.previous)

    def send(self, connection: Connection, action: OutgoingAction) -> Response:
        headers = {"Api-Key": connection.token, "Api-Username": connection.api_user or "system"}
        post = action.external_id
        if action.kind == PlatformAction.Kind.FLAG:
            body = {"id": int(post), "post_action_type_id": _INAPPROPRIATE, "flag_topic": False}
            return request_json(connection, "POST", "/post_actions.json", headers, body)
        if action.kind == PlatformAction.Kind.REJECT:
            return request_json(connection, "DELETE", f"/posts/{post}.json", headers, None)
        if action.previous == PlatformAction.Kind.REJECT:
            return request_json(connection, "PUT", f"/posts/{post}/recover.json", headers, {})
        path = f"/post_actions/{post}.json?post_action_type_id={_INAPPROPRIATE}"
        return request_json(connection, "DELETE", path, headers, None)
