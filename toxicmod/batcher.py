"""Dynamic batching: requests that wait at the same time are handled together. `toxicmod.asgi` calls it."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, NamedTuple, TypeVar

logger = logging.getLogger(__name__)

MAX_BATCH_ITEMS, MAX_BATCH_WEIGHT = 64, 3 << 18
MAX_QUEUE_DELAY_S, STANDING_QUEUE_S = 0.1, 0.25
AVERAGED_ITEMS = 64  # for the moving averages of durations

Item = TypeVar("Item")
Result = TypeVar("Result")


class OverloadedError(Exception):
    """The item is rejected because it would wait too long."""


class Admission:
    """Decides which items a queue accepts when more items arrive than can be handled.

    The queue accepts all items of a burst. If it has not been empty for STANDING_QUEUE_S seconds, it accepts
    only items that wait for at most MAX_QUEUE_DELAY_S seconds or twice the duration of a batch, whichever is
    longer. This is controlled delay (Nichols and Jacobson, 2012; for requests Maurer, "Fail at Scale", 2015).
    """

    def __init__(self) -> None:
        self._batch_seconds = 0.0
        self._seconds_per_item = 0.0
        self._empty_at = time.monotonic()

    def record(self, seconds: float, items: int, parallel: int = 1) -> None:
        """Update the averages with the duration of a batch, of which `parallel` run at the same time."""
        weight = min(items / AVERAGED_ITEMS, 1)
        self._batch_seconds += (seconds - self._batch_seconds) * weight
        self._seconds_per_item += (seconds / items / parallel - self._seconds_per_item) * weight

    def accepts(self, queue_length: int) -> bool:
        """Return whether the queue accepts another item."""
        now = time.monotonic()
        if not queue_length:
            self._empty_at = now
        if now - self._empty_at <= STANDING_QUEUE_S:
            return True
        return queue_length * self._seconds_per_item < max(MAX_QUEUE_DELAY_S, 2 * self._batch_seconds)


class _QueuedItem(NamedTuple, Generic[Item, Result]):
    item: Item
    weight: int
    future: asyncio.Future[Result]


class Batcher(Generic[Item, Result]):
    """Handles the waiting items as one batch, in separate threads, for an event loop that awaits the results.

    Unlike the batchers of Triton, Ray Serve and BentoML, it does not wait for more items: a free thread takes
    the items that have arrived during the previous batch, at most MAX_BATCH_ITEMS items or a weight of about
    MAX_BATCH_WEIGHT. With two threads, one can compute while the other waits for the database. Only the
    thread of the event loop may call it.
    """

    def __init__(
        self, handler: Callable[[Sequence[Item]], Sequence[Result]], name: str, threads: int = 1
    ) -> None:
        """Create a batcher whose threads start with the first item.

        Args:
            handler: returns a result for each item, in order.
            name: the prefix of the names of the threads.
        """
        self._handler, self._threads = handler, threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._admission = Admission()
        self._queue: deque[_QueuedItem[Item, Result]] = deque()
        self._workers: set[asyncio.Task[None] | None] = set()

    async def submit(self, item: Item, weight: int = 0) -> Result:
        """Return the result for an item.

        Raises:
            OverloadedError: the item would wait too long.
            Exception: the handler failed for the whole batch.
        """
        if not self._admission.accepts(len(self._queue)):
            raise OverloadedError
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()
        self._queue.append(_QueuedItem(item, weight, future))
        if len(self._workers) < self._threads:
            self._workers.add(loop.create_task(self._process_queue()))
        return await future

    async def _process_queue(self) -> None:
        """Handle batches until the queue is empty."""
        loop = asyncio.get_running_loop()
        while self._queue:
            batch = self._next_batch()
            results, seconds = await loop.run_in_executor(self._pool, self._handle, batch)
            self._admission.record(seconds, len(batch), self._threads)
            for queued, result in zip(batch, results, strict=True):
                if queued.future.done():  # the client has disconnected
                    continue
                if isinstance(result, Exception):
                    queued.future.set_exception(result)
                else:
                    queued.future.set_result(result)
        # Not in a callback of the task: an item that is submitted before the callback runs would wait
        # forever.
        self._workers.discard(asyncio.current_task())

    def _next_batch(self) -> list[_QueuedItem[Item, Result]]:
        batch: list[_QueuedItem[Item, Result]] = []
        weight = 0
        while self._queue and len(batch) < MAX_BATCH_ITEMS and weight < MAX_BATCH_WEIGHT:
            batch.append(self._queue.popleft())
            weight += batch[-1].weight
        return batch

    def _handle(self, batch: list[_QueuedItem[Item, Result]]) -> tuple[Sequence[Result | Exception], float]:
        start = time.monotonic()
        results: Sequence[Result | Exception]
        try:
            results = self._handler([queued.item for queued in batch])
        except Exception as error:
            logger.exception("A batch of %d requests failed", len(batch))
            results = [error] * len(batch)
        return results, time.monotonic() - start
