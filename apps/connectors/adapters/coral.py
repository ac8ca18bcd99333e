"""Coral's External Moderation Phase, and its GraphQL API.

Coral's repository describes the phase in `EXTERNAL_MODERATION_PHASES.md` and the signature in `WEBHOOKS.md`.
A request names author, story and parent, but not the comment, which Coral has not stored yet. To send a
decision, the adapter looks for the comment among those of its author.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from apps.connectors.adapters.base import (
    MAX_URL,
    Adapter,
    IncomingComment,
    OutgoingAction,
    comment_text,
    html_to_text,
    member,
    request_json,
    text_member,
)
from apps.connectors.exceptions import CommentNotFoundError, InvalidPayloadError
from apps.connectors.models import Connection, PlatformAction
from apps.moderation.models import Submission
from apps.webhooks.exceptions import NoResponseError
from apps.webhooks.transport import Response

_ACTIONS = ("NEW", "EDIT")
_FLAG = [{"actionType": "FLAG", "reason": "COMMENT_DETECTED_TOXIC"}]
# Coral's own toxicity phase withholds a comment in the same way.
_RESPONSES: dict[Submission.Outcome, dict[str, Any]] = {
    Submission.Outcome.HUMAN_REVIEW: {"status": "SYSTEM_WITHHELD", "actions": _FLAG},
    Submission.Outcome.REJECT: {"status": "REJECTED", "actions": _FLAG},
}
_PAGE, _MAX_PAGES = 10, 5  # comments in a response, whose size is limited, and responses
_FIND = """
query Find($author: ID!, $first: Int!, $after: Cursor) {
  user(id: $author) {
    allComments(first: $first, after: $after) {
      nodes { id body story { id } parent { id } revision { id } }
      pageInfo { hasNextPage endCursor }
    }
  }
}
"""
_APPROVE = """
mutation Approve($input: ApproveCommentInput!) { approveComment(input: $input) { comment { id status } } }
"""
_REJECT = """
mutation Reject($input: RejectCommentInput!) { rejectComment(input: $input) { comment { id status } } }
"""


class Coral(Adapter):
    """Coral calls for each new and each edited comment, and waits for the answer."""

    signature_header = "X-Coral-Signature"

    def read(self, headers: Mapping[str, str], data: Any) -> list[IncomingComment]:
        if member(data, "action") not in _ACTIONS:
            raise InvalidPayloadError("“action” must be NEW or EDIT.")
        body = member(data, "comment", "body")
        if not isinstance(body, str):
            raise InvalidPayloadError("“comment.body” must be a string.")
        story, parent = text_member(data, "story", "id"), text_member(data, "comment", "parentID")
        url = text_member(data, "story", "url", size=MAX_URL)
        context = {"url": url, "story": story, "parent": parent}
        return [
            IncomingComment(
                text=comment_text(html_to_text(body)),
                author=text_member(data, "author", "id"),
                context={name: value for name, value in context.items() if value},
                reference={"story": story, "parent": parent},
            )
        ]

    def respond(self, outcomes: Sequence[Submission.Outcome]) -> dict[str, Any] | None:
        return _RESPONSES.get(outcomes[0]) if outcomes else None

    def supports(self, action: OutgoingAction) -> bool:
        return action.kind != PlatformAction.Kind.FLAG and bool(action.author)

    def send(self, connection: Connection, action: OutgoingAction) -> Response:
        response, comment = self._find(connection, action)
        if comment is None:
            return response
        request = {
            "commentID": comment["id"],
            "commentRevisionID": comment["revision"]["id"],
            "clientMutationId": "toxicmod",
        }
        if action.kind == PlatformAction.Kind.REJECT:
            request["reason"] = {"code": "OTHER", "customReason": action.reason}
        query = _REJECT if action.kind == PlatformAction.Kind.REJECT else _APPROVE
        return self._query(connection, query, {"input": request})[0]

    def _find(self, connection: Connection, action: OutgoingAction) -> tuple[Response, dict[str, Any] | None]:
        """Return the newest comment of the author with this text, story and parent.

        It is None if a request failed, whose response is returned.

        Raises:
            CommentNotFoundError: none of the author's newest comments is this one.
        """
        after = None
        for _ in range(_MAX_PAGES):
            variables = {"author": action.author, "first": _PAGE, "after": after}
            response, data = self._query(connection, _FIND, variables)
            if data is None:
                return response, None
            comments = (data.get("user") or {}).get("allComments") or {"nodes": [], "pageInfo": {}}
            for comment in comments["nodes"]:
                if _is_same(comment, action):
                    return response, comment
            if not comments["pageInfo"].get("hasNextPage"):
                break
            after = comments["pageInfo"]["endCursor"]
        raise CommentNotFoundError(
            "Coral does not list this comment among the newest ones of its author: it was edited or deleted."
        )

    def _query(
        self, connection: Connection, query: str, variables: Mapping[str, Any]
    ) -> tuple[Response, dict[str, Any] | None]:
        """Return the response and its data; None as data if the status is no success.

        Raises:
            NoResponseError: the response is not GraphQL, or reports errors.
        """
        headers = {"Authorization": f"Bearer {connection.token}"}
        body = {"query": query, "variables": variables}
        response = request_json(connection, "POST", "/api/graphql", headers, body)
        if not 200 <= response.status < 300:
            return response, None
        try:
            content = json.loads(response.excerpt)
            errors, data = content.get("errors"), content["data"]
        except (ValueError, KeyError, AttributeError) as error:
            raise NoResponseError("Coral did not respond with GraphQL: check its address.") from error
        if errors or not isinstance(data, dict):
            message = errors[0].get("message", "") if isinstance(errors, list) and errors else ""
            raise NoResponseError(f"Coral reports an error: {str(message)[:150]}")
        return response, data


def _is_same(comment: Mapping[str, Any], action: OutgoingAction) -> bool:
    """Return whether Coral's comment is the one of the action. White space is not compared."""
    parent = (comment.get("parent") or {}).get("id", "")
    text = comment_text(html_to_text(comment.get("body") or ""))
    return (
        comment["story"]["id"] == action.reference["story"]
        and parent == action.reference["parent"]
        and comment.get("revision") is not None
        and "".join(text.split()) == "".join(action.text.split())
    )
