"""The worker class of gunicorn: uvicorn, with limits for clients that send or read slowly."""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn_worker import UvicornWorker

CHECK_SECONDS, MIN_BYTES = 10.0, 64 * 1024
MAX_HEADER_BYTES = 64 * 1024
MAX_CONNECTIONS = 16_384  # per process
LINGER_SECONDS = 2.0


class Connection(HttpToolsProtocol):
    """A client's connection.

    It is closed if a client sends or reads less than MIN_BYTES in CHECK_SECONDS although a request or
    response is incomplete. uvicorn limits only the time between requests.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._header_bytes: int | None = 0  # of the current request; None after its headers are complete
        self._is_receiving = True  # a new connection has to send a request
        self._checks = self._received = self._unsent = 0
        self._is_closing = False
        self._timer = self.loop.call_later(CHECK_SECONDS, self._check_progress)
        if len(self.connections) > MAX_CONNECTIONS:
            transport.abort()
        elif self.scheme == "http":  # without a buffer, uvloop would never resume a TLS transport
            transport.set_write_buffer_limits(0)

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._header_bytes is not None and self._header_bytes > MAX_HEADER_BYTES:
            self.send_400_response("The request's headers are too large.")
            return
        self._received += len(data)
        if self._header_bytes is not None:
            self._header_bytes += len(data)
        super().data_received(data)

    def eof_received(self) -> bool:  # type: ignore[override]
        """Respond to a client that has closed its half of the connection after its request."""
        if self.scheme == "https" or self._is_receiving or self.cycle is None or self.cycle.response_complete:
            return False
        self.cycle.keep_alive = False
        return True

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._header_bytes, self._is_receiving, self._checks = 0, True, 0

    def on_headers_complete(self) -> None:
        self._header_bytes = None
        super().on_headers_complete()
        if self._is_closing:
            self.cycle.keep_alive = False

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._is_receiving = False

    def resume_writing(self) -> None:
        super().resume_writing()
        self._unsent = 0

    def shutdown(self) -> None:
        """Close the connection after the current response, or after LINGER_SECONDS without a request."""
        self._is_closing = True
        if self.cycle is None or self.cycle.response_complete:
            self.loop.call_later(LINGER_SECONDS, self._close_if_idle)
        else:
            self.cycle.keep_alive = False

    def _close_if_idle(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()

    def _check_progress(self) -> None:
        unsent = self.transport.get_write_buffer_size()
        sends_slowly = self._is_receiving and self._checks > 0 and self._received < MIN_BYTES
        reads_slowly = self._unsent > 0 and unsent > self._unsent - MIN_BYTES
        if (sends_slowly and not self.flow.read_paused) or reads_slowly:
            self.transport.abort()
            return
        self._checks += 1
        self._received, self._unsent = 0, unsent
        self._timer = self.loop.call_later(CHECK_SECONDS, self._check_progress)


class WebWorker(UvicornWorker):
    """uvicorn in a process of gunicorn.

    Django reads the headers of proxies (TRUSTED_PROXIES, SECURE_PROXY_SSL_HEADER), so uvicorn ignores them.
    """

    CONFIG_KWARGS: dict[str, Any] = {
        "loop": "uvloop",
        "http": Connection,
        "ws": "none",
        "lifespan": "off",
        "proxy_headers": False,
        "server_header": False,
    }

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.config.timeout_graceful_shutdown = self.cfg.graceful_timeout
