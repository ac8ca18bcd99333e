"""One HTTP exchange with an untrusted receiver. Webhooks and connected platforms are sent with `exchange`.

DNS, connecting, TLS, sending and receiving share one absolute deadline, so a receiver that sends its response
slowly can't prolong the exchange. The response's size is bounded, redirects are not followed, and the
connection goes to the address that was checked, even if the name resolves to another one later.
"""

import http.client
import queue
import socket
import ssl
import threading
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.utils.encoding import iri_to_uri

from apps.webhooks.addresses import is_public
from apps.webhooks.exceptions import (
    InvalidEndpointError,
    NoResponseError,
    ResponseTimeoutError,
)

DEADLINE_SECONDS = 10.0
DNS_SECONDS = 5.0
MAX_RESPONSE_BYTES = 65_536
EXCERPT_BYTES = 1_024
# Python can't cancel a look-up: it ends when the system's resolver times out.
_MAX_LOOKUPS = 64
_lookups = threading.BoundedSemaphore(_MAX_LOOKUPS)


@dataclass(frozen=True)
class Response:
    """The receiver's response, with the first bytes of its body and the duration of the exchange."""

    status: int
    retry_after: str
    excerpt: str
    seconds: float


@dataclass(frozen=True)
class _Target:
    scheme: str
    host: str
    port: int
    path: str
    host_header: str


class _TooLargeError(OSError):
    """The response has more than `MAX_RESPONSE_BYTES`."""


class _BoundedMixin:
    """A socket whose reads and writes end at `deadline`, and which reads at most `MAX_RESPONSE_BYTES`."""

    deadline = 0.0
    received = 0

    def recv_into(self, *args: Any, **kwargs: Any) -> int:
        self.settimeout(_time_left(self.deadline))  # type: ignore[attr-defined]
        count = super().recv_into(*args, **kwargs)  # type: ignore[misc]
        self.received += count
        if self.received > MAX_RESPONSE_BYTES:
            raise _TooLargeError(f"the response is larger than {MAX_RESPONSE_BYTES} bytes")
        return count

    def send(self, *args: Any, **kwargs: Any) -> int:
        self.settimeout(_time_left(self.deadline))  # type: ignore[attr-defined]
        return super().send(*args, **kwargs)  # type: ignore[misc]

    def sendall(self, *args: Any, **kwargs: Any) -> None:
        self.settimeout(_time_left(self.deadline))  # type: ignore[attr-defined]
        super().sendall(*args, **kwargs)  # type: ignore[misc]


class _Socket(_BoundedMixin, socket.socket):
    pass


class _TLSSocket(_BoundedMixin, ssl.SSLSocket):
    pass


def _time_left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def exchange(
    *,
    url: str,
    body: bytes,
    headers: dict[str, str],
    method: str = "POST",
    seconds: float = DEADLINE_SECONDS,
    always_read: bool = False,
    max_excerpt: int = EXCERPT_BYTES,
) -> Response:
    """Send a body and return the response.

    Args:
        seconds: the deadline of the whole exchange.
        always_read: read the first bytes of the response's body even if it is a success.
        max_excerpt: the number of bytes of the response's body to read.

    Raises:
        InvalidEndpointError: the URL is malformed, or its host is not on the public internet and
            `WEBHOOK_ALLOW_PRIVATE` is not set.
        NoResponseError: the host is unknown, can't be reached, did not respond in time or not in HTTP.
    """
    start = time.monotonic()
    deadline = start + seconds
    target = _parse(url)
    try:
        addresses = _resolve(target, deadline)
        with _connect(target, addresses, deadline) as connected:
            connection = http.client.HTTPConnection(target.host, target.port)
            connection.sock = connected
            connection.request(
                method,
                target.path,
                body=body,
                headers={"Host": target.host_header, "Connection": "close", **headers},
            )
            response = connection.getresponse()
            is_success = 200 <= response.status < 300
            excerpt = b"" if is_success and not always_read else _read_excerpt(response, max_excerpt)
            return Response(
                status=response.status,
                retry_after=response.headers.get("Retry-After", ""),
                excerpt=excerpt.decode("utf-8", "replace"),
                seconds=time.monotonic() - start,
            )
    except TimeoutError as error:
        raise ResponseTimeoutError(f"There was no complete response within {seconds:g} seconds.") from error
    except ssl.SSLCertVerificationError as error:
        raise NoResponseError(f"The receiver's certificate is not valid: {error.verify_message}.") from error
    except ssl.SSLError as error:
        raise NoResponseError(f"TLS failed: {error.reason or error}.") from error
    except OSError as error:
        raise NoResponseError(f"The connection failed: {error.strerror or error}.") from error
    except http.client.InvalidURL as error:
        raise InvalidEndpointError("The URL contains characters that a URL must not contain.") from error
    except (http.client.HTTPException, ValueError) as error:
        raise NoResponseError(
            f"The receiver did not respond in HTTP ({error.__class__.__name__})."
        ) from error


