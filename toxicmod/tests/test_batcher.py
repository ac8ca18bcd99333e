"""Tests of `toxicmod.batcher`."""

import asyncio
import threading
import time
from collections.abc import Sequence

import pytest

from toxicmod.batcher import MAX_BATCH_ITEMS, MAX_QUEUE_DELAY_S, STANDING_QUEUE_S, Admission, Batcher


def test_submit_handles_waiting_items_together() -> None:
    sizes: list[int] = []

    def double(items: Sequence[int]) -> list[int]:
        sizes.append(len(items))
        time.sleep(0.01)
        return [2 * item for item in items]

    async def main() -> list[int]:
        batcher = Batcher(double)
        return await asyncio.gather(*(batcher.submit(number) for number in range(3 * MAX_BATCH_ITEMS)))

    assert asyncio.run(main()) == [2 * number for number in range(3 * MAX_BATCH_ITEMS)]
    assert max(sizes) == MAX_BATCH_ITEMS
    assert len(sizes) <= 4


def test_submit_raises_exception_of_its_batch_only() -> None:
    def handle(items: Sequence[int]) -> list[int]:
        if 0 in items:
            raise ValueError("zero")
        return list(items)

    async def main() -> None:
        batcher = Batcher(handle)
        with pytest.raises(ValueError, match="zero"):
            await batcher.submit(0)
        assert await batcher.submit(1) == 1

    asyncio.run(main())


def test_submit_prefers_thread_that_was_idle_last() -> None:
    async def main() -> tuple[set[int], set[int]]:
        def identify(items: Sequence[float]) -> list[int]:
            time.sleep(items[0])
            return [threading.get_ident()] * len(items)

        batcher = Batcher(identify, threads=2)
        both = {await first for first in [asyncio.create_task(batcher.submit(0.01))]}
        slow = asyncio.create_task(batcher.submit(0.05))
        await asyncio.sleep(0.01)
        both |= {await batcher.submit(0.0), await slow}
        one_by_one = {await batcher.submit(0.0) for _ in range(6)}
        return both, one_by_one

    both, one_by_one = asyncio.run(main())
    assert len(both) == 2
    assert len(one_by_one) == 1


def test_submit_ignores_result_of_cancelled_item() -> None:
    async def main() -> int:
        def wait(items: Sequence[int]) -> list[int]:
            time.sleep(0.02)
            return list(items)

        batcher = Batcher(wait)
        cancelled = asyncio.create_task(batcher.submit(1))
        await asyncio.sleep(0.005)
        cancelled.cancel()
        return await batcher.submit(2)

    assert asyncio.run(main()) == 2


def test_admission_counts_items_accepted_in_the_same_iteration() -> None:
    async def main() -> tuple[int, int]:
        queue = [0]
        admission = Admission(queue)
        for _ in range(100):
            admission.record(MAX_QUEUE_DELAY_S, 10)  # ten items are handled in the largest delay
        await asyncio.sleep(STANDING_QUEUE_S + 0.05)
        first = sum(admission.accepts() for _ in range(500))
        queue.extend([0] * first)
        await asyncio.sleep(0)
        return first, sum(admission.accepts() for _ in range(500))

    first, second = asyncio.run(main())
    assert 9 <= first <= 25
    assert second == 0


def test_queue_that_is_empty_after_a_rejection_is_not_a_burst() -> None:
    async def main() -> tuple[bool, int, int]:
        queue = [0] * 1_000
        admission = Admission(queue)
        for _ in range(100):
            admission.record(MAX_QUEUE_DELAY_S, 10)
        await asyncio.sleep(STANDING_QUEUE_S + 0.05)
        is_accepted = admission.accepts()
        queue.clear()
        during = sum(admission.accepts() for _ in range(500))
        await asyncio.sleep(STANDING_QUEUE_S + 0.05)
        return is_accepted, during, sum(admission.accepts() for _ in range(500))

    is_accepted, during, afterwards = asyncio.run(main())
    assert not is_accepted
    assert 9 <= during <= 25
    assert afterwards == 500
