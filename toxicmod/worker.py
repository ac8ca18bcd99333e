"""gunicorn's thread worker, which turns requests away when more come than it can answer."""

import json
import selectors
import socket
import time
from collections import Counter
from contextlib import suppress
from functools import partial
from typing import Any

from gunicorn.http.message import Request
from gunicorn.workers.gthread import TConn, ThreadWorker

LIMIT, STANDING = 0.1, 0.25  # seconds
TYPICAL_OF = 64  # requests
RETRY_SECONDS = 1
# Who asks for these would take a busy site for a dead one.
_NEVER = (b"GET /health ", b"GET /ready ", b"GET /metrics ")
_WORDS = "More comes than can be answered just now. Please try again in a moment."
_ANSWERS = {
    b" /v1alpha1/": (
        "application/json; charset=UTF-8",
        json.dumps(
            {
                "error": {
                    "code": 503,
                    "message": "The service is currently unavailable.",
                    "status": "UNAVAILABLE",
                }
            }
        ),
    ),
    b" /api/": (
        "application/problem+json",
        json.dumps({"type": "about:blank", "title": "Service Unavailable", "status": 503, "detail": _WORDS}),
    ),
    b"": ("text/plain; charset=utf-8", _WORDS),
}
_REFUSALS = {
    path: (
        "HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\n"
        f"Retry-After: {RETRY_SECONDS}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    ).encode()
    for path, (kind, body) in _ANSWERS.items()
}


class Worker(ThreadWorker):
    """Answers 503 at once to a request that would wait for too long in a queue that does not empty.

    A burst is worked off; once the queue has stood for a while, only those are accepted that will have their
    turn within the limit: a tenth of a second, or twice what an answer takes, for batches may wait for
    batches. After controlled delay (Nichols and Jacobson, 2012; for requests Maurer, Fail at Scale, 2015). To
    refuse takes a tenth of the time of an answer, since nothing of the request is read but its path.
    """

    _typical = 0.0  # seconds of an answer
    _empty_at = 0.0
    _refused = 0
    _told_at = 0.0

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._turned_away: Counter[bytes] = Counter()  # by path, since it was told

    def notify(self) -> None:
        """Tell gunicorn, once a second or oftener, that this worker is alive; and us whom it turned away."""
        super().notify()
        now = time.monotonic()
        if self._turned_away and now - self._told_at > 1:
            self._told_at = now
            self._tell()

    def _tell(self) -> None:
        from apps.monitoring import counting  # loaded with the site, which this module must not be before

        by_source: Counter[str | None] = Counter()
        for path, times in self._turned_away.items():
            by_source[counting.source_of(path.decode("latin-1"))] += times
        self._turned_away.clear()
        for source, times in by_source.items():
            if source is not None:
                counting.count(source, 503, None, times)

    def enqueue_req(self, conn: TConn) -> None:
        waiting, now = self.tpool._work_queue.qsize(), time.monotonic()
        if not waiting:
            self._empty_at = now
        elif now - self._empty_at > STANDING:
            wait = waiting * self._typical / self.cfg.threads
            if wait > max(LIMIT, 2 * self._typical) and self._refuse(conn):
                return
        super().enqueue_req(conn)

    def handle_request(self, req: Request, conn: TConn) -> object:
        start = time.monotonic()
        keeps_alive = super().handle_request(req, conn)
        self._typical += (time.monotonic() - start - self._typical) / TYPICAL_OF
        return keeps_alive

    def _refuse(self, conn: TConn) -> bool:
        """Refuse the request and close its connection; False where it has to be answered."""
        if self.cfg.is_ssl:
            return False
        conn.sock.setblocking(False)
        try:
            head = conn.sock.recv(4096, socket.MSG_PEEK)
        except BlockingIOError:
            # Nothing is there yet: it is asked again once something is, and takes no thread until then.
            conn.set_timeout()
            self.pending_conns.append(conn)
            ready = partial(self.on_pending_socket_readable, conn)
            self.poller.register(conn.sock, selectors.EVENT_READ, ready)
            return True
        except OSError:
            return False
        if head.startswith(_NEVER):
            return False
        line = head.partition(b"\r\n")[0]
        with suppress(OSError):
            conn.sock.send(next(answer for path, answer in _REFUSALS.items() if path in line))
            # What is left unread would reset the connection, and the answer with it.
            conn.sock.shutdown(socket.SHUT_WR)
            while conn.sock.recv(1 << 16):
                pass
        conn.close()
        self.nr_conns -= 1
        if head:  # else the client hung up
            self._turned_away[line.partition(b" ")[2].partition(b" ")[0].partition(b"?")[0]] += 1
        self._refused += 1
        if self._refused % 1_000 == 1:
            self.log.warning("More comes than can be answered: %s requests turned away", self._refused)
        return True
