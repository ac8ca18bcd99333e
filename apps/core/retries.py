"""How long to wait before an operation that failed is tried again."""

import random
from datetime import timedelta


def back_off(failures: int, *, first: timedelta, longest: timedelta) -> timedelta:
    """Return the wait after a number of consecutive failures: exponential, shortened at random by up to 10%.

    Args:
        failures: 1 after the first failure.
        first: the wait after the first failure; each further failure doubles it.
        longest: the upper limit.
    """
    wait = min(first * 2 ** min(max(failures - 1, 0), 20), longest)
    return wait * random.uniform(0.9, 1)
