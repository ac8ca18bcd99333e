"""Dynamic batching: requests that wait at the same time are handled together. `toxicmod.asgi` calls it."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence, Sized
from queue import SimpleQueue
from threading import Thread
from typing import Any, Generic, NamedTuple, TypeVar

logger = logging.getLogger(__name__)

MAX_BATCH_ITEMS = 32
MAX_BATCH_WEIGHT = 256 * 1024  # in the unit of the caller's weights: bytes for `toxicmod.asgi`
MAX_QUEUE_DELAY_S, STANDING_QUEUE_S = 0.1, 0.25
AVERAGED_ITEMS = 64  # for the moving averages of durations

Item = TypeVar("Item")
Result = TypeVar("Result")


class Admission:
    """Decides which items a queue accepts when more items arrive than can be handled.

    The queue accepts all items of a burst. If it has not been empty for STANDING_QUEUE_S seconds, or has
    rejected an item in this time, it accepts only items that wait for at most MAX_QUEUE_DELAY_S seconds or
    twice the duration of a batch, whichever is longer. This is controlled delay (Nichols and Jacobson, 2012;
    for requests Maurer, "Fail at Scale", 2015).
    """

    def __init__(self, queue: Sized) -> None:
        self._queue, self._arriving = queue, 0  # arriving: accepted, but not in the queue yet
        self._batch_seconds = self._seconds_per_item = 0.0
        self._empty_at, self._rejected_at = time.monotonic(), 0.0

    def record(self, seconds: float, items: int, parallel: int = 1) -> None:
        """Update the averages with the duration of a batch, of which `parallel` run at the same time.

        If two threads call it at the same time, one duration may be missing from the averages.
        """
        weight = min(items / AVERAGED_ITEMS, 1)
        self._batch_seconds += (seconds - self._batch_seconds) * weight
        self._seconds_per_item += (seconds / items / parallel - self._seconds_per_item) * weight

    def accepts(self) -> bool:
        """Return whether the queue accepts another item, which has to be added in the loop's next iteration.

        Items that were accepted in the same iteration are not in the queue yet, but they count. Only the
        thread of the event loop may call it.
        """
        now = time.monotonic()
        length = len(self._queue) + self._arriving
        if not length and now - self._rejected_at > STANDING_QUEUE_S:
            self._empty_at = now
        max_delay = max(MAX_QUEUE_DELAY_S, 2 * self._batch_seconds)
        if now - self._empty_at > STANDING_QUEUE_S and length * self._seconds_per_item >= max_delay:
            self._rejected_at = now
            return False
        if not self._arriving:
            asyncio.get_running_loop().call_soon(setattr, self, "_arriving", 0)
        self._arriving += 1
        return True


class _QueuedItem(NamedTuple, Generic[Item, Result]):
    item: Item
    weight: int
    future: asyncio.Future[Result]


_Batches = SimpleQueue[list[_QueuedItem[Any, Any]]]


class Batcher(Generic[Item, Result]):
    """Handles the waiting items as one batch, in separate threads, for an event loop that awaits the results.

    Unlike the batchers of Triton, Ray Serve and BentoML, it does not wait for more items: an idle thread
    takes the items that have arrived during the previous batch, at most MAX_BATCH_ITEMS items or a weight of
    about MAX_BATCH_WEIGHT. With two threads, one can compute while the other waits for the database. Only the
    thread of the event loop may call it.
    """

    def __init__(self, handler: Callable[[Sequence[Item]], Sequence[Result]], threads: int = 1) -> None:
        """Create a batcher; `handler` returns a result for each item, in order."""
        self._handler, self._threads = handler, threads
        self._queue: deque[_QueuedItem[Item, Result]] = deque()
        self.admission = Admission(self._queue)  # ask it before `submit`
        # The queue of batches of each idle thread, or None for a thread that has not been needed yet. A
        # stack, because the caches of the processor and of SQLite contain the data of the latest thread.
        self._idle: list[_Batches | None] = [None] * threads

    async def submit(self, item: Item, weight: int = 0) -> Result:
        """Return the result for an item; raises the exception of its batch."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()
        self._queue.append(_QueuedItem(item, weight, future))
        if self._idle:  # the batch will contain all items that arrive in this iteration of the loop
            loop.call_soon(self._start_batch, self._idle.pop())
        return await future

    def _start_batch(self, batches: _Batches | None) -> None:
        """Pass the waiting items to a thread, or note that it is idle."""
        if not self._queue:
            self._idle.append(batches)
            return
        if batches is None:
            batches = SimpleQueue()
            Thread(target=self._handle_batches, args=(batches,), daemon=True).start()
        batches.put(self._take_batch())

    def _handle_batches(self, batches: _Batches) -> None:
        while True:
            batch = batches.get()
            start = time.monotonic()
            try:
                results: Sequence[Result | Exception] = self._handler([queued.item for queued in batch])
            except Exception as error:
                logger.exception("A batch of %d failed", len(batch))
                results = [error] * len(batch)
            batch[0].future.get_loop().call_soon_threadsafe(self._finish, batches, batch, results, start)
            del batch, results  # they may be large

    def _finish(self, batches: _Batches, batch: list[Any], results: Sequence[Any], start: float) -> None:
        """Resolve the futures of a batch that a thread began at `start`, and pass it the next one."""
        self.admission.record(time.monotonic() - start, len(batch), self._threads)
        self._start_batch(batches)
        for queued, result in zip(batch, results, strict=True):
            if not queued.future.done():  # otherwise the client has disconnected
                is_error = isinstance(result, Exception)
                (queued.future.set_exception if is_error else queued.future.set_result)(result)

    def _take_batch(self) -> list[_QueuedItem[Item, Result]]:
        batch, weight = list[_QueuedItem[Item, Result]](), 0
        while self._queue and len(batch) < MAX_BATCH_ITEMS and weight < MAX_BATCH_WEIGHT:
            batch.append(self._queue.popleft())
            weight += batch[-1].weight
        return batch
