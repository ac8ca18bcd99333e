"""The ASGI application: handles scoring requests in batches, and passes all other requests to Django."""

import asyncio
import logging
import os
import string
import time
import zlib
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import closing, suppress
from typing import Any
from urllib.parse import quote

import a2wsgi
from django.conf import settings
from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "toxicmod.settings")
django = get_wsgi_application()

from django.core.handlers.asgi import ASGIRequest  # noqa: E402  (needs the settings)
from django.db import connection  # noqa: E402
from django.http import HttpResponse  # noqa: E402
from django.utils.http import parse_header_parameters  # noqa: E402
from rest_framework.exceptions import APIException, ParseError, UnsupportedMediaType  # noqa: E402

from apps.api import batching  # noqa: E402
from apps.api.error_responses import error_response, serialized_error  # noqa: E402
from apps.api.parsers import collect_garbage  # noqa: E402
from apps.monitoring import request_metrics  # noqa: E402
from toxicmod.batcher import Admission, Batcher  # noqa: E402

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

# These paths have separate threads, so that a busy site does not seem to be down.
MONITORING_PATHS = ("/health", "/ready", "/metrics")
# How many bytes beyond the limit are read: most clients read the response only after they have sent the body.
MAX_DISCARDED_BYTES = 64 * 1024 * 1024
# The weight of a request estimates its duration, in bytes: its length, plus COMMA_WEIGHT for each comma,
# because a thousand short words may be a thousand comments.
MAX_SMALL_WEIGHT, COMMA_WEIGHT = 8_192, 64
QUEUED_CHUNKS = 4_096  # chunks of a response that wait while the client reads more slowly than Django writes
RETRY_SECONDS, WARNING_SECONDS = 1, 60
OVERLOADED = "The server is overloaded. Please try again in a moment."
FAILED = "The server could not handle the request. Please try again."

logger = logging.getLogger(__name__)
WSGIMiddleware: Any = a2wsgi.WSGIMiddleware  # Any: a2wsgi has other types of messages than this module


async def read_body(scope: Scope, receive: Receive) -> bytes | None:
    """Return the decompressed body of a request, or None if the client has disconnected.

    The body is cut to MAX_BODY_BYTES + 1 bytes. The views reject a body that is longer than MAX_BODY_BYTES.

    Raises:
        ParseError: the content type is malformed, or the body is not compressed as it says.
        UnsupportedMediaType: the compression is not supported.
    """
    limit = settings.MAX_BODY_BYTES + 1
    received, size, more = bytearray(), 0, True
    while more and size <= limit + MAX_DISCARDED_BYTES:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        more = message.get("more_body", False)
        if size < limit:
            received += message["body"]
        size += len(message["body"])
    body = bytes(received[:limit] if size > limit else received)
    headers = dict(scope["headers"])
    if b"*" in (content_type := headers.get(b"content-type", b"")):
        try:
            parse_header_parameters(content_type.decode("latin-1"))
        except ValueError:
            raise ParseError("The Content-Type names an unknown encoding.") from None
    encoding = headers.get(b"content-encoding", b"").lower()
    if encoding in (b"", b"identity") or not body:
        return body
    if encoding not in (b"gzip", b"x-gzip", b"deflate"):
        raise UnsupportedMediaType("", "The Content-Encoding is not supported: use gzip, deflate or none.")
    return await asyncio.to_thread(_decompress, body, limit)


def _decompress(body: bytes, limit: int) -> bytes:
    """Return at most `limit` bytes of a decompressed body: gzip, zlib, or deflate without a header."""
    for window_bits in (zlib.MAX_WBITS | 32, -zlib.MAX_WBITS):
        stream = zlib.decompressobj(window_bits)
        with suppress(zlib.error):
            decompressed = stream.decompress(body, limit)
            if stream.eof or len(decompressed) == limit:
                return decompressed
    raise ParseError("The body is not what its Content-Encoding says.")


def _normalize(scope: Scope, body: bytes) -> Scope:
    """Return the scope with the length of the body that was read.

    Header names with an underscore are left out, because WSGI can't tell them from names with a hyphen.
    """
    replaced = (b"content-length", b"content-encoding", b"transfer-encoding")
    headers = [(name, value) for name, value in scope["headers"] if name not in replaced and b"_" not in name]
    if body or scope["method"] not in ("GET", "HEAD"):
        headers.append((b"content-length", b"%d" % len(body)))
    query = scope["query_string"]
    query = query if query.isascii() else quote(query, safe=string.printable).encode()
    return {**scope, "headers": headers, "query_string": query}


