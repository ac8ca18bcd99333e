"""The worker class of gunicorn: uvicorn, with limits for clients that send or read slowly."""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn_worker import UvicornWorker

CHECK_SECONDS, MIN_BYTES = 10.0, 64 * 1024
MAX_HEAD_BYTES, MAX_CONNECTIONS = 64 * 1024, 16_384  # the connections of one process
LINGER_SECONDS = 2.0


class Connection(HttpToolsProtocol):
    """A client's connection, which is closed if the client sends or reads too slowly.

    While a request arrives or a response is sent, a client has to send or read MIN_BYTES, or everything that
    is left, in each CHECK_SECONDS. uvicorn itself limits only the time between requests.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._is_arriving = self._is_in_head = True  # a new connection has to send a request
        self._head_bytes = self._unsent = 0
        self._received = MIN_BYTES  # bytes since the last check; a new request passes the first check
        self._is_shut_down = self._is_rejected = False
        self._timer = self.loop.call_later(CHECK_SECONDS, self._check)
        if len(self.connections) > MAX_CONNECTIONS:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._is_in_head and self._head_bytes > MAX_HEAD_BYTES:
            self.send_400_response("The request's headers are too large.")
            return
        self._received += len(data)
        self._head_bytes += len(data)
        super().data_received(data)

    def eof_received(self) -> bool:  # type: ignore[override]
        """Respond to a client that has closed its half of the connection after its request."""
        if self.scheme == "https" or self._is_arriving or self.cycle is None or self.cycle.response_complete:
            return False
        self.cycle.keep_alive = False
        return True

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._is_arriving = self._is_in_head = True
        self._head_bytes, self._received = 0, MIN_BYTES

    def on_headers_complete(self) -> None:
        self._is_in_head = False
        # The rejection of a pipelined request would arrive before earlier responses, so the application
        # rejects it when its turn comes. The application has at most one request of each connection.
        is_pipelined = self.cycle is not None and not self.cycle.response_complete
        rejection = None if is_pipelined else self.app.rejection(self.url, self.headers)
        self._is_rejected = rejection is not None
        if rejection is None:
            self.scope["toxicmod.is_pipelined"] = is_pipelined  # type: ignore[typeddict-unknown-key]
            super().on_headers_complete()
            self.cycle.keep_alive &= not self._is_shut_down
            self._unsent = 0  # what is unsent at the next check may belong to a new response
        else:
            head, separator, body = rejection.partition(b"\r\n\r\n")
            self.transport.write(head + separator + (b"" if self.parser.get_method() == b"HEAD" else body))

    def on_body(self, body: bytes) -> None:
        if not self._is_rejected:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._is_arriving = False
        if not self._is_rejected:
            super().on_message_complete()
        elif self.parser.should_keep_alive() and not self._is_shut_down:
            self.on_response_complete()
        else:
            self.transport.close()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._unsent = 0

    def shutdown(self) -> None:
        """Close the connection after the current response, or after LINGER_SECONDS without a request."""
        self._is_shut_down = True
        if self.cycle is not None:
            self.cycle.keep_alive = False
        self.loop.call_later(LINGER_SECONDS, self._close_if_idle)

    def _close_if_idle(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()

    def _check(self) -> None:
        unsent = self.transport.get_write_buffer_size()
        sends_slowly = self._is_arriving and self._received < MIN_BYTES
        reads_slowly = self._unsent > 0 and unsent > max(self._unsent - MIN_BYTES, 0)
        if (sends_slowly and not self.flow.read_paused) or reads_slowly:
            self.transport.abort()
            return
        self._received, self._unsent = 0, unsent
        self._timer = self.loop.call_later(CHECK_SECONDS, self._check)


class WebWorker(UvicornWorker):
    """uvicorn in gunicorn's process model.

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
