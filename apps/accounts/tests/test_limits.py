"""Low rate limits are exact, high ones need few calls of Redis, and all of them work without Redis."""

import sys
import time
from concurrent.futures import ThreadPoolExecutor
from unittest.mock import patch

import pytest
from limits import RateLimitItemPerMinute

from apps.accounts.limits import ALLOWANCE_SHARE, RateLimiter


@pytest.fixture
def limiter(redis_url: str) -> RateLimiter:
    limiter = RateLimiter(redis_url)
    limiter._shared.storage.reset()
    return limiter


def count_admitted(limiter: RateLimiter, limit: int, calls: int) -> int:
    return sum(limiter.hit(RateLimitItemPerMinute(limit), "somebody") is None for _ in range(calls))


@pytest.mark.parametrize("limit", [3, 99])
def test_hit_with_low_limit_is_exact(limiter: RateLimiter, limit: int) -> None:
    assert count_admitted(limiter, limit, 2 * limit) == limit
    assert (limiter.hit(RateLimitItemPerMinute(limit), "somebody") or 0) >= 1
    assert limiter.hit(RateLimitItemPerMinute(limit), "somebody else") is None


def test_hit_with_high_limit_calls_redis_rarely(limiter: RateLimiter) -> None:
    with patch.object(limiter._shared, "hit", wraps=limiter._shared.hit) as hit:
        assert count_admitted(limiter, 6_000, 500) == 500
        assert hit.call_count < 50
        count = count_admitted(limiter, 6_000, 12_000)
    assert 6_000 * (1 - ALLOWANCE_SHARE) <= 500 + count <= 6_000 * (1 + ALLOWANCE_SHARE)


@pytest.mark.usefixtures("frozen_time")
def test_hit_without_redis_counts_per_process() -> None:
    limiter = RateLimiter("redis://127.0.0.1:1/0")
    assert count_admitted(limiter, 3, 5) == 3


def test_hit_without_redis_in_many_threads() -> None:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    limiter = RateLimiter("")
    end = time.monotonic() + 1

    def send_requests(number: int) -> None:
        while time.monotonic() < end:
            assert limiter.hit(RateLimitItemPerMinute(10), f"somebody {number} {time.monotonic()}") is None

    try:
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(send_requests, range(16)))
    finally:
        sys.setswitchinterval(interval)
