"""Reads of hourly rollups for the dashboard's panels."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property

import numpy as np
from django.db.models import QuerySet
from django.utils import timezone

from apps.classifier.labels import LABELS
from apps.monitoring.models import Baseline, HourlyRollup
from apps.registry.models import Alias, ModelVersion, Promotion

HOUR, DAY, WEEK = timedelta(hours=1), timedelta(days=1), timedelta(days=7)
WINDOWS = {"24h": DAY, "7d": WEEK, "30d": timedelta(days=30), "90d": timedelta(days=90)}
DEFAULT_WINDOW = "7d"
LABEL_NAMES = [label.replace("_", " ") for label in LABELS]
_STEPS = {"24h": HOUR, "7d": HOUR, "30d": 6 * HOUR, "90d": DAY}


@dataclass(frozen=True)
class Filters:
    """The part of traffic to show.

    Attributes:
        window: a key of WINDOWS.
        community: None for all communities.
        source: empty for all sources.
        version: the number of a model version; None for all versions.
    """

    window: str = DEFAULT_WINDOW
    community: str | None = None
    source: str = ""
    version: int | None = None

    @cached_property
    def end(self) -> datetime:
        """The end of the current hour when it is first read."""
        return timezone.now().astimezone(UTC).replace(minute=0, second=0, microsecond=0) + HOUR

    @property
    def begin(self) -> datetime:
        """The start of the window."""
        return self.end - WINDOWS[self.window]

    @property
    def step(self) -> timedelta:
        """The time between two points of a series."""
        return _STEPS[self.window]

    @property
    def times(self) -> list[datetime]:
        """The starts of the window's steps."""
        count = round((self.end - self.begin) / self.step)
        return [self.begin + self.step * number for number in range(count)]


@dataclass(frozen=True)
class RollupTable:
    """Rollups as columns of n rows.

    Attributes:
        hours: (n,) starts of the hours.
        sources: (n,) sources.
        versions: (n,) numbers of the model versions.
        fields: arrays (n, ...) by field name.
        filters: the window that `by_step` divides.
    """

    hours: list[datetime]
    sources: list[str]
    versions: list[int]
    fields: dict[str, np.ndarray]
    filters: Filters

    def total(self, name: str) -> np.ndarray:
        """Return the sum of a field over all rows."""
        return self.fields[name].sum(axis=0)

    def by_step(self, name: str, selected: Sequence[bool] | None = None) -> np.ndarray:
        """Return the sums (steps, ...) of a field by step of the window, over all or the selected rows."""
        begin, step, rows = self.filters.begin, self.filters.step, self.fields[name]
        sums = np.zeros((len(self.filters.times), *rows.shape[1:]))
        indices = np.array([int((hour - begin) / step) for hour in self.hours], int)
        selection = slice(None) if selected is None else np.array(selected, bool)
        np.add.at(sums, indices[selection], rows[selection])
        return sums


def filter_rollups(
    filters: Filters, begin: datetime | None = None, end: datetime | None = None
) -> QuerySet[HourlyRollup]:
    """Return the rollups that the filters select, by default those of their window."""
    rows = HourlyRollup.objects.all()
    rows = rows.overall() if filters.community is None else rows.of_community(filters.community)
    rows = rows.filter(hour__gte=begin or filters.begin, hour__lt=end or filters.end)
    if filters.source:
        rows = rows.filter(source=filters.source)
    if filters.version:
        rows = rows.filter(version__number=filters.version)
    return rows


def load_rollups(
    filters: Filters, *names: str, begin: datetime | None = None, end: datetime | None = None
) -> RollupTable:
    """Read fields of the rollups that the filters select, in one query.

    Args:
        names: the fields to read.
        begin: start of the time to read, by default that of the window.
        end: end of the time to read, by default that of the window.
    """
    query = filter_rollups(filters, begin, end).order_by("hour")
    rows = list(query.values_list("hour", "source", "version__number", *names))
    columns = list(zip(*rows, strict=True)) or [()] * (3 + len(names))
    shapes = {name: getattr(HourlyRollup._meta.get_field(name), "shape", ()) for name in names}
    fields = {
        name: np.array(column, float).reshape(len(rows), *shapes[name])
        for name, column in zip(names, columns[3:], strict=True)
    }
    return RollupTable(list(columns[0]), list(columns[1]), list(columns[2]), fields, filters)


def shown_version(filters: Filters) -> ModelVersion | None:
    """Return the version that the page is filtered by, or else the champion."""
    if filters.version:
        return ModelVersion.objects.filter(number=filters.version).first()
    return ModelVersion.objects.with_alias(Alias.CHAMPION)


def load_baseline(filters: Filters, *names: str) -> tuple[str, dict[str, np.ndarray]] | None:
    """Return the name and the fields of the baseline to compare traffic with.

    It is the version's baseline from training data, or else the rollups of the version's first week.
    """
    version = shown_version(filters)
    if version is None:
        return None
    baseline = Baseline.objects.filter(version=version, rows__gt=0).first()
    if baseline:
        fields = {name: np.array(getattr(baseline, name), float) for name in names}
        return f"the training data ({baseline.dataset})", fields
    rollups = HourlyRollup.objects.overall().filter(version=version, requests__gt=0)
    first = rollups.order_by("hour").values_list("hour", flat=True).first()
    if first is None:
        return None
    of_version = Filters(filters.window, filters.community, filters.source, version.number)
    table = load_rollups(of_version, *names, begin=first, end=first + WEEK)
    return f"the first week of {version}", {name: table.total(name) for name in names}


def load_promotions(filters: Filters) -> list[tuple[datetime, str]]:
    """Return the time and the version of the window's promotions, at most 20."""
    promotions = Promotion.objects.filter(created_at__gte=filters.begin).select_related("version")
    return [(row.created_at, f"{row.version} {row.kind}") for row in promotions.order_by("created_at")[:20]]
