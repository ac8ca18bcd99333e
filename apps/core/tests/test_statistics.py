"""Interval estimates against published examples."""

import pytest

from apps.core.statistics import wilson


def test_wilson_of_published_example() -> None:
    # Newcombe 1998, table I: 81 of 263.
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)


def test_wilson_without_observations() -> None:
    assert wilson(0, 0) is None
