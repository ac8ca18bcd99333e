"""Interval estimates against published examples."""

import pytest

from apps.core.statistics import weighted_rate, wilson


def test_wilson_of_published_example() -> None:
    # Newcombe 1998, table I: 81 of 263.
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)


def test_wilson_without_observations() -> None:
    assert wilson(0, 0) is None


def test_weighted_rate_uses_effective_sample_size() -> None:
    assert weighted_rate(8, 10, 10) == pytest.approx((0.8, *wilson(8, 10)))
    # Ten cases of weight ten.
    assert weighted_rate(80, 100, 1000) == pytest.approx((0.8, 0.4902, 0.9433), abs=1e-3)


def test_weighted_rate_without_observations() -> None:
    assert weighted_rate(0, 0, 0) is None
