"""Dynamic batching: requests that wait at the same time are handled together. `toxicmod.asgi` calls it."""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, NamedTuple, TypeVar

logger = logging.getLogger(__name__)

MAX_ITEMS, MAX_WEIGHT = 32, 3 << 18  # of a batch
MAX_QUEUE_DELAY_S, STANDING_QUEUE_S = 0.1, 0.25  # seconds
TYPICAL_OF = 64  # items, over which times are averaged

Item = TypeVar("Item")
Result = TypeVar("Result")


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
        weight = min(items / TYPICAL_OF, 1)
        self._batch_seconds += (seconds - self._batch_seconds) * weight
        self._seconds_per_item += (seconds / items / parallel - self._seconds_per_item) * weight

    def accepts(self, waiting: int) -> bool:
        """Return whether one more item may wait."""
        now = time.monotonic()
        if not waiting:
            self._empty_at = now
        if now - self._empty_at <= STANDING_QUEUE_S:
            return True
        return waiting * self._seconds_per_item < max(MAX_QUEUE_DELAY_S, 2 * self._batch_seconds)


class _Waiting(NamedTuple, Generic[Item, Result]):
    item: Item
    weight: int
    future: asyncio.Future[Result]


class Batcher(Generic[Item, Result]):
    """Handles the waiting items as one batch, in separate threads, for an event loop that awaits the results.

    Unlike the batchers of Triton, Ray Serve and BentoML, it does not wait for more items: a free thread takes
    the items that have arrived during the previous batch, at most MAX_ITEMS items or a weight of about
    MAX_WEIGHT. With two threads, one can compute while the other waits for the database.
    """

    def __init__(self, answer: Callable[[Sequence[Item]], Sequence[Result]], threads: int = 1) -> None:
        """Create a batcher; `answer` returns a result for each item, in order."""
        self._answer, self._threads = answer, threads
        self._admission = Admission()
        self._waiting: deque[_Waiting[Item, Result]] = deque()
        self._changed = threading.Condition()
        self._unstarted = threads

    def accepts(self) -> bool:
        """Return whether one more item may wait. Call it before `submit`."""
        return self._admission.accepts(len(self._waiting))

    async def submit(self, item: Item, weight: int = 0) -> Result:
        """Return the result for an item; raises the exception of its batch."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()
        with self._changed:
            self._waiting.append(_Waiting(item, weight, future))
            self._changed.notify()
        for _ in range(self._unstarted):
            threading.Thread(target=self._run, args=[loop], daemon=True).start()
        self._unstarted = 0
        return await future

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        while True:
            batch = self._take()
            start = time.monotonic()
            results: Sequence[Result | Exception]
            try:
                results = self._answer([each.item for each in batch])
            except Exception as error:
                logger.exception("A batch of %d failed", len(batch))
                results = [error] * len(batch)
            with self._changed:
                self._admission.record(time.monotonic() - start, len(batch), self._threads)
            loop.call_soon_threadsafe(_resolve, batch, results)
            del batch, results  # they may be large, and the next batch may be much later

    def _take(self) -> list[_Waiting[Item, Result]]:
        """Wait for items and return the next batch."""
        with self._changed:
            while not self._waiting:
                self._changed.wait()
            batch: list[_Waiting[Item, Result]] = []
            weight = 0
            while self._waiting and len(batch) < MAX_ITEMS and weight < MAX_WEIGHT:
                batch.append(self._waiting.popleft())
                weight += batch[-1].weight
            return batch


def _resolve(batch: Sequence[_Waiting[Item, Result]], results: Sequence[Result | Exception]) -> None:
    for waiting, result in zip(batch, results, strict=True):
        if waiting.future.done():
            continue
        if isinstance(result, Exception):
            waiting.future.set_exception(result)
        else:
            waiting.future.set_result(result)
