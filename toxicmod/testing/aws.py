"""AWS for tests: moto's server in its own process, and a proxy that injects faults."""

import http.client
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from toxicmod.testing.site import free_port

# Credentials for the standard chain; moto accepts any.
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "eu-central-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@contextmanager
def moto() -> Iterator[str]:
    """Run moto's server; yield its URL."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-p", str(port)],
        env=os.environ | ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        end = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                if time.monotonic() > end or process.poll() is not None:
                    raise RuntimeError("moto's server did not start") from None
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


class FaultProxy(ThreadingHTTPServer):
    """Forwards calls to a server, and fails those for which `fault` returns a fault.

    `fault` gets the name of the operation. It returns None; the code of an error to respond with; `"cut"`, to
    close the connection before the call is forwarded; or `"lost"`, to close it afterwards.
    """

    daemon_threads = True

    def __init__(self, target: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.target = urlsplit(target).netloc
        self.fault: Callable[[str], str | None] = lambda operation: None
        self.url = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log nothing, because tests kill clients."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FaultProxy

    def do_POST(self) -> None:
        """Forward a call, or fail it."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault = self.server.fault(self.headers.get("X-Amz-Target", "").rpartition(".")[2])
        if fault not in (None, "cut", "lost"):
            answer = json.dumps({"__type": f"com.amazonaws.dynamodb.v20120810#{fault}", "message": fault})
            return self._respond(400, {"Content-Type": "application/x-amz-json-1.0"}, answer.encode())
        if fault != "cut":
            connection = http.client.HTTPConnection(self.server.target, timeout=30)
            connection.request(self.command, self.path, body, dict(self.headers))
            response = connection.getresponse()
            content = response.read()
            connection.close()
        if fault:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return None
        return self._respond(response.status, dict(response.getheaders()), content)

    do_GET = do_PUT = do_HEAD = do_DELETE = do_POST  # noqa: N815  (names that http.server calls)

    def _respond(self, status: int, headers: dict[str, str], content: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() not in ("content-length", "connection", "date", "server", "transfer-encoding"):
                self.send_header(name, value)
        length = headers.get("Content-Length", "0") if self.command == "HEAD" else str(len(content))
        self.send_header("Content-Length", length)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args: Any) -> None:
        """Log nothing."""


@contextmanager
def fault_proxy(target: str) -> Iterator[FaultProxy]:
    """Run a proxy to a server."""
    with FaultProxy(target) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()
