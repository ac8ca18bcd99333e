"""Tests of `manage.py bench_perspective`."""

import io
import os
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.core.management import call_command


@pytest.mark.slow
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core for the server, one for its clients")
def test_bench_perspective_measures_a_real_server() -> None:
    cores, out = os.sched_getaffinity(0), io.StringIO()
    try:
        # In a thread of its own: where browser tests ran before, this one has an event loop already.
        with ThreadPoolExecutor(1) as pool:
            pool.submit(
                call_command, "bench_perspective", "--seconds", "0.5", "--database", "sqlite", stdout=out
            ).result()
    finally:
        os.sched_setaffinity(0, cores)
    assert out.getvalue().count("requests/s") == 2
