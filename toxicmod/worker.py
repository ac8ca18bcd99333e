"""gunicorn's thread worker, which notes how long a request has waited for a thread. Imports no Django."""

import threading
import time

from gunicorn.workers.gthread import TConn, ThreadWorker

LIMIT, STANDING, EMPTY = 0.1, 1.0, 0.005  # seconds
_this = threading.local()


def is_late() -> bool:
    """Whether the request that this thread answers has waited for too long to be worth the work."""
    return getattr(_this, "late", False)


class Worker(ThreadWorker):
    """Tells requests that have stood in a queue which does not empty; a mere burst is worked off.

    By the time a request has waited, so that it holds on any machine: controlled delay (Nichols and Jacobson,
    2012) as used for requests (Maurer, Fail at Scale, 2015).
    """

    _empty_at = 0.0

    def enqueue_req(self, conn: TConn) -> None:
        conn.queued_at = time.monotonic()
        super().enqueue_req(conn)

    def handle(self, conn: TConn) -> object:
        now = time.monotonic()
        waited = now - conn.queued_at
        if waited < EMPTY:
            self._empty_at = now
        _this.late = waited > LIMIT and now - self._empty_at > STANDING
        return super().handle(conn)
