"""The ASGI application: handles scoring requests in batches, and passes all other requests to Django.

This module loads and compiles everything that a request needs before gunicorn forks, so that workers share
the memory and the first request does not wait for the compiler.
"""

import asyncio
import logging
import os
import string
import time
import zlib
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import closing
from functools import cache
from threading import Lock, Thread
from typing import Any
from urllib.parse import quote

import a2wsgi
from django.conf import settings
from django.core.wsgi import get_wsgi_application

from apps.api.perspective import languages
from apps.registry.exceptions import NoModelError

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "toxicmod.settings")
# Loading mostly decompresses data, which another core can do at the same time.
language_loader = Thread(target=languages.load)
language_loader.start()
django = get_wsgi_application()

from django.core.handlers.asgi import ASGIRequest  # noqa: E402  (needs the settings)
from django.db import connections  # noqa: E402
from django.http import HttpResponse  # noqa: E402
from django.urls import reverse  # noqa: E402
from django.utils.http import parse_header_parameters  # noqa: E402

from apps.api import batching  # noqa: E402
from apps.api.error_responses import error_response  # noqa: E402
from apps.api.parsers import collect_garbage  # noqa: E402
from apps.classifier.scorer import warm  # noqa: E402
from apps.monitoring import request_metrics  # noqa: E402
from apps.registry import serving  # noqa: E402
from toxicmod.batcher import Admission, Batcher  # noqa: E402

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

# These paths have separate threads, so that a busy site does not seem to be down.
MONITORING_PATHS = ("/health", "/ready", "/metrics")
# How much of a body beyond the limit is read: a client reads the response only after it has sent all.
MAX_DISCARDED_BYTES = 64 * 1024 * 1024
# The weight of a request estimates its duration: its bytes, plus some for each comma, because a thousand
# words may be a thousand comments.
SHORT, COMMA = 8_192, 64
QUEUED_CHUNKS = 4_096  # of a response, while its client reads more slowly than Django writes
RETRY_SECONDS = 1
OVERLOADED = "The server is overloaded. Please try again in a moment."

logger = logging.getLogger(__name__)
WSGIMiddleware: Any = a2wsgi.WSGIMiddleware  # its types of messages are not the general ones used here


