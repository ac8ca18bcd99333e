"""Signs and sends webhooks. `README.md` describes how a receiver verifies the signature."""

import hashlib
import hmac
import json
import time
from collections.abc import Sequence
from typing import Any

from django.utils.crypto import salted_hmac

from apps.accounts.models import APIKey
from apps.webhooks import transport
from apps.webhooks.models import SigningKey


def secret_of(key: SigningKey) -> str:
    """Return the key's secret, hexadecimal, derived from the site's `SECRET_KEY`."""
    return salted_hmac("moderation.webhook", key.key_id, algorithm="sha256").hexdigest()


def sign(body: bytes, timestamp: int, keys: Sequence[SigningKey]) -> str:
    """Return the `Webhook-Signature` header: `t=TIME, KEY-ID=HEX` with one entry per active key.

    Each is the HMAC-SHA256 of `TIME.BODY` under that key's secret; a receiver may hold any of them.
    """
    signed = str(timestamp).encode() + b"." + body
    parts = [
        f"{key.key_id}={hmac.new(secret_of(key).encode(), signed, hashlib.sha256).hexdigest()}"
        for key in keys
    ]
    return ", ".join([f"t={timestamp}", *parts])


def send(
    *,
    delivery_id: str,
    attempt: int,
    url: str,
    payload: dict[str, Any],
    api_key: APIKey | None,
    always_read: bool = False,
) -> transport.Response:
    """Send a webhook, signed by the active signing keys of the API key if it has any.

    Args:
        delivery_id: the same in each attempt, so that the receiver can recognize a repetition.
        attempt: 1 for the first one.

    Raises:
        InvalidEndpointError, NoResponseError: see `transport.exchange`.
    """
    body = json.dumps(payload, separators=(",", ":")).encode()
    headers = {
        "Content-Type": "application/json",
        "User-Agent": "toxicmod",
        "Webhook-Id": delivery_id,
        "Webhook-Attempt": str(attempt),
    }
    keys = list(SigningKey.objects.active().filter(api_key=api_key)) if api_key else []
    if keys:
        headers["Webhook-Signature"] = sign(body, int(time.time()), keys)
    return transport.exchange(url=url, body=body, headers=headers, always_read=always_read)
