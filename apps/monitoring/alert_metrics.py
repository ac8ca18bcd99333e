"""Estimates of the metrics that alert rules watch, from hourly rollups and from live metrics."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any

import numpy as np
from django.utils import timezone

from apps.core.statistics import wilson
from apps.moderation import statistics
from apps.monitoring import drift, freshness, live_metrics
from apps.monitoring.drift import Estimate
from apps.monitoring.models import LATENCY_EDGES, AlertRule, Baseline, HourlyRollup
from apps.registry.models import Alias

HISTORY = timedelta(days=28)
MIN_HISTORY = timedelta(days=7)  # with less, the pattern of the week would look like drift
Metric = AlertRule.Metric
_HOUR = timedelta(hours=1)


class TrafficWindow:
    """The rollups of a window and of the four weeks before it, over all communities; read when needed.

    Args:
        now: the end of the window, in its current hour.
        hours: the number of full hours before the current one.
    """

    def __init__(self, now: datetime, *, hours: int) -> None:
        self.now = now
        self.current_hour = now.replace(minute=0, second=0, microsecond=0)
        self.hours = hours
        self._begin = self.current_hour - _HOUR * hours
        self._rollups = HourlyRollup.objects.overall().defer(
            "identity_groups", "decision_times", "moderator_confusion", "feedback_confusion"
        )

    @cached_property
    def rollups(self) -> list[HourlyRollup]:
        """The rollups of the window."""
        return list(self._rollups.filter(hour__gte=self._begin, hour__lte=self.current_hour))

    @cached_property
    def same_hours_before(self) -> list[HourlyRollup]:
        """The rollups of the same hours of the day in the four weeks before; none without MIN_HISTORY."""
        if not self._rollups.filter(hour__lte=self._begin - MIN_HISTORY).exists():
            return []
        hours = {
            self.current_hour - _HOUR * number - timedelta(days=day)
            for day in range(1, HISTORY.days + 1)
            for number in range(min(self.hours + 1, 24))
        }
        return list(self._rollups.filter(hour__in=[hour for hour in hours if hour < self._begin]))

    @cached_property
    def history(self) -> list[Any]:
        """Some columns of all rollups of the four weeks before; none without MIN_HISTORY."""
        columns = ("hour", "version_id", "requests", "any_flagged", "ngrams")
        before = HourlyRollup.objects.overall().filter(hour__gte=self._begin - HISTORY, hour__lt=self._begin)
        rows = list(before.order_by().values_list(*columns, named=True))
        return rows if any(row.hour <= self._begin - MIN_HISTORY for row in rows) else []

    @property
    def version_id(self) -> int | None:
        """The model version that served last; scores of different versions can't be compared."""
        newest = max(self.rollups, key=lambda row: (row.hour, row.requests), default=None)
        return newest.version_id if newest else None


def estimate(metric: str, window: TrafficWindow) -> Estimate | None:
    """Return a metric with its confidence interval, or None if there are too few data."""
    return ESTIMATORS[metric](window)


def _sums_by_hour(rows: Sequence[Any], column: Callable[[Any], Any]) -> tuple[list[datetime], np.ndarray]:
    """Return the rows' hours and the sums (hours, ...) of a column over sources and versions."""
    hours = sorted({row.hour for row in rows})
    if not hours:
        return [], np.zeros(0)
    index = {hour: number for number, hour in enumerate(hours)}
    shape = np.asarray(column(rows[0]), float).shape
    sums = np.zeros((len(hours), *shape))
    for row in rows:
        sums[index[row.hour]] += column(row)
    return hours, sums


def _sum(rows: Sequence[HourlyRollup], name: str) -> float:
    return float(sum(getattr(row, name) for row in rows))


def _point_estimate(value: float) -> Estimate:
    return Estimate(value, value, value)


def _fraction(part: float, total: float) -> Estimate | None:
    interval = wilson(part, total)
    return Estimate(part / total, *interval) if interval else None


def _highest(estimates: Sequence[Estimate | None]) -> Estimate | None:
    """Return the estimate with the highest lower end of its interval."""
    known = [candidate for candidate in estimates if candidate]
    return max(known, key=lambda candidate: (candidate.low, candidate.value), default=None)


def _hours_of_week(hours: Sequence[datetime]) -> np.ndarray:
    """Return the hours of the week, 0 to 167."""
    return np.array([hour.weekday() * 24 + hour.hour for hour in hours], int)


def _rate_change(window: TrafficWindow, column: Callable[[Any], Any]) -> Estimate | None:
    """Return the change of a rate relative to the weekly profile of the four weeks before.

    Args:
        column: returns the hits and comments of a rollup.
    """
    hours_before, before = _sums_by_hour(window.history, column)
    hours, counts = _sums_by_hour(window.rollups, column)
    profile = drift.fit_weekly_profile(before, _hours_of_week(hours_before)) if hours_before else None
    ratio = drift.rate_ratio(profile, counts, _hours_of_week(hours)) if profile and hours else None
    return drift.fold_change(ratio) if ratio else None


def _highest_psi(before: np.ndarray, current: np.ndarray) -> Estimate | None:
    """Return the highest PSI of several histograms, each array (hours, histograms, bins)."""
    if not before.size or not current.size:
        return None
    shifts = [drift.detect_shift(before[:, k], current[:, k]) for k in range(before.shape[1])]
    return _highest([shift.estimate if shift else None for shift in shifts])