class BodyError(Exception):
    """A request body that cannot be read."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class DisconnectedError(Exception):
    """The client closed the connection before it had sent the whole request."""


async def read_body(scope: Scope, receive: Receive) -> bytes:
    """Return the decompressed body of a request, cut to MAX_BODY_BYTES + 1 bytes.

    Raises:
        BodyError: the content type or the compression is unknown or wrong, or the body is much too large.
        DisconnectedError: the client has disconnected.
    """
    limit = settings.MAX_BODY_BYTES + 1
    received, size = bytearray(), 0
    more = True
    while more:
        if size > limit + MAX_DISCARDED_BYTES:
            raise BodyError(413, "The body is too large.")
        message = await receive()
        if message["type"] == "http.disconnect":
            raise DisconnectedError
        more = message.get("more_body", False)
        if size < limit:
            received += message["body"]
        size += len(message["body"])
    body = bytes(received[:limit] if size > limit else received)
    headers = dict(scope["headers"])
    if b"*" in (kind := headers.get(b"content-type", b"")):
        try:
            parse_header_parameters(kind.decode("latin-1"))
        except ValueError:
            raise BodyError(400, "The Content-Type names an unknown encoding.") from None
    encoding = headers.get(b"content-encoding", b"").lower()
    if encoding in (b"", b"identity") or not body:
        return body
    if encoding not in (b"gzip", b"x-gzip", b"deflate"):
        raise BodyError(415, "The body's Content-Encoding is not supported: use gzip, deflate or none.")
    return await asyncio.to_thread(_decompress, body, limit)


def _decompress(body: bytes, limit: int) -> bytes:
    """Return at most `limit` bytes of a decompressed body: gzip, zlib, or deflate without a header."""
    for window_bits in (zlib.MAX_WBITS | 32, -zlib.MAX_WBITS):
        stream = zlib.decompressobj(window_bits)
        try:
            found = stream.decompress(body, limit)
        except zlib.error:
            continue
        if stream.eof or len(found) == limit:
            return found
    raise BodyError(400, "The body is not what its Content-Encoding says.")


def _normalized(scope: Scope, body: bytes) -> Scope:
    """Return the scope with the length of the body that was read.

    Header names with an underscore are left out, because WSGI can't tell them from names with a hyphen.
    """
    changed = (b"content-length", b"content-encoding", b"transfer-encoding")
    headers = [(name, value) for name, value in scope["headers"] if name not in changed and b"_" not in name]
    if body or scope["method"] not in ("GET", "HEAD"):
        headers.append((b"content-length", b"%d" % len(body)))
    query = scope["query_string"]
    query = query if query.isascii() else quote(query, safe=string.printable).encode()
    return {**scope, "headers": headers, "query_string": query}


class _Replay:
    """The `receive` callable of ASGI for a body that has been read."""

    def __init__(self, body: bytes) -> None:
        self.messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def __call__(self) -> dict[str, Any]:
        return self.messages.pop() if self.messages else {"type": "http.disconnect"}


async def _respond(send: Send, response: HttpResponse) -> None:
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in response.items()]
    headers.append((b"content-length", b"%d" % len(response.content)))
    await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
    await send({"type": "http.response.body", "body": response.content})


@cache
def _overloaded(source: str | None) -> bytes:
    response = error_response(source, 503, OVERLOADED, RETRY_SECONDS)
    response["Content-Length"] = str(len(response.content))
    return b"HTTP/1.1 503 Service Unavailable\r\n" + response.serialize()


class DjangoThreads:
    """Django in a bounded number of threads."""

    def __init__(self, threads: int) -> None:
        self._threads, self._unfinished = threads, 0
        self._admission, self._lock = Admission(), Lock()
        self._answer = WSGIMiddleware(self._run, workers=threads, send_queue_size=QUEUED_CHUNKS)

    def accepts(self) -> bool:
        """Return whether one more request may wait for a thread. Call it before the request is handled."""
        return self._admission.accepts(max(0, self._unfinished - self._threads))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._lock:
            self._unfinished += 1
        await self._answer(scope, receive, send)

    def _run(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
        start = time.monotonic()
        try:
            with closing(django(environ, start_response)) as response:
                yield from response
        finally:
            with self._lock:
                self._unfinished -= 1
                self._admission.record(time.monotonic() - start, 1, self._threads)


class Application:
    """The ASGI application of a worker process. Its threads start after the fork."""

    def __init__(self) -> None:
        self._django = DjangoThreads(settings.WEB_THREADS)
        self._always = WSGIMiddleware(django, workers=2)
        # Small requests do not wait behind large ones.
        self._short: Batcher[ASGIRequest, HttpResponse | None] = Batcher(batching.handle_batch)
        self._long: Batcher[ASGIRequest, HttpResponse | None] = Batcher(batching.handle_batch, threads=2)
        self._rejected: Counter[str | None] = Counter()  # by source, until they are reported

    def rejection(self, target: bytes, headers: Iterable[tuple[bytes, bytes]]) -> bytes | None:
        """Return the response to a request that would wait too long, or None if the request may wait.

        The server calls it after the headers of each request, so that a rejection costs little.
        """
        path = target.partition(b"?")[0].decode("latin-1")
        queue: DjangoThreads | Batcher[Any, Any] = self._django
        if path in batching.BATCHABLE_PATHS:
            length = int(dict(headers).get(b"content-length", 0))
            queue = self._short if length <= SHORT else self._long
        if path in MONITORING_PATHS or queue.accepts():
            return None
        if not self._rejected:
            asyncio.get_running_loop().call_later(1, self._report_rejected)
        source = request_metrics.source_of(path)
        self._rejected[source] += 1
        return _overloaded(source)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._answer(scope, receive, send)
        finally:
            collect_garbage()

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = time.perf_counter()
        path = scope["path"]
        source = request_metrics.source_of(path)
        response: HttpResponse | None = None
        seconds: float | None = None  # of requests that were answered in a batch
        try:
            body = await read_body(scope, receive)
            scope = _normalized(scope, body)
            if request := batching.prepare(scope, body):
                weight = len(body) + COMMA * body.count(b",")
                response = await (self._short if weight <= SHORT else self._long).submit(request, weight)
                seconds = time.perf_counter() - began
            if response is None:
                answer = self._always if path in MONITORING_PATHS else self._django
                replay = _Replay(body)
                del body  # Django reads a copy of it
                try:
                    await answer(scope, replay, send)
                finally:
                    replay.messages.clear()  # reference cycles of a2wsgi would keep the body in memory
                return
        except DisconnectedError:
            return
        except BodyError as error:
            response = error_response(source, error.status, str(error))
        if source:  # the middleware counts requests that Django handles
            request_metrics.count(source, response.status_code, seconds)
        await _respond(send, response)

    def _report_rejected(self) -> None:
        logger.warning("The server is overloaded: %d requests were rejected", self._rejected.total())
        for source, number in self._rejected.items():
            if source:
                request_metrics.count(source, 503, None, number)
        self._rejected.clear()


application = Application()
try:
    warm(serving.current().scorer)
except NoModelError as error:
    logger.warning("%s", error)
reverse("health")  # imports every view
language_loader.join()
languages.load()  # raises the exception if the thread failed
connections.close_all()
