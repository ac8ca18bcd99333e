"""Dynamic batching: requests that wait at the same time are answered together."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, NamedTuple, TypeVar

logger = logging.getLogger(__name__)

MAX_ITEMS, MAX_WEIGHT = 64, 3 << 18  # of a batch
MAX_DELAY, STANDING = 0.1, 0.25  # seconds
TYPICAL_OF = 64  # items, over which times are averaged

Item = TypeVar("Item")
Result = TypeVar("Result")


class OverloadedError(Exception):
    """The item would wait for too long."""


class Admission:
    """Decides which items a queue accepts while more come than can be answered.

    A burst is worked off. Once the queue has not been empty for STANDING seconds, it accepts only items that
    will have their turn within MAX_DELAY seconds, or within twice the time of a batch where that is longer.
    After controlled delay (Nichols and Jacobson, 2012; for requests Maurer, "Fail at Scale", 2015).
    """

    def __init__(self) -> None:
        self._batch_seconds = 0.0
        self._seconds_per_item = 0.0
        self._empty_at = time.monotonic()

    def record(self, seconds: float, items: int, parallel: int = 1) -> None:
        """Take note of how long it took to answer items, and how many batches are answered at once."""
        weight = min(items / TYPICAL_OF, 1)
        self._batch_seconds += (seconds - self._batch_seconds) * weight
        self._seconds_per_item += (seconds / items / parallel - self._seconds_per_item) * weight

    def accepts(self, waiting: int) -> bool:
        """Whether one more item may wait behind those that wait already."""
        now = time.monotonic()
        if not waiting:
            self._empty_at = now
        if now - self._empty_at <= STANDING:
            return True
        return waiting * self._seconds_per_item < max(MAX_DELAY, 2 * self._batch_seconds)


class _Waiting(NamedTuple, Generic[Item, Result]):
    item: Item
    weight: int
    future: asyncio.Future[Result]


class Batcher(Generic[Item, Result]):
    """Answers whatever waits as one batch, in threads of its own, for an event loop that awaits the results.

    As in Triton, Ray Serve and BentoML, but nothing lingers: a thread that is free takes what has come while
    the batch before was answered, at most MAX_ITEMS items and as many as weigh MAX_WEIGHT. With two threads
    one can compute while the other waits for the database. Only the event loop's thread may call it.
    """

    def __init__(
        self, answer: Callable[[Sequence[Item]], Sequence[Result]], name: str, threads: int = 1
    ) -> None:
        """`answer` returns a result for each item, in their order. Threads start with the first item."""
        self._answer, self._threads = answer, threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._admission = Admission()
        self._waiting: deque[_Waiting[Item, Result]] = deque()
        self._workers: set[asyncio.Task[None] | None] = set()

    async def submit(self, item: Item, weight: int = 0) -> Result:
        """Return the result for an item.

        Raises:
            OverloadedError: it would wait for too long.
            Exception: the whole batch failed.
        """
        if not self._admission.accepts(len(self._waiting)):
            raise OverloadedError
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()
        self._waiting.append(_Waiting(item, weight, future))
        if len(self._workers) < self._threads:
            self._workers.add(loop.create_task(self._work()))
        return await future

    async def _work(self) -> None:
        """Have batches answered until nothing waits."""
        loop = asyncio.get_running_loop()
        while self._waiting:
            batch = self._take()
            results, seconds = await loop.run_in_executor(self._pool, self._timed, batch)
            self._admission.record(seconds, len(batch), self._threads)
            for waiting, result in zip(batch, results, strict=True):
                if waiting.future.done():  # its client is gone
                    continue
                if isinstance(result, Exception):
                    waiting.future.set_exception(result)
                else:
                    waiting.future.set_result(result)
        # Here and not in a callback of the task: what is submitted before that one runs would wait for ever.
        self._workers.discard(asyncio.current_task())

    def _take(self) -> list[_Waiting[Item, Result]]:
        batch: list[_Waiting[Item, Result]] = []
        weight = 0
        while self._waiting and len(batch) < MAX_ITEMS and weight < MAX_WEIGHT:
            batch.append(self._waiting.popleft())
            weight += batch[-1].weight
        return batch

    def _timed(self, batch: list[_Waiting[Item, Result]]) -> tuple[Sequence[Result | Exception], float]:
        start = time.monotonic()
        results: Sequence[Result | Exception]
        try:
            results = self._answer([each.item for each in batch])
        except Exception as error:
            logger.exception("A batch of %d failed", len(batch))
            results = [error] * len(batch)
        return results, time.monotonic() - start