async def _send_response(send: Send, response: HttpResponse) -> None:
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in response.items()]
    headers.append((b"content-length", b"%d" % len(response.content)))
    await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
    await send({"type": "http.response.body", "body": response.content})


class DjangoThreads:
    """Django in a bounded number of threads."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._queue: set[int] = set()  # the identities of the scopes that wait for a thread
        self.admission = Admission(self._queue)  # ask it before `handle`
        self._middleware = WSGIMiddleware(self._run, workers=threads, send_queue_size=QUEUED_CHUNKS)

    async def handle(self, scope: Scope, messages: list[dict[str, Any]], send: Send) -> None:
        """Handle a request, whose message with the body is removed from `messages`."""

        async def receive() -> dict[str, Any]:
            return messages.pop() if messages else {"type": "http.disconnect"}

        self._queue.add(id(scope))
        try:
            await self._middleware(scope, receive, send)
        finally:
            self._queue.discard(id(scope))  # of a task that was cancelled before a thread took its request
            messages.clear()  # reference cycles of a2wsgi would keep the body in memory

    def _run(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
        self._queue.discard(id(environ["asgi.scope"]))
        start = time.monotonic()
        try:
            with closing(django(environ, start_response)) as response:
                yield from response
        finally:
            self.admission.record(time.monotonic() - start, 1, self._threads)


class Application:
    """The ASGI application of a worker process. Its threads start after the fork."""

    def __init__(self) -> None:
        self._django = DjangoThreads(settings.WEB_THREADS)
        self._monitoring = DjangoThreads(2)
        # Small requests do not wait behind large ones.
        self._small: Batcher[ASGIRequest, HttpResponse | None] = Batcher(batching.handle_batch)
        # One thread scores while another one stores. Two can wait for a database server, but not for SQLite,
        # which has one writer.
        threads = 2 if connection.vendor == "sqlite" else 3
        self._large: Batcher[ASGIRequest, HttpResponse | None] = Batcher(batching.handle_batch, threads)
        self._next_warning = 0.0  # monotonic time

    def rejection(self, target: bytes, headers: Iterable[tuple[bytes, bytes]]) -> bytes | None:
        """Return the response to a request that would wait too long, or None if the request may wait.

        The server calls it after the headers of each request, so that a rejection costs little.
        """
        path = target.partition(b"?")[0].decode("latin-1")
        queue: DjangoThreads | Batcher[Any, Any] = self._django
        if path in batching.BATCHABLE_PATHS:
            queue = self._batcher(int(dict(headers).get(b"content-length", 0)))
        if path in MONITORING_PATHS or queue.admission.accepts():
            return None
        source = request_metrics.source_of(path)
        request_metrics.count(source, 503, None)
        if (now := time.monotonic()) > self._next_warning:
            self._next_warning = now + WARNING_SECONDS
            logger.warning("The server is overloaded: it rejects requests.")
        return serialized_error(source, 503, OVERLOADED, RETRY_SECONDS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        start = time.perf_counter()
        source = request_metrics.source_of(scope["path"])
        response: HttpResponse | None = None
        try:
            body = await read_body(scope, receive)
            if body is None:
                return
            # The server has not asked `rejection` about a request that was pipelined.
            if scope.get("toxicmod.is_pipelined") and self.rejection(scope["raw_path"], scope["headers"]):
                await _send_response(send, error_response(source, 503, OVERLOADED, RETRY_SECONDS))
                return
            scope = _normalize(scope, body)
            if request := batching.prepare(scope, body):
                weight = len(body) + COMMA_WEIGHT * body.count(b",")
                response = await self._batcher(weight).submit(request, weight)
        except APIException as error:
            response = error_response(source, error.status_code, str(error))
        except Exception:  # the batcher has logged it
            response = error_response(source, 500, FAILED)
        if response is None:
            messages = [{"type": "http.request", "body": body}]
            del body, request  # Django reads a copy of the body
            threads = self._monitoring if scope["path"] in MONITORING_PATHS else self._django
            await threads.handle(scope, messages, send)
        else:
            # The middleware counts requests that Django handles.
            request_metrics.count(source, response.status_code, time.perf_counter() - start)
            await _send_response(send, response)
        collect_garbage()

    def _batcher(self, weight: int) -> Batcher[ASGIRequest, HttpResponse | None]:
        return self._small if weight <= MAX_SMALL_WEIGHT else self._large


application = Application()
