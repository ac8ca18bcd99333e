"""Mastodon's webhooks for statuses and reports, and its admin API, as docs.joinmastodon.org describes them.

The admin API has no method to delete a status of another user. A rejection is therefore sent as a warning to
the author, which closes the report, and an approval closes the report without an action.
"""

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

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
from apps.connectors.exceptions import InvalidPayloadError
from apps.connectors.models import Connection, PlatformAction
from apps.webhooks.transport import Response

_STATUS_EVENTS = ("status.created", "status.updated")
_PUBLIC = ("public", "unlisted")
MAX_STATUSES = 50  # of a report


class Mastodon(Adapter):
    """Mastodon reports each new and each edited public status, and the statuses that users report."""

    signature_header = "X-Hub-Signature"

    def read(self, headers: Mapping[str, str], data: Any) -> list[IncomingComment]:
        event, content = member(data, "event"), member(data, "object")
        if event in _STATUS_EVENTS:
            is_public = member(content, "visibility") in _PUBLIC
            return [self._read_status(content, {})] if is_public else []
        if event != "report.created":
            return []
        statuses = member(content, "statuses") or []
        if not isinstance(statuses, list):
            raise InvalidPayloadError("“object.statuses” must be a list.")
        report = text_member(content, "id")
        return [self._read_status(status, {"report": report}) for status in statuses[:MAX_STATUSES]]

    def _read_status(self, status: Any, reference: dict[str, str]) -> IncomingComment:
        content, spoiler = member(status, "content"), text_member(status, "spoiler_text", size=500)
        if not isinstance(content, str):
            raise InvalidPayloadError("“content” of a status must be a string.")
        context = {
            "url": text_member(status, "url", size=MAX_URL),
            "parent": text_member(status, "in_reply_to_id"),
            **reference,
        }
        return IncomingComment(
            text=comment_text("\n".join(filter(None, (spoiler, html_to_text(content))))),
            author=text_member(status, "account", "id"),
            external_id=text_member(status, "id"),
            context={name: value for name, value in context.items() if value},
            reference=reference,
            is_reported=bool(reference),
        )

    def supports(self, action: OutgoingAction) -> bool:
        if action.kind == PlatformAction.Kind.REJECT:
            return bool(action.author)
        return action.kind == PlatformAction.Kind.APPROVE and bool(action.reference.get("report"))

    def send(self, connection: Connection, action: OutgoingAction) -> Response:
        headers = {"Authorization": f"Bearer {connection.token}"}
        report = action.reference.get("report", "")
        if action.kind == PlatformAction.Kind.APPROVE:
            path = f"/api/v1/admin/reports/{quote(report, safe='')}/resolve"
            return request_json(connection, "POST", path, headers, {})
        path = f"/api/v1/admin/accounts/{quote(action.author, safe='')}/action"
        body: dict[str, Any] = {"type": "none", "text": action.reason, "send_email_notification": True}
        if report:
            body["report_id"] = report
        return request_json(connection, "POST", path, headers, body)
