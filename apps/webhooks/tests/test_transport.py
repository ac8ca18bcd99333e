"""The exchange with a receiver: deadline, size, addresses, TLS."""

import socket
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trustme
from pytest_django import Settings

from apps.webhooks import transport
from apps.webhooks.exceptions import InvalidEndpointError, NoResponseError, ResponseTimeoutError
from apps.webhooks.transport import exchange
from toxicmod.testing.receivers import Receiver, drip, raw_server, read_request

SECONDS = 0.6
# On a busy machine the deadline may pass late, but long before these receivers would finish.
LATEST = 8.0


@pytest.fixture
def private(settings: Settings) -> None:
    settings.WEBHOOK_ALLOW_PRIVATE = True


def send(port: int, scheme: str = "http", host: str = "127.0.0.1", **options: Any) -> transport.Response:
    return exchange(url=f"{scheme}://{host}:{port}/", body=b"{}", headers={}, seconds=SECONDS, **options)


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"HTTP/1.1 ",
        b"HTTP/1.1 200 OK\r\nX-Slow: ",
        b"HTTP/1.1 200 OK\r\nX-One: 1\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
    ],
)
@pytest.mark.usefixtures("private")
def test_post_slow_headers_end_at_deadline(head: bytes) -> None:
    with raw_server(drip(head)) as port:
        start = time.monotonic()
        with pytest.raises(ResponseTimeoutError, match=r"0\.6 seconds"):
            send(port)
        assert SECONDS <= time.monotonic() - start < LATEST


@pytest.mark.usefixtures("private")
def test_post_receiver_that_never_reads_ends_at_deadline() -> None:
    test_ended = threading.Event()
    with raw_server(lambda connection: test_ended.wait(20) and None) as port:
        start = time.monotonic()
        try:
            with pytest.raises(ResponseTimeoutError):
                exchange(url=f"http://127.0.0.1:{port}/", body=b"x" * 50_000_000, headers={}, seconds=SECONDS)
            assert time.monotonic() - start < LATEST
        finally:
            test_ended.set()


@pytest.mark.usefixtures("private")
def test_post_slow_body_returns_status() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\nhello"
    with raw_server(drip(head)) as port:
        start = time.monotonic()
        assert send(port).status == 200
        response = send(port, always_read=True)
        assert (response.status, response.excerpt[:5]) == (200, "hello")
        assert time.monotonic() - start < LATEST
    with raw_server(drip(head.replace(b"200 OK", b"500 No"))) as port:
        assert send(port).excerpt.startswith("hello")


