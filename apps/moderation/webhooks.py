"""Webhooks: what they say, how they are signed, and sending them without reaching into one's own network."""

import hashlib
import hmac
import ipaddress
import json
import socket
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import urllib3
from django.conf import settings
from django.core import signing
from django.utils.crypto import get_random_string, salted_hmac

from apps.accounts.models import APIKey
from apps.moderation.exports import statement_of_reasons
from apps.moderation.models import Decision, Delivery, Submission, WebhookKey

TIMEOUT_SECONDS = 10.0
APPEAL_DAYS = 183  # DSA Article 20(1): at least six months
_SALT = "moderation.appeal"
# Public by the book, and yet answered only inside a cloud.
_METADATA = {ipaddress.ip_address("168.63.129.16")}
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class RefusedAddressError(Exception):
    """The callback's address may not be reached from here."""


def appeal_token(decision: Decision) -> str:
    """Return the signed token with which the author may appeal, for six months."""
    return signing.dumps(decision.pk, salt=_SALT)


def decision_of_token(token: str) -> int:
    """Return the decision's id from an appeal token.

    Raises:
        signing.BadSignature: the token is forged or has expired.
    """
    return int(signing.loads(token, salt=_SALT, max_age=timedelta(days=APPEAL_DAYS)))


def payload(decision: Decision, event: Delivery.Event) -> dict[str, Any]:
    """Return what the platform is told. It holds no comment, no note and no moderator's name."""
    submission = decision.submission
    # After a reversal what was decided before holds again; where nothing was, a human has yet to decide.
    holds = submission.current() if decision.action == Decision.Action.REVERSE else decision
    outcome = Submission.Outcome(holds.action) if holds else Submission.Outcome.HUMAN_REVIEW
    told: dict[str, Any] = {
        "event": str(event),
        "decision_id": decision.pk,
        "reverses": decision.reverses_id,
        "prediction_id": str(submission.pk),
        "queue_id": decision.item_id,
        "external_id": submission.external_id,
        "community": submission.community,
        "author": submission.author.ref if submission.author else None,
        "outcome": str(outcome),
        "reasons": [],
        "decided_at": decision.created_at.isoformat(),
        "model_version": decision.model_version.number,
        "policy": {"community": decision.policy.community, "version": decision.policy.version},
    }
    if holds and outcome == Submission.Outcome.REJECT:
        token = appeal_token(holds)
        told |= {"statement_of_reasons": statement_of_reasons(holds), "appeal_token": token}
        if rule := holds.rule:
            told["reasons"] = [{"label": rule.label, "title": rule.title, "reason": rule.reason}]
        if settings.PUBLIC_URL:
            told["appeal_url"] = f"{settings.PUBLIC_URL}/appeal/{token}"
    return told


def secret_of(key: WebhookKey) -> str:
    """Return the key's secret, hexadecimal, derived from the site's own."""
    return salted_hmac("moderation.webhook", key.key_id, algorithm="sha256").hexdigest()


def new_key(client: APIKey) -> WebhookKey:
    """Store a further signing key of the client."""
    return WebhookKey.objects.create(
        client=client, key_id=get_random_string(16, "abcdefghjkmnpqrstuvwxyz23456789")
    )


def active_keys(client: APIKey) -> list[WebhookKey]:
    """Return the client's signing keys, at most two, the newest first; the first one is made on first use."""
    return list(WebhookKey.objects.filter(client=client, retired_at=None)[:2]) or [new_key(client)]


def sign(body: bytes, timestamp: int, keys: Sequence[WebhookKey]) -> str:
    """Return the `Webhook-Signature` header: `t=TIME, KEY-ID=HEX` with one entry per active key.

    Each is the HMAC-SHA256 of `TIME.BODY` under that key's secret; a receiver may hold any of them.
    """
    signed = str(timestamp).encode() + b"." + body
    parts = [
        f"{key.key_id}={hmac.new(secret_of(key).encode(), signed, hashlib.sha256).hexdigest()}"
        for key in keys
    ]
    return ", ".join([f"t={timestamp}", *parts])


def is_public(address: str) -> bool:
    """Return whether an address belongs to the public internet, looking into IPv4 wrapped in IPv6."""
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        if ip in _NAT64:
            return is_public(str(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)))
        wrapped = ip.ipv4_mapped or ip.sixtofour or (ip.teredo and ip.teredo[1])
        if wrapped:
            return is_public(str(wrapped))
    return ip.is_global and not ip.is_multicast and ip not in _METADATA


def resolve(host: str, port: int) -> str:
    """Return an address of the host that may be connected to.

    Raises:
        RefusedAddressError: the host is unknown, or any of its addresses is private, loopback, link-local,
            multicast, reserved or a cloud's metadata service, and `WEBHOOK_ALLOW_PRIVATE` is not set.
    """
    try:
        found = [str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    except (OSError, UnicodeError) as error:
        raise RefusedAddressError("The host name can't be resolved.") from error
    if not settings.WEBHOOK_ALLOW_PRIVATE and not all(
        is_public(address.partition("%")[0]) for address in found
    ):
        raise RefusedAddressError("The host is not on the public internet (WEBHOOK_ALLOW_PRIVATE allows it).")
    return found[0]


def post(*, url: str, body: bytes, headers: dict[str, str]) -> int:
    """Send a body and return the answer's status. Redirects are answers, they are not followed.

    The connection goes to the very address that was checked, so a name that resolves differently a moment
    later gains nothing; TLS still verifies the name.

    Raises:
        RefusedAddressError: see `resolve`; or the URL is not plain http(s).
        urllib3.exceptions.HTTPError: no answer in time, or the connection or its certificate failed.
    """
    parts = urlsplit(url)
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError as error:
        raise RefusedAddressError("The URL's port is not a port.") from error
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
        raise RefusedAddressError("The URL is not a plain http or https one.")
    host = parts.hostname
    address = resolve(host, port)
    timeout = urllib3.Timeout(total=TIMEOUT_SECONDS)
    pool = (
        urllib3.HTTPSConnectionPool(
            address, port, timeout=timeout, server_hostname=host, assert_hostname=host
        )
        if parts.scheme == "https"
        else urllib3.HTTPConnectionPool(address, port, timeout=timeout)
    )
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    name = f"[{host}]" if ":" in host else host
    with pool:
        response = pool.request(
            "POST",
            target,
            body=body,
            headers={"Host": name if parts.port is None else f"{name}:{port}", **headers},
            redirect=False,
            retries=False,
            preload_content=False,
        )
        status = response.status
        response.close()  # nothing of the answer's body is read, so an endless one does no harm
    return status


def send(delivery: Delivery) -> int:
    """Sign and send a delivery; return the answer's status.

    Raises:
        RefusedAddressError, urllib3.exceptions.HTTPError: see `post`.
    """
    body = json.dumps(delivery.payload, separators=(",", ":")).encode()
    headers = {
        "Content-Type": "application/json",
        "User-Agent": "toxicmod",
        "Webhook-Id": str(delivery.pk),
        "Webhook-Attempt": str(delivery.attempts),
    }
    if delivery.client:
        headers["Webhook-Signature"] = sign(body, int(time.time()), active_keys(delivery.client))
    return post(url=delivery.url, body=body, headers=headers)
