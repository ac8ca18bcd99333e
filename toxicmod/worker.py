"""gunicorn's thread worker, which turns requests away when more come than it can answer."""

import json
import socket
import time
from collections import Counter, defaultdict
from contextlib import suppress
from typing import Any

from gunicorn.http.message import Request
from gunicorn.workers.gthread import TConn

from toxicmod.lane import Lane, LaneWorker

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
_CLOSE = b"Connection: close\r\n"
_REFUSALS = {
    path: (
        "HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\n"
        f"Retry-After: {RETRY_SECONDS}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    ).encode()
    for path, (kind, body) in _ANSWERS.items()
}


class _Queue:
    """What is known of a queue: how long an answer takes, and since when some have always waited."""

    def __init__(self) -> None:
        self._typical = 0.0  # seconds of an answer
        self._each = 0.0  # seconds from one answer to the next
        self._empty_at = 0.0

    def took(self, seconds: float, at_once: int, answers: int) -> None:
        """Take note of how long answers took, and how many are made at once."""
        weight = min(answers / TYPICAL_OF, 1)
        self._typical += (seconds - self._typical) * weight
        self._each += (seconds / at_once - self._each) * weight

    def most(self, waiting: int) -> int:
        """Return how many of those that wait may do so: all, unless the queue does not empty."""
        now = time.monotonic()
        if not waiting:
            self._empty_at = now
        if now - self._empty_at <= STANDING or not self._each:
            return waiting
        return min(waiting, int(max(LIMIT, 2 * self._typical) / self._each))


class Worker(LaneWorker):
    """Answers 503 at once to a request that would wait for too long in a queue that does not empty.

    A burst is worked off; once the queue has stood for a while, only those are accepted that will have their
    turn within the limit: a tenth of a second, or twice what an answer takes, for batches may wait for
    batches. After controlled delay (Nichols and Jacobson, 2012; for requests Maurer, Fail at Scale, 2015). To
    refuse takes a tenth of the time of an answer, since nothing of the request is read but its path.
    """

    _told_at = 0.0

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._turned_away: list[bytes] = []  # the request lines, since it was told
        self._of_pool = _Queue()
        self._of_lane: dict[Lane, _Queue] = defaultdict(_Queue)

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
        lines, self._turned_away = self._turned_away, []
        for line, times in Counter(lines).items():
            path = line.partition(b" ")[2].partition(b" ")[0].partition(b"?")[0]
            by_source[counting.source_of(path.decode("latin-1"))] += times
        self.log.warning("More comes than can be answered: %s requests turned away", len(lines))
        for source, times in by_source.items():
            if source is not None:
                counting.count(source, 503, None, times)

    def enqueue_req(self, conn: TConn) -> None:
        if self.has_room() or not self._refuse(conn):
            super().enqueue_req(conn)

    def has_room(self) -> bool:
        waiting = self.tpool._work_queue.qsize()
        return self._of_pool.most(waiting) == waiting

    def most_late(self, lane: Lane, late: int) -> int:
        return self._of_lane[lane].most(late)

    def refusal(self, request: bytes) -> tuple[bytes, bool]:
        head = request.partition(b"\r\n\r\n")[0]
        answer = self._refused(head)
        names = [line.partition(b":")[0].strip() for line in head.lower().splitlines()[1:]]
        # Nobody but us has read it: where it ends must be beyond doubt for the next one to be believed.
        is_clear = names.count(b"content-length") == 1 and b"transfer-encoding" not in names
        is_kept = self.alive and is_clear and b" HTTP/1.1\r\n" in head and b"connection" not in names
        return answer.replace(_CLOSE, b"") if is_kept else answer, is_kept

    def took(self, lane: Lane, seconds: float, answers: int) -> None:
        self._of_lane[lane].took(seconds, answers, answers)

    def handle_request(self, req: Request, conn: TConn) -> object:
        start = time.monotonic()
        keeps_alive = super().handle_request(req, conn)
        self._of_pool.took(time.monotonic() - start, self.cfg.threads, 1)
        return keeps_alive

    def _refuse(self, conn: TConn) -> bool:
        """Refuse the request and close its connection; False where it has to be answered."""
        if self.cfg.is_ssl:
            return False
        conn.sock.setblocking(False)
        try:
            head = conn.sock.recv(4096, socket.MSG_PEEK)
        except BlockingIOError:
            self.await_request(conn)  # and it is asked again
            return True
        except OSError:
            return False
        if head.startswith(_NEVER):
            return False
        with suppress(OSError):
            conn.sock.send(self._refused(head))
            # What is left unread would reset the connection, and the answer with it.
            conn.sock.shutdown(socket.SHUT_WR)
            while conn.sock.recv(1 << 16):
                pass
        conn.close()
        self.nr_conns -= 1
        return True

    def _refused(self, head: bytes) -> bytes:
        """Return the answer to a request that is turned away, and count it."""
        line = head.partition(b"\r\n")[0]
        if line:  # else the client hung up
            self._turned_away.append(line)
        return next(answer for path, answer in _REFUSALS.items() if path in line)
