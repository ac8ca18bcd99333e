"""Webhook receivers on 127.0.0.1: one with configurable responses, and hostile ones."""

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Receiver(ThreadingHTTPServer):
    """A platform that records its requests and responds with `status`, `headers` and `body`.

    The bodies of the first responses can be listed in `bodies`.
    """

    def __init__(self) -> None:
        self.status = 200
        self.headers: dict[str, str] = {}
        self.body = b""
        self.bodies: list[bytes] = []
        self.methods: list[str] = []
        self.got: list[tuple[dict[str, str], bytes, str]] = []
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/hook?platform=1"


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        response = self.server.bodies.pop(0) if self.server.bodies else self.server.body
        self.server.methods.append(self.command)
        self.server.got.append((dict(self.headers), body, self.path))
        self.send_response(self.server.status)
        for name, value in self.server.headers.items():
            self.send_header(name, value)
        if self.server.status == 302:
            self.send_header("Location", f"http://127.0.0.1:{self.server.server_port}/elsewhere")
        self.send_header("Content-Length", str(len(response)))
        self.end_headers()
        self.wfile.write(response)

    do_DELETE = do_PUT = do_POST  # noqa: N815

    def log_message(self, *args: Any) -> None:
        pass


@contextmanager
def running_receiver() -> Iterator[Receiver]:
    """Run a receiver until the end of the block."""
    server = Receiver()
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def raw_server(serve: Callable[[socket.socket], None], tls: ssl.SSLContext | None = None) -> Iterator[int]:
    """Call `serve` with each connection in a new thread; yield the port."""
    listener = socket.create_server(("127.0.0.1", 0))
    connections: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def handle(connection: socket.socket) -> None:
        with suppress(OSError):
            if tls is None:
                serve(connection)
            else:
                with tls.wrap_socket(connection, server_side=True) as encrypted:
                    serve(encrypted)

    def accept() -> None:
        with suppress(OSError):
            while True:
                connection = listener.accept()[0]
                connections.append(connection)
                threads.append(threading.Thread(target=handle, args=(connection,)))
                threads[-1].start()

    acceptor = threading.Thread(target=accept)
    acceptor.start()
    try:
        yield listener.getsockname()[1]
    finally:
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        acceptor.join()
        for connection in connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()
        for connection in connections:
            connection.close()


def read_request(connection: socket.socket) -> None:
    """Read a request whose body is `{}`; stop if the connection is closed."""
    request = b""
    while not request.endswith(b"{}"):
        part = connection.recv(65_536)
        if not part:
            return
        request += part


def drip(head: bytes, pause: float = 0.05, count: int = 100_000) -> Callable[[socket.socket], None]:
    """Return a `serve` that reads the request, sends `head`, and then a byte every `pause` seconds."""
    pausing = threading.Event()

    def serve(connection: socket.socket) -> None:
        connection.recv(65_536)
        connection.sendall(head)
        for _ in range(count):
            connection.sendall(b"a")
            pausing.wait(pause)

    return serve
