"""Requests and responses of the platforms, written after their documentation."""

import hashlib
import hmac
import json
from copy import deepcopy
from typing import Any

SECRET = "secret of the platform"  # pragma: allowlist secret
RUDE, KIND, WORSE = "insult=0.7 you fool", "insult=0.1 thanks", "insult=0.99 you fool"

CORAL: dict[str, Any] = {
    "action": "NEW",
    "comment": {"body": f"<p>{RUDE}</p>", "parentID": "parent-1"},
    "author": {"id": "author-1", "role": "COMMENTER"},
    "story": {"id": "story-1", "url": "https://news.example.org/story-1"},
    "site": {"id": "site-1"},
    "tenantID": "tenant-1",
    "tenantDomain": "coral.example.org",
}
CORAL_COMMENT: dict[str, Any] = {
    "id": "comment-1",
    "body": f"<p>{RUDE}</p>",
    "story": {"id": "story-1"},
    "parent": {"id": "parent-1"},
    "revision": {"id": "revision-1"},
}
DISCOURSE: dict[str, Any] = {
    "post": {
        "id": 42,
        "username": "anna",
        "user_id": 7,
        "raw": RUDE,
        "cooked": f"<p>{RUDE}</p>",
        "post_number": 3,
        "reply_to_post_number": 2,
        "post_url": "/t/a-topic/12/3",
        "topic_id": 12,
        "topic_slug": "a-topic",
        "topic_title": "A topic",
        "topic_archetype": "regular",
    }
}
STATUS: dict[str, Any] = {
    "id": "1100",
    "created_at": "2026-11-01T10:00:00.000Z",
    "in_reply_to_id": "1099",
    "spoiler_text": "",
    "visibility": "public",
    "url": "https://social.example.org/@anna/1100",
    "content": f"<p>{RUDE}</p>",
    "account": {"id": "77", "username": "anna", "acct": "anna"},
}
MASTODON_STATUS = {"event": "status.created", "created_at": "2026-11-01T10:00:00.100Z", "object": STATUS}
MASTODON_REPORT: dict[str, Any] = {
    "event": "report.created",
    "created_at": "2026-11-01T11:00:00.000Z",
    "object": {
        "id": "8437",
        "action_taken": False,
        "category": "violation",
        "comment": "Please look",
        "account": {"id": "1", "username": "reporter"},
        "target_account": {"id": "77", "username": "anna"},
        "statuses": [STATUS],
    },
}
REQUESTS: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    "coral": (CORAL, {}),
    "discourse": (DISCOURSE, {"X-Discourse-Event": "post_created"}),
    "mastodon": (MASTODON_STATUS, {}),
}
SIGNATURE_HEADERS = {
    "coral": "X-Coral-Signature",
    "discourse": "X-Discourse-Event-Signature",
    "mastodon": "X-Hub-Signature",
}


def signature(body: bytes, secret: str = SECRET) -> str:
    """Return the signature that all three platforms send."""
    return "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def with_text(platform: str, text: str) -> dict[str, Any]:
    """Return the request of a platform with another comment."""
    data = deepcopy(REQUESTS[platform][0])
    match platform:
        case "coral":
            data["comment"]["body"] = text
        case "discourse":
            data["post"]["raw"] = text
        case _:
            data["object"]["content"] = text
    return data


def graphql(data: dict[str, Any]) -> bytes:
    """Return a response of Coral's GraphQL API."""
    return json.dumps({"data": data}).encode()


def coral_page(*comments: dict[str, Any], after: str = "") -> bytes:
    """Return the response to Coral's query of a user's comments; `after` names the next page."""
    page = {"hasNextPage": bool(after), "endCursor": after or None}
    return graphql({"user": {"allComments": {"nodes": list(comments), "pageInfo": page}}})