@pytest.mark.usefixtures("private")
def test_post_limits_size_of_response() -> None:
    def flood(connection: socket.socket) -> None:
        read_request(connection)
        while True:
            connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n" * 1_000)

    def long_head(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\n")
        for number in range(90):
            connection.sendall(b"X-%d: %s\r\n" % (number, b"x" * 60_000))

    def long_body(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(b"HTTP/1.1 500 No\r\n\r\n")
        while True:
            connection.sendall(b"x" * 65_536)

    for serve in (flood, long_head):
        with raw_server(serve) as port, pytest.raises(NoResponseError, match=r"larger than|HTTP"):
            send(port)
    with raw_server(long_body) as port:
        assert len(send(port).excerpt) <= transport.EXCERPT_BYTES


@pytest.mark.parametrize(
    "answer", [b"", b"SSH-2.0-OpenSSH_9.6\r\n", b"HTTP/1.1 abc OK\r\n\r\n", b"\x16\x03\x01\x02\x00" * 50]
)
@pytest.mark.usefixtures("private")
def test_post_response_that_is_not_http(answer: bytes) -> None:
    def serve(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(answer)
        connection.shutdown(socket.SHUT_RDWR)

    with raw_server(serve) as port, pytest.raises(NoResponseError):
        send(port)


@pytest.mark.usefixtures("private")
def test_post_closed_port() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        with pytest.raises(NoResponseError, match="refused"):
            send(closed.getsockname()[1])


def test_post_does_not_follow_redirect(receiver: Receiver) -> None:
    receiver.status = 302
    assert exchange(url=receiver.url, body=b"{}", headers={}).status == 302
    assert len(receiver.got) == 1


def test_post_encodes_international_url(receiver: Receiver) -> None:
    url = f"http://127.0.0.1:{receiver.server_port}/straße?q=ü b"
    assert exchange(url=url, body=b"{}", headers={}).status == 200
    assert receiver.got[0][2] == "/stra%C3%9Fe?q=%C3%BC%20b"


@pytest.fixture
def certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> trustme.LeafCert:
    """A certificate of an authority that this process trusts."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    return authority.issue_cert("localhost")


def tls_context(certificate: trustme.LeafCert) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    return context


@pytest.mark.usefixtures("private")
def test_post_verifies_certificate_within_deadline(certificate: trustme.LeafCert) -> None:
    def respond(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    with raw_server(respond, tls_context(certificate)) as port:
        assert send(port, "https", "localhost", always_read=True).excerpt == "ok"
        with pytest.raises(NoResponseError, match="certificate is not valid"):
            send(port, "https", "127.0.0.1")
    with raw_server(drip(b"HTTP/1.1 200 OK\r\nX: "), tls_context(certificate)) as port:
        start = time.monotonic()
        with pytest.raises(ResponseTimeoutError):
            send(port, "https", "localhost")
        assert time.monotonic() - start < LATEST
    # The server sends the TLS handshake slowly.
    with raw_server(drip(b"\x16\x03\x03\x40\x00")) as port:
        start = time.monotonic()
        with pytest.raises(ResponseTimeoutError):
            send(port, "https", "localhost")
        assert time.monotonic() - start < LATEST


def test_post_hanging_resolver_ends_at_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()

    def hang(*args: Any, **kwargs: Any) -> Any:
        released.wait(20)
        raise OSError

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    monkeypatch.setattr(transport, "_lookups", threading.BoundedSemaphore(2))
    start = time.monotonic()
    for _ in range(2):
        with pytest.raises(ResponseTimeoutError, match="resolved in time"):
            send(80, host="platform.example")
    with pytest.raises(NoResponseError, match="Too many"):
        send(80, host="platform.example")
    assert time.monotonic() - start < LATEST
    released.set()


def answer_with(*addresses: str) -> Callable[..., Any]:
    return lambda host, port, **kwargs: [(0, 0, 0, "", (address, port)) for address in addresses]


@pytest.mark.parametrize("address", ["127.0.0.1", "::127.0.0.1", "fec0::1", "3fff::1", "169.254.169.254"])
def test_post_rejects_name_with_any_private_address(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", answer_with("93.184.216.34", address))
    with pytest.raises(InvalidEndpointError, match="public internet"):
        send(80, host="rebind.example")


@pytest.mark.parametrize(
    ("host", "is_valid"),
    [
        ("platform.example", True),
        ("localhost.example", True),
        ("93.184.216.34", True),
        ("[2606:4700::1111]", True),
        ("localhost", False),
        ("LocalHost.", False),
        ("app.localhost", False),
        ("127.0.0.1", False),
        ("127.1", False),
        ("2130706433", False),
        ("0x7f.0.0.1", False),
        ("10.0.0.7:8080", False),
        ("[::1]", False),
        ("[::ffff:192.168.1.1]", False),
        ("user:secret@platform.example", False),
    ],
)
def test_check_url_without_dns(
    host: str, is_valid: bool, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    get_address = socket.getaddrinfo

    def numeric_only(*args: Any, flags: int = 0) -> Any:
        assert flags & socket.AI_NUMERICHOST
        return get_address(*args, flags=flags)

    monkeypatch.setattr(socket, "getaddrinfo", numeric_only)
    if is_valid:
        transport.check_url(f"https://{host}/hook")
        return
    with pytest.raises(InvalidEndpointError):
        transport.check_url(f"https://{host}/hook")
    settings.WEBHOOK_ALLOW_PRIVATE = True
    if "@" not in host:
        transport.check_url(f"https://{host}/hook")


def test_post_checks_address_after_connecting(
    receiver: Receiver, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second check prevents sending if the first one was wrong."""
    settings.WEBHOOK_ALLOW_PRIVATE = False
    checked: list[str] = []

    def is_public_once(address: str) -> bool:
        checked.append(address)
        return len(checked) == 1

    monkeypatch.setattr(transport, "is_public", is_public_once)
    with pytest.raises(InvalidEndpointError, match="public internet"):
        send(receiver.server_port)
    assert checked == ["127.0.0.1", "127.0.0.1"]
    assert receiver.got == []


def test_post_resolves_once_and_tries_next_address(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that resolves to another address later (DNS rebinding) has no effect."""
    names: list[str] = []

    def resolve(host: str, port: int, **kwargs: Any) -> Any:
        names.append(host)
        return answer_with("127.0.0.2", "127.0.0.1")(host, port)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    assert send(receiver.server_port, host="platform.example").status == 200
    assert names == ["platform.example"]
    assert receiver.got[0][0]["Host"] == f"platform.example:{receiver.server_port}"


@pytest.mark.parametrize(
    "url",
    [
        "ftp://platform.example/",
        "file:///etc/passwd",
        "http://user:secret@platform.example/",  # pragma: allowlist secret
        "http://",
        "http://platform.example:99999/",
        "http://platform.example:x/",
        "http://[::1/",
        f"http://{'a' * 70}.example/",
        "http://2130706433/",
        "http://0x7f.1/",
        "http://0177.0.0.1/",
        "http://127.1/",
        "http://localhost/",
        "http://[::1]/",
        "http://[::ffff:127.0.0.1]/",
        "http://[::127.0.0.1]/",
        "http://[fe80::1%25lo]/",
        "javascript:alert(1)",
        "",
    ],
)
def test_post_rejects_url(url: str) -> None:
    with pytest.raises((InvalidEndpointError, NoResponseError)) as caught:
        exchange(url=url, body=b"", headers={}, seconds=5)
    assert isinstance(caught.value, InvalidEndpointError) or "resolved" in str(caught.value)


def test_post_rejects_header_injection(receiver: Receiver) -> None:
    url = f"http://127.0.0.1:{receiver.server_port}/a\r\nX-Evil: 1"
    assert exchange(url=url, body=b"{}", headers={}).status == 200
    assert "X-Evil" not in receiver.got[0][0]
