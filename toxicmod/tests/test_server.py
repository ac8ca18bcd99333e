"""Rejections of requests by the connection, in a real uvicorn with an application that rejects a path."""

import asyncio
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import closing
from typing import Any

import pytest
import uvicorn

from toxicmod.server import WebWorker
from toxicmod.testing.site import free_port

REJECTION = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 8\r\n\r\nrejected"
DELAY = 0.3  # seconds


class Application:
    """Rejects requests for `/no`, pipelined ones later; returns the body of others.

    The response to `/slow` comes after a delay; the end of a response to `/ends-late` comes after a delay.
    """

    def rejection(self, target: bytes, headers: Iterable[tuple[bytes, bytes]]) -> bytes | None:
        return REJECTION if target == b"/no" else None

    async def __call__(
        self,
        scope: dict[str, Any],
        receive: Callable[[], Awaitable[dict[str, Any]]],
        send: Callable[[dict[str, Any]], Awaitable[None]],
    ) -> None:
        body = (await receive())["body"]
        if scope["path"] == "/no":
            assert scope["toxicmod.is_pipelined"]
            body = b"rejected later"
        if scope["path"] == "/slow":
            await asyncio.sleep(DELAY)
        length = (b"content-length", b"%d" % len(body))
        await send({"type": "http.response.start", "status": 200, "headers": [length]})
        if scope["path"] == "/ends-late":
            await send({"type": "http.response.body", "body": body, "more_body": True})
            await asyncio.sleep(DELAY)
            body = b""
        await send({"type": "http.response.body", "body": body})


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    port = free_port()
    options: dict[str, Any] = WebWorker.CONFIG_KWARGS | {"log_level": "critical"}
    config = uvicorn.Config(Application(), port=port, **options)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield port
    server.should_exit = True
    thread.join()


def request(path: str, body: bytes, version: str = "1.1") -> bytes:
    return (
        f"POST {path} HTTP/{version}\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        + body
    )


def exchange(port: int, *parts: bytes, bodies: int) -> tuple[list[bytes], bool]:
    """Send parts; return the bodies of the responses, and whether the server closed the connection."""
    received = b""
    with closing(socket.create_connection(("127.0.0.1", port), timeout=2)) as connection:
        for part in parts:
            connection.sendall(part)
            time.sleep(0.05)
        closed = False
        while received.count(b"HTTP/1.1 ") < bodies or not received.partition(b"\r\n\r\n")[2]:
            if not (data := connection.recv(65_536)):
                break
            received += data
        connection.settimeout(0.5)
        try:
            closed = connection.recv(1) == b""
        except TimeoutError:
            closed = False
    return [response.partition(b"\r\n\r\n")[2] for response in received.split(b"HTTP/1.1 ")[1:]], closed


def test_rejected_request_leaves_connection_usable(port: int) -> None:
    first, second = request("/no", b"x" * 1_000), request("/", b"answered")
    assert exchange(port, first, second, bodies=2) == ([b"rejected", b"answered"], False)


def test_rejection_of_a_head_request_has_no_body(port: int) -> None:
    rejected = b"HEAD /no HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with closing(socket.create_connection(("127.0.0.1", port), timeout=2)) as connection:
        connection.sendall(rejected)
        time.sleep(0.1)
        received = connection.recv(65_536)
        assert received.endswith(b"\r\n\r\n")
        connection.sendall(request("/", b"answered"))
        time.sleep(0.1)
        assert connection.recv(65_536).startswith(b"HTTP/1.1 200")


def test_rejection_comes_before_the_body(port: int) -> None:
    head, body = request("/no", b"x" * 100)[:-100], b"x" * 100
    assert exchange(port, head, bodies=1) == ([b"rejected"], False)
    assert exchange(port, head, body, request("/", b"answered"), bodies=2) == (
        [b"rejected", b"answered"],
        False,
    )


def test_application_rejects_pipelined_request_when_its_turn_comes(port: int) -> None:
    requests = request("/slow", b"first") + request("/no", b"second") + request("/", b"third")
    assert exchange(port, requests, bodies=3) == ([b"first", b"rejected later", b"third"], False)


def test_request_is_answered_although_the_last_response_has_not_ended_in_the_application(port: int) -> None:
    """The application ends some responses after the client has received their bodies."""
    parts = request("/ends-late", b"first"), request("/no", b"second"), request("/", b"third")
    assert exchange(port, *parts, bodies=3) == ([b"first", b"rejected later", b"third"], False)


def test_rejection_closes_a_connection_that_the_client_does_not_keep(port: int) -> None:
    assert exchange(port, request("/no", b"once", version="1.0"), bodies=1) == ([b"rejected"], True)
