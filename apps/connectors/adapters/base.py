"""The interface of the adapters, and the parts that they share."""

import hashlib
import hmac
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import unescape
from typing import Any

from django.conf import settings
from django.utils.html import strip_tags

from apps.connectors.exceptions import InvalidPayloadError
from apps.connectors.models import Connection, PlatformAction
from apps.core.text import is_storable
from apps.moderation.models import Submission
from apps.webhooks import transport

MAX_ID, MAX_TITLE, MAX_URL = 200, 300, 500  # characters that are stored
_BLOCK_END = re.compile(r"<br\s*/?>|</(?:p|div|li|blockquote|h[1-6]|pre)>", re.IGNORECASE)


@dataclass(frozen=True)
class IncomingComment:
    """A comment that a platform sent.

    Attributes:
        author, external_id: the platform's IDs of author and comment; the second is empty if it sends none.
        context: what moderators see beside the comment, such as `url` and `title`.
        reference: what `Adapter.send` needs to name the comment to the platform.
        is_reported: whether a user of the platform reported it, so that a moderator decides in any case.
    """

    text: str
    author: str = ""
    external_id: str = ""
    context: dict[str, str] = field(default_factory=dict)
    reference: dict[str, str] = field(default_factory=dict)
    is_reported: bool = False


@dataclass(frozen=True)
class OutgoingAction:
    """A flag or decision to send.

    Attributes:
        text, author, external_id, reference: those of the `IncomingComment`.
        reason: the explanation of a rejection for the author.
        previous: the kind of the last action that was sent for the comment, or an empty string.
    """

    kind: PlatformAction.Kind
    text: str
    author: str
    external_id: str
    reference: Mapping[str, str]
    reason: str = ""
    previous: str = ""


class Adapter(ABC):
    """What is particular to a platform.

    Attributes:
        signature_header: the header with the hexadecimal HMAC-SHA256 of the body, after `sha256=`.
        flags: whether a comment that the policy does not approve is flagged on the platform.
    """

    signature_header: str
    flags = False

    def verify(self, secret: str, headers: Mapping[str, str], body: bytes) -> bool:
        """Return whether one of the signatures of a request is that of its body, and there is a secret."""
        expected = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest().encode()
        signatures = headers.get(self.signature_header, "").split(",")
        valid = [
            hmac.compare_digest(signature.strip().removeprefix("sha256=").encode(), expected)
            for signature in signatures[:10]
        ]
        return bool(secret) and any(valid)

    @abstractmethod
    def read(self, headers: Mapping[str, str], data: Any) -> list[IncomingComment]:
        """Return the comments of a request; none for an event that needs no answer.

        Raises:
            InvalidPayloadError: the data is not what the platform's documentation describes.
        """

    def respond(self, outcomes: Sequence[Submission.Outcome]) -> dict[str, Any] | None:
        """Return the JSON object with which to answer, or None for an empty answer with status 204."""
        return None

    @abstractmethod
    def supports(self, action: OutgoingAction) -> bool:
        """Return whether the platform has a request for this action."""

    @abstractmethod
    def send(self, connection: Connection, action: OutgoingAction) -> transport.Response:
        """Send an action that is supported, and return the platform's last response.

        Raises:
            ExchangeError: see `transport.exchange`.
            CommentNotFoundError: the platform does not have this comment any more.
        """


def request_json(
    connection: Connection, method: str, path: str, headers: Mapping[str, str], body: Mapping[str, Any] | None
) -> transport.Response:
    """Send a JSON request to the platform and return the response with its whole body.

    Raises:
        ExchangeError: see `transport.exchange`.
    """
    return transport.exchange(
        method=method,
        url=connection.base_url.rstrip("/") + path,
        body=b"" if body is None else json.dumps(body).encode(),
        headers={"Content-Type": "application/json", "User-Agent": "toxicmod", **headers},
        always_read=True,
        max_excerpt=transport.MAX_RESPONSE_BYTES,
    )


def member(data: Any, *path: str) -> Any:
    """Return a member of nested JSON objects, or None if there is none.

    Raises:
        InvalidPayloadError: a value on the path is no object.
    """
    for number, name in enumerate(path):
        if data is None:
            return None
        if not isinstance(data, dict):
            raise InvalidPayloadError(f"“{'.'.join(path[:number]) or 'The body'}” must be an object.")
        data = data.get(name)
    return data


def text_member(data: Any, *path: str, size: int = MAX_ID) -> str:
    """Return a member that is a string or an integer as a text of at most `size` characters; empty for null.

    Raises:
        InvalidPayloadError: it is something else, or contains characters that can't be stored.
    """
    value = member(data, *path)
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise InvalidPayloadError(f"“{'.'.join(path)}” must be a string or a number.")
    text = str(value)[:size]
    if not is_storable(text):
        raise InvalidPayloadError(f"“{'.'.join(path)}” has a character that can't be stored.")
    return text


def comment_text(text: str) -> str:
    """Return the text to score and store: valid Unicode without NUL, at most `MAX_COMMENT_BYTES` bytes."""
    encoded = text.replace("\0", "").encode(errors="replace")
    return encoded[: settings.MAX_COMMENT_BYTES].decode(errors="ignore").strip()


def html_to_text(html: str) -> str:
    """Return the text of an HTML fragment; blocks and line breaks end a line."""
    return unescape(strip_tags(_BLOCK_END.sub("\n", html))).strip()
