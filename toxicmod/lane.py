"""gunicorn's thread worker, with lanes on which requests of one kind are answered together."""

import io
import re
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from datetime import datetime, timedelta
from functools import partial
from typing import Any, NamedTuple

from gunicorn import http
from gunicorn.http import wsgi
from gunicorn.http.message import Request
from gunicorn.workers.gthread import TConn, ThreadWorker

MOST_TOGETHER, MOST_WEIGHT = 64, 3 << 18
# What a request weighs tells how long its answer takes: its bytes, and some for each comma, for a thousand
# words may be a thousand comments. Batches are heavier than what is short.
SHORT, COMMA = 8_192, 64
_PEEKED = 1 << 16  # bytes; what is longer is answered alone
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d{1,9})[ \t]*(?=\r\n)", re.IGNORECASE)
_ODD = re.compile(rb"\r\n(transfer-encoding|expect|upgrade)[ \t]*:", re.IGNORECASE)
_SWEEP_SECONDS = 1.0
_FIRST_SECONDS = 5.0  # that a new connection has at least to ask for something


class _Outbox:
    """Takes a socket's place, and keeps what is to be sent."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.sendall = self.parts.append


class _Exchange(NamedTuple):
    conn: TConn
    request: Request
    environ: dict[str, Any]
    response: wsgi.Response
    outbox: _Outbox


class Lane:
    """A thread's connections. Of those that ask for something, the first to come is the first served."""

    def __init__(self) -> None:
        self.selector: selectors.BaseSelector = selectors.DefaultSelector()
        self.conns: set[TConn] = set()
        self.waiting: dict[TConn, None] = {}  # in the order in which they came; the selector knows none

    def join(self, conn: TConn) -> None:
        """Look after a connection."""
        self.conns.add(conn)
        self.selector.register(conn.sock, selectors.EVENT_READ, conn)

    def leave(self, conn: TConn) -> None:
        """Leave a connection to others."""
        self.conns.discard(conn)
        with suppress(KeyError):
            self.selector.unregister(conn.sock)


