"""Exponential back-off."""

from datetime import timedelta

from apps.core.retries import back_off


def test_back_off_doubles_up_to_the_limit() -> None:
    first, longest = timedelta(seconds=10), timedelta(hours=1)
    waits = [back_off(failures, first=first, longest=longest) for failures in (1, 2, 3, 20, 10_000)]
    for wait, expected in zip(waits, (10, 20, 40, 3600, 3600), strict=True):
        assert 0.9 * expected <= wait.total_seconds() <= expected
