"""The figures that alert rules watch, from hourly rollups and from the state of the moment."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any

import numpy as np
from django.utils import timezone

from apps.core.statistics import wilson
from apps.moderation import insight
from apps.monitoring import drift, freshness, state
from apps.monitoring.drift import Estimate
from apps.monitoring.models import LATENCY_EDGES, AlertRule, HourlyRollup, Reference
from apps.registry.models import Alias

BEFORE = timedelta(days=28)
LEAST_BEFORE = timedelta(days=7)  # of history, or the days of the week would be taken for drift
Metric = AlertRule.Metric
_HOUR = timedelta(hours=1)


class Traffic:
    """The last whole hours and the one that runs, over all communities, and what they are held against."""

    def __init__(self, now: datetime, *, hours: int) -> None:
        self.now = now
        self.running = now.replace(minute=0, second=0, microsecond=0)
        self.hours = hours
        self._first = self.running - _HOUR * hours
        self._rows = HourlyRollup.objects.overall().defer("groups", "waits", "judged", "said")

    @cached_property
    def current(self) -> list[HourlyRollup]:
        """The window's rollups."""
        return list(self._rows.filter(hour__gte=self._first, hour__lte=self.running))

    @cached_property
    def before(self) -> list[HourlyRollup]:
        """Those of the same hours of the day in the four weeks before; none with less than a week of them."""
        if not self._rows.filter(hour__lte=self._first - LEAST_BEFORE).exists():
            return []
        past = {
            self.running - _HOUR * number - timedelta(days=day)
            for day in range(1, BEFORE.days + 1)
            for number in range(min(self.hours + 1, 24))
        }
        return list(self._rows.filter(hour__in=[hour for hour in past if hour < self._first]))

    @cached_property
    def weeks(self) -> list[Any]:
        """All of the four weeks before, a few columns only; none with less than a week of them."""
        columns = ("hour", "version_id", "requests", "any_flagged", "words")
        rows = HourlyRollup.objects.overall().filter(hour__gte=self._first - BEFORE, hour__lt=self._first)
        found = list(rows.order_by().values_list(*columns, named=True))
        return found if any(row.hour <= self._first - LEAST_BEFORE for row in found) else []


def _stacked(
    rows: Sequence[HourlyRollup], of: Callable[[HourlyRollup], Any]
) -> tuple[list[datetime], np.ndarray]:
    """The rows' hours and an array (hours, ...), float64: sources and versions of an hour added up."""
    hours = sorted({row.hour for row in rows})
    if not hours:
        return [], np.zeros(0)
    place = {hour: number for number, hour in enumerate(hours)}
    first = np.asarray(of(rows[0]), float)
    found = np.zeros((len(hours), *first.shape))
    for row in rows:
        found[place[row.hour]] += of(row)
    return hours, found


def _share(part: float, whole: float) -> Estimate | None:
    interval = wilson(part, whole) if whole else None
    return Estimate(part / whole, *interval) if interval else None


def _sum(rows: Sequence[HourlyRollup], name: str) -> float:
    return float(sum(getattr(row, name) for row in rows))


def _exactly(value: float) -> Estimate:
    return Estimate(value, value, value)


def _error_share(traffic: Traffic) -> Estimate | None:
    errors = _sum(traffic.current, "errors")
    return _share(errors, errors + _sum(traffic.current, "requests"))


def _latency(traffic: Traffic) -> Estimate | None:
    _, counts = _stacked(traffic.current, lambda row: row.latency)
    if not counts.any():
        return None
    share = np.cumsum(counts.sum(axis=0)) / counts.sum()
    return _exactly(float(LATENCY_EDGES[1:][np.searchsorted(share, 0.95)] / 1_000))


def _requests_per_hour(traffic: Traffic) -> Estimate:
    whole = [row for row in traffic.current if row.hour < traffic.running]
    return _exactly(_sum(whole, "requests") / traffic.hours)


def _flag_share(traffic: Traffic) -> Estimate | None:
    return _share(_sum(traffic.current, "any_flagged"), _sum(traffic.current, "requests"))


def _worst(found: Sequence[Estimate | None]) -> Estimate | None:
    """The estimate that is surely highest."""
    return max((one for one in found if one), key=lambda one: (one.low, one.value), default=None)


def _week(hours: Sequence[datetime]) -> np.ndarray:
    """Each hour's place in the week, 0 to 167."""
    return np.array([hour.weekday() * 24 + hour.hour for hour in hours], int)


def _change(traffic: Traffic, of: Callable[[HourlyRollup], Any]) -> Estimate | None:
    """The change of a rate either way against the rhythm of four weeks; `of` a row: hits and comments."""
    hours, before = _stacked(traffic.weeks, of)
    now, current = _stacked(traffic.current, of)
    usual = drift.rhythm(before, _week(hours)) if hours else None
    change = drift.rate_change(usual, current, _week(now)) if usual and now else None
    return drift.either_way(change) if change else None