class LaneWorker(ThreadWorker):
    """Answers together what has come while the requests before were answered.

    A thread for each request costs more than scoring a comment: to hand the request over, to wait for
    Python's lock, to come back to a cold cache after each wait. So a connection that asks for what the
    application answers together (its `together`, `joined`, `answer_together`) moves to a lane: one thread
    that takes every request that is there as a whole, has them answered, and looks again. Nothing lingers.
    Long requests have two lanes: one scores while the other waits for the database, which takes its time to
    store a batch. All others, and whatever is out of the ordinary, have threads of their own as before.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._short: Lane
        self._long: list[Lane]
        self._lane_of: dict[TConn, Lane] = {}
        self._together: tuple[bytes, ...] = ()

    def init_process(self) -> None:
        self._short, *self._long = lanes = [Lane() for _ in range(3)]
        # Loaded before the fork, or now: `super().init_process` does not return.
        self._together = tuple(f"POST {path}".encode() for path in self.app.wsgi().together)
        for lane in lanes:
            threading.Thread(target=self._run, args=[lane], name="lane", daemon=True).start()
        super().init_process()

    def enqueue_req(self, conn: TConn) -> None:
        if conn.initialized or conn.data_ready or self.cfg.is_ssl:
            super().enqueue_req(conn)
        else:
            self.await_request(conn)

    def await_request(self, conn: TConn) -> None:
        """Let a connection wait, without a thread, until something is there to read."""
        conn.sock.setblocking(False)
        conn.timeout = time.monotonic() + self._patience()
        self.pending_conns.append(conn)
        readable = partial(self.on_pending_socket_readable, conn)
        self.poller.register(conn.sock, selectors.EVENT_READ, readable)

    def _patience(self) -> float:
        return max(self.cfg.keepalive, _FIRST_SECONDS)

    def murder_pending(self) -> None:
        if not self.alive:  # who has not asked for anything yet shall not hold up the end
            old = time.monotonic() + self._patience() - _FIRST_SECONDS
            for conn in self.pending_conns:
                if not conn.initialized and conn.timeout < old:
                    conn.timeout = 0
        super().murder_pending()

    def on_pending_socket_readable(self, conn: TConn, client: socket.socket) -> None:
        if conn.initialized or not (weight := self._whole(conn)[1]):
            super().on_pending_socket_readable(conn, client)
            return
        self.pending_conns.remove(conn)
        conn.initialized, conn.parser = True, http.get_parser(self.cfg, client, conn.client)
        self._join(conn, weight)

    def on_client_socket_readable(self, conn: TConn, client: socket.socket) -> None:
        if not (weight := self._whole(conn)[1]):
            super().on_client_socket_readable(conn, client)
            return
        self.keepalived_conns.remove(conn)
        self._join(conn, weight)

    def finish_request(self, conn: TConn, done: Future[object]) -> None:
        """Look after a connection whose request a thread of the pool has answered.

        One that was promised to be kept, before this worker was to end, may be asking for more just now: that
        is answered, and told to be the last.
        """
        if self.alive or done.cancelled() or done.exception() or done.result() is not True:
            super().finish_request(conn, done)
        else:
            self.await_request(conn)

    def _join(self, conn: TConn, weight: int) -> None:
        self.poller.unregister(conn.sock)
        self._go_on(conn, self._lanes_for(weight))

    def _lanes_for(self, weight: int) -> Sequence[Lane]:
        return [self._short] if weight <= SHORT else self._long

    def _go_on(self, conn: TConn, lanes: Sequence[Lane]) -> None:
        conn.set_timeout()
        self._lane_of[conn] = lane = min(lanes, key=lambda lane: len(lane.conns))
        lane.join(conn)

    def _leave(self, conn: TConn) -> None:
        if lane := self._lane_of.pop(conn, None):
            lane.leave(conn)

    def _whole(self, conn: TConn) -> tuple[int, int]:
        """Return size in bytes and weight of a request of the kind that is there as a whole, else zeros."""
        if self.cfg.is_ssl or conn.is_http2 or (conn.parser and conn.parser.unreader.buf.getvalue()):
            return 0, 0
        try:
            head, end, body = conn.sock.recv(_PEEKED, socket.MSG_PEEK).partition(b"\r\n\r\n")
        except OSError:
            return 0, 0
        if not end or not head.startswith(self._together) or _ODD.search(head):
            return 0, 0
        lengths = _LENGTH.findall(head + b"\r\n")
        if len(lengths) != 1 or len(body) < int(lengths[0]):
            return 0, 0
        size = len(head) + len(end) + int(lengths[0])
        return size, size + COMMA * body.count(b",")

    def most_late(self, lane: Lane, late: int) -> int:
        """Return how many may wait of those that come late to a lane, too late for the next answers."""
        return late

    def has_room(self) -> bool:
        """Whether a request may be handed to the pool of threads."""
        return True

    def refusal(self, request: bytes) -> tuple[bytes, bool]:
        """Return the answer to a request that may not wait, and whether to keep its connection."""
        raise NotImplementedError

    def took(self, lane: Lane, seconds: float, answers: int) -> None:
        """Take note of how long a lane took to give answers together, and to turn others away before."""

    # What follows runs in a lane's thread.

    def _run(self, lane: Lane) -> None:
        swept = time.monotonic()
        while True:
            try:
                for key, _ in lane.selector.select(0 if lane.waiting else _SWEEP_SECONDS):
                    lane.waiting.setdefault(key.data)
                start = time.monotonic()
                if start - swept > _SWEEP_SECONDS:
                    swept = start
                    for conn in list(lane.conns):
                        if conn.timeout < start and conn not in lane.waiting:
                            self._close(conn, graceful=False)  # gracefully, the main thread would wait for it
                conns = self._take(lane)
                late = list(lane.waiting)
                for conn in late[self.most_late(lane, len(late)) :]:
                    del lane.waiting[conn]
                    self._turn_away(conn)
                if answers := self._answer(conns):
                    self.took(lane, time.monotonic() - start, answers)
            except Exception:  # the lane itself must go on
                self.log.exception("A lane failed")

    def _take(self, lane: Lane) -> list[TConn]:
        """Return the connections that are to be answered next; others of those that wait go elsewhere."""
        taken: list[TConn] = []
        total = 0
        for conn in list(lane.waiting):
            if len(taken) == MOST_TOGETHER or total >= MOST_WEIGHT:
                break
            del lane.waiting[conn]
            _, weight = self._whole(conn)
            if weight and lane in (lanes := self._lanes_for(weight)):
                taken.append(conn)
                total += weight
                continue
            self._leave(conn)
            if weight:
                self._go_on(conn, lanes)
            else:
                self.method_queue.defer(self.enqueue_req, conn)
        return taken

    def _turn_away(self, conn: TConn) -> None:
        size, _ = self._whole(conn)
        if not size:  # no more: the client has hung up, or sends something else
            self._leave(conn)
            self.method_queue.defer(self.enqueue_req, conn)
            return
        try:
            request = conn.sock.recv(size)
        except OSError:
            self._close(conn)
        else:
            self._send(conn, *self.refusal(request))

    def _answer(self, conns: Sequence[TConn]) -> int:
        """Have a request of each connection answered; return how many were.

        What fails with one is no other's affair.
        """
        began = datetime.now()
        exchanges, requests = [], []
        for conn in conns:
            try:
                exchange = self._read(conn)
                request = self.wsgi.joined(exchange.environ)
                if request is None:
                    self._go_on_alone(exchange)
                else:
                    self._begin(exchange)
                    exchanges.append(exchange)
                    requests.append(request)
            except Exception as error:
                if not isinstance(error, StopIteration):
                    self.handle_error(None, conn.sock, conn.client, error)
                self._close(conn)
        if not exchanges:
            return 0
        try:
            starts = [exchange.response.start_response for exchange in exchanges]
            bodies = self.wsgi.answer_together(requests, starts)
        except Exception:
            for exchange in exchanges:
                self._close(exchange.conn)
            raise
        for exchange, body in zip(exchanges, bodies, strict=True):
            try:
                self._reply(exchange, body, datetime.now() - began)
            except Exception as error:
                self.handle_error(exchange.request, exchange.conn.sock, exchange.conn.client, error)
                self._close(exchange.conn)
        return len(exchanges)

    def _read(self, conn: TConn) -> _Exchange:
        request, outbox = next(conn.parser), _Outbox()
        # It is there as a whole; gunicorn's own body would be read a kilobyte at a time.
        request.body = io.BytesIO(request.body.reader.read(request.body.reader.length))
        response, environ = wsgi.create(request, outbox, conn.client, conn.server, self.cfg)
        environ["wsgi.multithread"] = True
        return _Exchange(conn, request, environ, response, outbox)

    def _begin(self, exchange: _Exchange) -> None:
        """Do what gunicorn does before a request is answered."""
        self.cfg.pre_request(self, exchange.request)
        self.nr += 1
        if self.nr >= self.max_requests and self.alive:
            self.log.info("Autorestarting worker after current request.")
            self.alive = False
        kept = len(self._lane_of) + len(self.keepalived_conns)
        if not self.alive or not self.cfg.keepalive or kept > self.max_keepalived:
            exchange.response.force_close()

    def _go_on_alone(self, exchange: _Exchange) -> None:
        conn, request = exchange.conn, exchange.request
        if self.has_room():
            self._hand_over(conn, self._answer_alone, exchange)
        else:
            conn.parser.finish_body()
            self._send(conn, *self.refusal(f"{request.method} {request.uri} HTTP/1.0\r\n".encode()))

    def _reply(self, exchange: _Exchange, body: Iterable[bytes], took: timedelta) -> None:
        conn, request, environ, response, outbox = exchange
        for part in body:
            response.write(part)
        response.close()
        self.log.access(response, request, environ, took)
        self.cfg.post_request(self, request, environ, response)
        conn.parser.finish_body()
        self._send(conn, b"".join(outbox.parts), not response.should_close())

    def _send(self, conn: TConn, data: bytes, keep: bool) -> None:
        conn.set_timeout()
        try:
            sent = conn.sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            sent, keep = len(data), False
        if sent < len(data):  # the client is slow to read: it shall keep nobody but itself waiting
            self._hand_over(conn, self._send_rest, conn, data[sent:], keep)
        elif not keep:
            self._close(conn)

    def _close(self, conn: TConn, graceful: bool = True) -> None:
        if conn in self._lane_of:
            self._leave(conn)
            self.method_queue.defer(self._closed, conn, graceful)

    def _closed(self, conn: TConn, graceful: bool) -> None:
        """Close a connection. Runs in the main thread."""
        self.nr_conns -= 1
        conn.close(graceful=graceful)

    def _hand_over(self, conn: TConn, act: Callable[..., bool], *args: Any) -> None:
        """Let a connection go on in a thread of the pool, and then be looked after by the main thread."""
        self._leave(conn)
        done = self.tpool.submit(act, *args)
        done.add_done_callback(partial(self.method_queue.defer, self.finish_request, conn))

    # What follows runs in a thread of the pool.

    def _answer_alone(self, exchange: _Exchange) -> bool:
        conn = exchange.conn
        conn.sock.setblocking(True)
        try:
            return self._keepalive_after(conn, self.handle_request(exchange.request, conn))
        except OSError:
            return False
        except Exception as error:
            self.handle_error(exchange.request, conn.sock, conn.client, error)
            return False

    def _send_rest(self, conn: TConn, data: bytes, keep: bool) -> bool:
        conn.sock.setblocking(True)
        try:
            conn.sock.sendall(data)
        except OSError:
            return False
        return keep