def _error_rate(window: TrafficWindow) -> Estimate | None:
    errors = _sum(window.rollups, "errors")
    return _fraction(errors, errors + _sum(window.rollups, "requests"))


def _latency(window: TrafficWindow) -> Estimate | None:
    _, counts = _sums_by_hour(window.rollups, lambda row: row.latency)
    if not counts.any():
        return None
    cumulative = np.cumsum(counts.sum(axis=0)) / counts.sum()
    return _point_estimate(float(LATENCY_EDGES[1:][np.searchsorted(cumulative, 0.95)] / 1_000))


def _requests_per_hour(window: TrafficWindow) -> Estimate:
    full_hours = [row for row in window.rollups if row.hour < window.current_hour]
    return _point_estimate(_sum(full_hours, "requests") / window.hours)


def _flag_rate(window: TrafficWindow) -> Estimate | None:
    return _fraction(_sum(window.rollups, "any_flagged"), _sum(window.rollups, "requests"))


def _flag_rate_change(window: TrafficWindow) -> Estimate | None:
    # Of any label: rare labels come in bursts, so the highest change of six labels would be a false alarm.
    return _rate_change(window, lambda row: np.array([row.any_flagged, row.requests]))


def _unknown_ngram_change(window: TrafficWindow) -> Estimate | None:
    version = window.version_id
    # The n-grams of a comment are not independent; the profile's dispersion accounts for this.
    return _rate_change(
        window, lambda row: np.asarray(row.ngrams)[::-1] if row.version_id == version else np.zeros(2)
    )


def _score_drift(window: TrafficWindow) -> Estimate | None:
    version = window.version_id
    before, current = (
        _sums_by_hour([row for row in rows if row.version_id == version], lambda row: row.scores)[1]
        for rows in (window.same_hours_before, window.rollups)
    )
    return _highest_psi(before, current)


def _length_drift(window: TrafficWindow) -> Estimate | None:
    return _highest_psi(
        _sums_by_hour(window.same_hours_before, lambda row: np.asarray(row.lengths)[None])[1],
        _sums_by_hour(window.rollups, lambda row: np.asarray(row.lengths)[None])[1],
    )


def _training_drift(window: TrafficWindow) -> Estimate | None:
    baseline = Baseline.objects.filter(version__alias=Alias.CHAMPION).first()
    if baseline is None:
        return None
    rows = [row for row in window.rollups if row.version_id == baseline.version_id]
    return _highest_psi(
        np.asarray(baseline.scores, float)[None], _sums_by_hour(rows, lambda row: row.scores)[1]
    )


def _negative_feedback(window: TrafficWindow) -> Estimate | None:
    wrong = _sum(window.rollups, "feedback_wrong")
    return _fraction(wrong, wrong + _sum(window.rollups, "feedback_right"))


def _queue_growth(window: TrafficWindow) -> Estimate | None:
    if not window.rollups:
        return None
    decided = _sum(window.rollups, "approved") + _sum(window.rollups, "rejected")
    reopened = _sum(window.rollups, "reversed") - _sum(window.rollups, "escalations_reversed")
    return _point_estimate(_sum(window.rollups, "queued") + reopened - decided)


def _queue_items(window: TrafficWindow) -> Estimate:
    return _point_estimate(live_metrics.open_items())


def _queue_hours(window: TrafficWindow) -> Estimate:
    oldest = statistics.oldest_open()
    return _point_estimate((timezone.now() - oldest).total_seconds() / 3_600 if oldest else 0.0)


def _mirror_lag(window: TrafficWindow) -> Estimate | None:
    lag = live_metrics.mirror_lag()
    return None if lag is None else _point_estimate(lag)


def _broker_messages(window: TrafficWindow) -> Estimate | None:
    depths = live_metrics.broker_depths()
    return None if depths is None else _point_estimate(sum(depths.values()))


def _background_problems(window: TrafficWindow) -> Estimate:
    subjects = tuple(freshness.of_background_work(window.now).subjects)
    return Estimate(len(subjects), len(subjects), len(subjects), subjects)


ESTIMATORS: dict[str, Callable[[TrafficWindow], Estimate | None]] = {
    Metric.ERROR_RATE: _error_rate,
    Metric.LATENCY: _latency,
    Metric.REQUESTS: _requests_per_hour,
    Metric.FLAG_RATE: _flag_rate,
    Metric.FLAG_RATE_CHANGE: _flag_rate_change,
    Metric.SCORE_DRIFT: _score_drift,
    Metric.LENGTH_DRIFT: _length_drift,
    Metric.UNKNOWN_NGRAM_CHANGE: _unknown_ngram_change,
    Metric.TRAINING_DRIFT: _training_drift,
    Metric.NEGATIVE_FEEDBACK: _negative_feedback,
    Metric.QUEUE_GROWTH: _queue_growth,
    Metric.QUEUE_ITEMS: _queue_items,
    Metric.QUEUE_HOURS: _queue_hours,
    Metric.MIRROR_LAG: _mirror_lag,
    Metric.BROKER_MESSAGES: _broker_messages,
    Metric.BACKGROUND_PROBLEMS: _background_problems,
}