def _flag_change(traffic: Traffic) -> Estimate | None:
    # Of any label: rare ones come in bursts, and the worst of six would cry wolf. `_score_psi` looks at each.
    return _change(traffic, lambda row: np.array([row.any_flagged, row.requests]))


def _unknown_change(traffic: Traffic) -> Estimate | None:
    version = _version_of(traffic)
    # N-grams of a comment come together, so hours vary far more than chance: the dispersion takes account.
    return _change(
        traffic, lambda row: np.asarray(row.words)[::-1] if row.version_id == version else np.zeros(2)
    )


def _psi(before: np.ndarray, current: np.ndarray) -> Estimate | None:
    """The worst PSI of histograms, each (hours, histograms, bins)."""
    if not before.size or not current.size:
        return None
    shifts = [drift.shift(before[:, k], current[:, k]) for k in range(before.shape[1])]
    return _worst([found.estimate if found else None for found in shifts])


def _version_of(traffic: Traffic) -> int | None:
    """The id of the version that served last: another model's scores are no shift of traffic."""
    newest = max(traffic.current, key=lambda row: (row.hour, row.requests), default=None)
    return newest.version_id if newest else None


def _score_psi(traffic: Traffic) -> Estimate | None:
    version = _version_of(traffic)
    before, current = (
        _stacked([row for row in rows if row.version_id == version], lambda row: row.scores)[1]
        for rows in (traffic.before, traffic.current)
    )
    return _psi(before, current)


def _length_psi(traffic: Traffic) -> Estimate | None:
    return _psi(
        _stacked(traffic.before, lambda row: np.asarray(row.lengths)[None])[1],
        _stacked(traffic.current, lambda row: np.asarray(row.lengths)[None])[1],
    )


def _training_psi(traffic: Traffic) -> Estimate | None:
    reference = Reference.objects.filter(version__alias=Alias.CHAMPION).first()
    if reference is None:
        return None
    served = [row for row in traffic.current if row.version_id == reference.version_id]
    return _psi(np.asarray(reference.scores, float)[None], _stacked(served, lambda row: row.scores)[1])


def _wrong_share(traffic: Traffic) -> Estimate | None:
    wrong = _sum(traffic.current, "wrong")
    return _share(wrong, wrong + _sum(traffic.current, "right"))


def _queue_growth(traffic: Traffic) -> Estimate | None:
    if not traffic.current:
        return None
    decided = sum(_sum(traffic.current, name) for name in ("approved", "rejected"))
    taken_back = _sum(traffic.current, "reversed") - _sum(traffic.current, "escalations_reversed")
    return _exactly(_sum(traffic.current, "queued") + taken_back - decided)


def _queue_hours(traffic: Traffic) -> Estimate | None:
    oldest = insight.oldest_open()
    return _exactly((timezone.now() - oldest).total_seconds() / 3_600 if oldest else 0.0)


def _mirror_seconds(traffic: Traffic) -> Estimate | None:
    lag = state.mirror_lag()
    return None if lag is None else _exactly(lag)


def _broker_messages(traffic: Traffic) -> Estimate | None:
    depths = state.broker_depths()
    return None if depths is None else _exactly(sum(depths.values()))


def _background_problems(traffic: Traffic) -> Estimate:
    subjects = tuple(freshness.of_background_work(traffic.now).subjects)
    return Estimate(len(subjects), len(subjects), len(subjects), subjects)


_MEASURES: dict[str, Callable[[Traffic], Estimate | None]] = {
    Metric.ERROR_SHARE: _error_share,
    Metric.LATENCY: _latency,
    Metric.REQUESTS: _requests_per_hour,
    Metric.FLAG_SHARE: _flag_share,
    Metric.FLAG_CHANGE: _flag_change,
    Metric.SCORE_SHIFT: _score_psi,
    Metric.LENGTH_SHIFT: _length_psi,
    Metric.WORD_CHANGE: _unknown_change,
    Metric.TRAINING_SHIFT: _training_psi,
    Metric.WRONG_SHARE: _wrong_share,
    Metric.QUEUE_GROWTH: _queue_growth,
    Metric.QUEUE_ITEMS: lambda traffic: _exactly(state.open_items()),
    Metric.QUEUE_HOURS: _queue_hours,
    Metric.MIRROR_SECONDS: _mirror_seconds,
    Metric.BROKER_MESSAGES: _broker_messages,
    Metric.BACKGROUND_PROBLEMS: _background_problems,
}


def measure(metric: str, traffic: Traffic) -> Estimate | None:
    """Return a metric's figure with its 95 % interval, or None where too little is known to say."""
    return _MEASURES[metric](traffic)