def _parse(url: str) -> _Target:
    try:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        host = parts.hostname or ""
        ascii_host = host if ":" in host else host.encode("idna").decode("ascii")
    except ValueError as error:  # UnicodeError is one
        raise InvalidEndpointError("The URL is malformed: check its host name and port.") from error
    if parts.scheme not in ("http", "https") or not ascii_host or parts.username is not None:
        raise InvalidEndpointError("The URL has to begin with http:// or https:// and may hold no password.")
    name = f"[{ascii_host}]" if ":" in ascii_host else ascii_host
    return _Target(
        scheme=parts.scheme,
        host=ascii_host,
        port=port,
        path=iri_to_uri((parts.path or "/") + (f"?{parts.query}" if parts.query else "")),
        host_header=name if parts.port is None else f"{name}:{port}",
    )


def check_url(url: str) -> None:
    """Check what can be checked without a DNS look-up: the form of the URL, and a host that is an address.

    Raises:
        InvalidEndpointError: `exchange` would reject this URL without a DNS look-up.
    """
    target = _parse(url)
    name = f".{target.host.rstrip('.').lower()}"
    if not settings.WEBHOOK_ALLOW_PRIVATE and (
        name.endswith(".localhost") or not all(map(is_public, _numeric_addresses(target.host)))
    ):
        raise _private_error()


def _numeric_addresses(host: str) -> list[str]:
    """Return the address that a host is, also in forms such as `127.1` or `0x7f000001`; none for a name."""
    try:
        return [str(info[4][0]) for info in socket.getaddrinfo(host, None, flags=socket.AI_NUMERICHOST)]
    except (OSError, UnicodeError):
        return []


def _resolve(target: _Target, deadline: float) -> list[str]:
    """Return the host's addresses, all of them checked."""
    addresses = _look_up(target.host, target.port, deadline)
    if not settings.WEBHOOK_ALLOW_PRIVATE and not all(map(is_public, addresses)):
        raise _private_error()
    return addresses


def _private_error() -> InvalidEndpointError:
    return InvalidEndpointError("The host is not on the public internet (WEBHOOK_ALLOW_PRIVATE allows it).")


def _look_up(host: str, port: int, deadline: float) -> list[str]:
    lookups = _lookups
    if not lookups.acquire(blocking=False):
        raise NoResponseError("Too many DNS look-ups are waiting: is the resolver reachable?")
    answers: queue.SimpleQueue[list[str] | OSError | UnicodeError] = queue.SimpleQueue()

    def look_up() -> None:
        try:
            entries = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            answers.put(list(dict.fromkeys(str(info[4][0]) for info in entries)))
        except (OSError, UnicodeError) as error:
            answers.put(error)
        finally:
            lookups.release()

    threading.Thread(target=look_up, name="webhook-dns", daemon=True).start()
    try:
        answer = answers.get(timeout=min(DNS_SECONDS, _time_left(deadline)))
    except queue.Empty:
        raise ResponseTimeoutError("The host name was not resolved in time.") from None
    if isinstance(answer, Exception):
        raise NoResponseError("The host name can't be resolved.") from answer
    return answer


def _connect(target: _Target, addresses: list[str], deadline: float) -> socket.socket:
    """Connect to the first address that accepts. The addresses get equal shares of the remaining time."""
    for number, address in enumerate(addresses):
        share = _time_left(deadline) / (len(addresses) - number)
        sock = _Socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
        try:
            sock.settimeout(share)
            sock.connect((address, target.port))
            if not settings.WEBHOOK_ALLOW_PRIVATE and not is_public(sock.getpeername()[0]):
                raise _private_error()
            sock.deadline = deadline
            return _start_tls(sock, target, deadline) if target.scheme == "https" else sock
        except ssl.SSLError:
            sock.close()
            raise
        except OSError:
            sock.close()
            if number == len(addresses) - 1:
                raise
        except BaseException:
            sock.close()
            raise
    raise NoResponseError("The host name has no address.")


def _start_tls(sock: _Socket, target: _Target, deadline: float) -> _TLSSocket:
    context = ssl.create_default_context()
    context.sslsocket_class = _TLSSocket
    tls = context.wrap_socket(sock, server_hostname=target.host, do_handshake_on_connect=False)
    assert isinstance(tls, _TLSSocket)
    try:
        tls.deadline = deadline
        tls.settimeout(_time_left(deadline))
        tls.do_handshake()
    except BaseException:
        tls.close()
        raise
    return tls


def _read_excerpt(response: http.client.HTTPResponse, size: int) -> bytes:
    """Return the first `size` bytes of the body, or those that are received before the deadline."""
    excerpt = b""
    try:
        while len(excerpt) < size:
            part = response.read1(size - len(excerpt))
            if not part:
                break
            excerpt += part
    except (OSError, http.client.HTTPException):
        pass  # the status is known: an incomplete body does not matter
    return excerpt
