"""The dashboard's panels: each reads rollups, says what it found in a sentence and draws it."""

import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any

import numpy as np
from django.conf import settings
from django.db.models import Count, QuerySet
from django.utils import timezone

from apps.classifier.labels import LABELS
from apps.core.statistics import wilson
from apps.core.text import pluralize
from apps.moderation import insight
from apps.moderation.models import Delivery, QueueItem, Submission
from apps.monitoring import drift, freshness, rollups, schedules, state
from apps.monitoring.figures import Kind, Panel, Plot, Series, Tile, Y
from apps.monitoring.models import (
    GROUPS,
    JUDGED_BINS,
    LATENCY_EDGES,
    LENGTH_EDGES,
    SCORE_BINS,
    WAIT_EDGES,
    Alert,
    DomainCheck,
    HourlyRollup,
    Reference,
    RequestMinute,
)
from apps.predictions.models import Prediction
from apps.registry.models import Alias, ModelVersion, Promotion
from apps.training import shadow
from apps.training.models import ShadowScore

HOUR, DAY, WEEK = timedelta(hours=1), timedelta(days=1), timedelta(days=7)
WINDOWS = {"24h": DAY, "7d": WEEK, "30d": timedelta(days=30), "90d": timedelta(days=90)}
NAMES = [label.replace("_", " ") for label in LABELS]


@dataclass(frozen=True)
class Filters:
    """What part of the traffic is looked at. Empty: all of it."""

    window: str = "7d"
    community: str | None = None
    source: str = ""
    version: int | None = None

    @cached_property
    def end(self) -> datetime:
        """The end of the hour that runs, which stays while these filters are used."""
        return timezone.now().astimezone(UTC).replace(minute=0, second=0, microsecond=0) + HOUR

    @property
    def begin(self) -> datetime:
        """The start of the window."""
        return self.end - WINDOWS[self.window]

    @property
    def step(self) -> timedelta:
        """How much time a point of a line stands for."""
        return {"24h": HOUR, "7d": HOUR, "30d": 6 * HOUR, "90d": DAY}[self.window]


@dataclass(frozen=True)
class Frame:
    """Rollups as arrays: n hours, sources and versions, and the fields that were asked for, each (n, ...)."""

    hours: list[datetime]
    sources: list[str]
    versions: list[int]
    fields: dict[str, np.ndarray]

    def total(self, name: str, chosen: Sequence[bool] | None = None) -> np.ndarray:
        """Return a field's sum over the rows, or over those chosen."""
        rows = self.fields[name]
        return (rows if chosen is None else rows[np.array(chosen, bool)]).sum(axis=0)

    def over_time(
        self, name: str, filters: Filters, chosen: Sequence[bool] | None = None
    ) -> tuple[list[datetime], np.ndarray]:
        """Return the starts of the window's steps, and the field's sum in each (steps, ...)."""
        begin, step = filters.begin, filters.step
        count = round((filters.end - begin) / step)
        rows = self.fields[name]
        out = np.zeros((count, *rows.shape[1:]))
        places = np.array([int((hour - begin) / step) for hour in self.hours], int)
        keep = slice(None) if chosen is None else np.array(chosen, bool)
        np.add.at(out, places[keep], rows[keep])
        return [begin + step * number for number in range(count)], out


def _rows(
    filters: Filters, begin: datetime | None = None, end: datetime | None = None
) -> QuerySet[HourlyRollup]:
    rows = HourlyRollup.objects.all()
    rows = rows.overall() if filters.community is None else rows.of_community(filters.community)
    rows = rows.filter(hour__gte=begin or filters.begin, hour__lt=end or filters.end)
    if filters.source:
        rows = rows.filter(source=filters.source)
    if filters.version:
        rows = rows.filter(version__number=filters.version)
    return rows


def load(filters: Filters, *names: str, begin: datetime | None = None, end: datetime | None = None) -> Frame:
    """Read the rollups of a window, in one query."""
    found = list(
        _rows(filters, begin, end).order_by("hour").values_list("hour", "source", "version__number", *names)
    )
    columns = list(zip(*found, strict=True)) or [()] * (3 + len(names))
    shapes = {name: getattr(HourlyRollup._meta.get_field(name), "shape", ()) for name in names}
    return Frame(
        list(columns[0]),
        list(columns[1]),
        list(columns[2]),
        {
            name: np.array(column, float).reshape(len(found), *shapes[name])
            for name, column in zip(names, columns[3:], strict=True)
        },
    )


def promotions(filters: Filters) -> list[tuple[datetime, str]]:
    """Return when a version became champion in the window, and which."""
    rows = (
        Promotion.objects.filter(created_at__gte=filters.begin)
        .select_related("version")
        .order_by("created_at")
    )
    return [(row.created_at, f"{row.version} {row.kind}") for row in rows[:20]]


def percentile(counts: np.ndarray, edges: np.ndarray, share: float) -> float | None:
    """Return a percentile of a histogram with log-scale edges; inside a bin the logarithm is interpolated."""
    total = counts.sum()
    if not total:
        return None
    sums = np.cumsum(counts)
    place = int(np.searchsorted(sums, share * total))
    before = sums[place - 1] if place else 0
    part = (share * total - before) / counts[place]
    return float(edges[place] * (edges[place + 1] / edges[place]) ** part)


def weighted_share(hits: float, total: float, squares: float) -> tuple[float, float, float] | None:
    """Return a weighted share and its 95 % interval (Wilson 1927); None where nothing was counted.

    The number of independent cases is Kish's: the weights' sum, squared, over the sum of their squares.
    """
    if not total:
        return None
    share, cases = hits / total, total * total / squares
    interval = wilson(share * cases, cases)
    assert interval is not None
    return float(share), *map(float, interval)


def _ratio(part: np.ndarray, whole: np.ndarray) -> Y:
    return [float(a / b) if b else None for a, b in zip(part, whole, strict=True)]


def _percentiles(counts: np.ndarray, edges: np.ndarray, share: float, unit: float) -> Y:
    found = [percentile(row, edges, share) for row in counts]
    return [None if value is None else value / unit for value in found]


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g} %" if value < 1 else f"{value:.1f} %"


def _ms(value: float | None) -> str:
    return "–" if value is None else f"{value / 1000:.3g} ms"


def span(seconds: float | None) -> str:
    """Return a duration in words."""
    if seconds is None:
        return "–"
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def now(filters: Filters) -> Panel:
    """The state of this moment: is the system healthy?"""
    at = timezone.now()
    calls = RequestMinute.objects.filter(minute__gte=at - 3 * HOUR)
    if filters.source:
        calls = calls.filter(source=filters.source)
    columns = ("minute", "requests", "errors", "latency")
    minutes: dict[datetime, list[Any]] = {}
    for minute, *counts in calls.order_by("minute").values_list(*columns):
        row = minutes.setdefault(minute, [0, 0, np.zeros(len(LATENCY_EDGES) - 1)])
        for place, count in enumerate(counts):
            row[place] = row[place] + count
    last = [row for minute, row in minutes.items() if minute >= at - HOUR]
    rate = sum(row[0] for minute, row in minutes.items() if minute >= at - timedelta(minutes=6)) / 5
    requests, errors = sum(row[0] for row in last), sum(row[1] for row in last)
    latency = sum((row[2] for row in last), np.zeros(len(LATENCY_EDGES) - 1))
    share = errors / requests if requests else None
    depth = state.open_items(filters.community)
    oldest = insight.oldest_open(filters.community)
    champion = ModelVersion.objects.with_alias(Alias.CHAMPION)
    is_whole = filters.community is None
    alerts = list(
        (Alert.objects.open() if is_whole else Alert.objects.open().of_the_site()).select_related("rule")[:5]
    )
    work = freshness.of_background_work(at)
    p50, p95, p99 = (percentile(latency, LATENCY_EDGES, each) for each in (0.5, 0.95, 0.99))
    troubles = [
        trouble
        for trouble, is_so in (
            ("no model is in service", champion is None),
            (f"{_percent(share * 100 if share else None)} of the calls fail", bool(share and share > 0.01)),
            (f"{len(alerts)} alerts are open" if len(alerts) > 1 else "an alert is open", bool(alerts)),
            ("background work fails or is late, so counts and alerts may be old", work.is_late),
        )
        if is_so
    ]
    # Calls are counted over all communities, so how many came is not shown of one.
    tiles = [
        *([Tile("Calls a minute", f"{rate:,.1f}", "last five minutes")] if is_whole else []),
        Tile(
            "Errors",
            _percent(None if share is None else share * 100),
            "5xx, last hour",
            bool(share and share > 0.01),
        ),
        Tile("Latency, median", _ms(p50), "of calls, last hour"),
        Tile("Latency, p95", _ms(p95), "of calls, last hour"),
        Tile("Latency, p99", _ms(p99), "of calls, last hour"),
        Tile("Queue", f"{depth:,}{'+' if depth == state.CAP else ''}", "open items"),
        Tile("Oldest item", span((at - oldest).total_seconds() if oldest else None), "waits since then"),
        Tile("Model", str(champion or "none"), "champion", champion is None),
        Tile(
            "Alerts",
            str(len(alerts)),
            "; ".join(alert.rule.name for alert in alerts) or "none open",
            bool(alerts),
        ),
    ]
    times = list(minutes)
    return Panel(
        "Is the system healthy?",
        f"Not quite: {', '.join(troubles)}."
        if troubles
        else "Yes: a model serves, calls succeed, background work is on time, no alert is open.",
        tiles,
        [
            Plot(
                "calls",
                f"{pluralize(requests, 'call')} came in the last hour, {errors:,} of them failed."
                if requests
                else "No call was counted in the last hour.",
                [
                    Series("calls", times, [float(row[0]) for row in minutes.values()]),
                    Series("errors", times, [float(row[1]) for row in minutes.values()]),
                ],
                "a minute",
            )
        ]
        if is_whole
        else [],
        work,
    )


def _outcomes(filters: Filters) -> Plot:
    """What the policy answered; outcomes that this release does not know have their stored name."""
    begin, step = filters.begin, filters.step
    count = round((filters.end - begin) / step)
    found: dict[str, np.ndarray] = {outcome: np.zeros(count) for outcome in Submission.Outcome.values}
    for hour, outcomes in _rows(filters).order_by().values_list("hour", "outcomes"):
        for outcome, number in outcomes.items():
            found.setdefault(outcome, np.zeros(count))[int((hour - begin) / step)] += number
    labels = dict(Submission.Outcome.choices)
    counted = {labels.get(outcome, outcome): counts for outcome, counts in found.items() if counts.any()}
    total = int(sum(counts.sum() for counts in counted.values()))
    shares = ", ".join(f"{label.lower()} {counts.sum() / total:.1%}" for label, counts in counted.items())
    times = [begin + step * number for number in range(count)]
    return Plot(
        "by outcome",
        f"The policy was asked about {pluralize(total, 'comment')}: {shares}."
        if total
        else "The policy was not asked about any comment.",
        [Series(label, times, [float(count) for count in counts]) for label, counts in counted.items()],
        "comments",
        events=promotions(filters),
    )


def volume(filters: Filters) -> Panel:
    """How much comes, from where, and how fast it is scored."""
    frame = load(filters, "requests", "errors", "latency")
    events = promotions(filters)

    def split(keys: Sequence[Any], title: Callable[[Any], str]) -> list[Series]:
        found = []
        for key in sorted(set(keys)):
            times, counts = frame.over_time("requests", filters, [each == key for each in keys])
            found.append(Series(title(key), times, [float(count) for count in counts]))
        return found

    times, latency = frame.over_time("latency", filters)
    _, errors = frame.over_time("errors", filters)
    total = int(frame.total("requests"))
    whole = frame.total("latency")
    labels = dict(Prediction.Source.choices)
    hours = filters.step / HOUR
    every = "an hour" if hours == 1 else f"every {hours:.0f} h"
    by_source = split(frame.sources, lambda source: labels.get(source, source))
    busiest = max(by_source, key=lambda series: sum(y or 0 for y in series.y)).name if by_source else ""
    return Panel(
        "How much comes, and how fast is it answered?",
        f"{pluralize(total, 'comment was', 'comments were')} scored in this window."
        if total
        else "Nothing was scored in this window.",
        plots=[
            Plot(
                "by source",
                f"Most came through: {busiest}." if busiest else "No source sent anything.",
                by_source,
                f"comments {every}",
                events=events,
            ),
            Plot(
                "by version",
                f"{pluralize(len(set(frame.versions)), 'model version')} served; a dashed line marks each "
                "promotion.",
                split(frame.versions, lambda number: f"v{number}"),
                f"comments {every}",
                events=events,
            ),
            _outcomes(filters),
            Plot(
                "latency",
                f"Half of the comments took at most {_ms(percentile(whole, LATENCY_EDGES, 0.5))} to score, "
                f"99 in 100 at most {_ms(percentile(whole, LATENCY_EDGES, 0.99))}.",
                [
                    Series(name, times, _percentiles(latency, LATENCY_EDGES, share, 1000))
                    for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))
                ],
                "scoring time, ms",
                is_log=True,
                events=events,
            ),
            Plot(
                "errors",
                f"{pluralize(int(errors.sum()), 'call was', 'calls were')} answered by an error of ours "
                "(5xx).",
                [Series("errors", times, [float(count) for count in errors], Kind.BAR)],
                f"errors {every}",
                events=events,
            ),
        ],
    )


def _reference(filters: Filters, *names: str) -> tuple[str, dict[str, np.ndarray]] | None:
    """What traffic is held against: the version's training reference, else its first week."""
    version = (
        ModelVersion.objects.filter(number=filters.version).first()
        if filters.version
        else ModelVersion.objects.with_alias(Alias.CHAMPION)
    )
    if version is None:
        return None
    stored = Reference.objects.filter(version=version, rows__gt=0).first()
    if stored:
        return f"the training data ({stored.dataset})", {
            name: np.array(getattr(stored, name), float) for name in names
        }
    of_version = Filters(filters.window, filters.community, filters.source, version.number)
    own = HourlyRollup.objects.overall().filter(version=version, requests__gt=0)
    first = own.order_by("hour").values_list("hour", flat=True).first()
    if first is None:
        return None
    frame = load(of_version, *names, begin=first, end=first + WEEK)
    return f"the first week of {version}", {name: frame.total(name) for name in names}


def predicted(filters: Filters) -> Panel:
    """What the model says, and whether traffic has moved away from what it learned."""
    frame = load(filters, "requests", "any_flagged", "flagged", "scores", "lengths", "words")
    events = promotions(filters)
    times, requests = frame.over_time("requests", filters)
    _, flagged = frame.over_time("flagged", filters)
    total, hits = frame.total("requests"), frame.total("any_flagged")
    scores, lengths = frame.total("scores"), frame.total("lengths")
    _, grams = frame.over_time("words", filters)
    share = (
        f"{hits / total:.2%} of the comments got a label, at the model's thresholds."
        if total
        else "Nothing was scored in this window."
    )
    plots = [
        Plot(
            "flag rate",
            share,
            [Series(name, times, _ratio(flagged[:, bit], requests)) for bit, name in enumerate(NAMES)],
            "share of comments",
            is_share=True,
            events=events,
        )
    ]
    found = _reference(filters, "scores", "lengths", "words")
    if found is None or not total:
        return Panel("What do we predict, and has traffic drifted?", share, plots=plots)
    held, reference = found
    plots += _drift_plots(held, reference, frame, scores, lengths)
    begin = [*frame.total("words"), *reference["words"]]
    plots.append(
        Plot(
            "unknown n-grams",
            f"{begin[1] / begin[0]:.1%} of the n-grams were never learned; in {held} it was "
            f"{begin[3] / begin[2]:.1%}."
            if begin[0] and begin[2]
            else "No words were looked at in this window.",
            [Series("unknown", times, _ratio(grams[:, 1], grams[:, 0]))],
            "share of n-grams",
            is_share=True,
            levels=[(begin[3] / begin[2], held)] if begin[2] else [],
            events=events,
        )
    )
    if filters.community is None:  # the words are those of all communities
        plots += _domain_plots()
    return Panel("What do we predict, and has traffic drifted?", share, plots=plots)


def _drift_plots(
    held: str, reference: dict[str, np.ndarray], frame: Frame, scores: np.ndarray, lengths: np.ndarray
) -> list[Plot]:
    moved: dict[drift.Measure, list[drift.Shift | None]] = {
        measure: [
            drift.shift(reference["scores"][bit], frame.fields["scores"][:, bit], measure)
            for bit in range(len(LABELS))
        ]
        for measure in drift.Measure
    }
    real = [name for name, each in zip(NAMES, moved[drift.Measure.PSI], strict=True) if each and each.is_real]
    titles = {
        drift.Measure.PSI: "population stability index",
        drift.Measure.JENSEN_SHANNON: "Jensen–Shannon distance",
    }
    plots = []
    for measure, shifts in moved.items():
        estimates = [each.estimate if each else None for each in shifts]
        first, second = drift.BANDS[measure]
        plots.append(
            Plot(
                measure.value,
                (
                    f"Scores of {', '.join(real)} have moved away from {held} by more than chance explains."
                    if real
                    else f"No label's scores have moved away from {held} by more than chance explains."
                )
                if measure == drift.Measure.PSI
                else "The same by another measure, which no empty bin can blow up.",
                [
                    Series(
                        titles[measure],
                        NAMES,
                        [each and each.value for each in estimates],
                        Kind.POINTS,
                        [each and each.low for each in estimates],
                        [each and each.high for each in estimates],
                    )
                ],
                titles[measure],
                levels=[(first, "moderate"), (second, "major")],
            )
        )
    sizes = [each.estimate.value if each else -1.0 for each in moved[drift.Measure.PSI]]
    bit = int(np.argmax(sizes))
    middle = [(place + 0.5) / SCORE_BINS for place in range(SCORE_BINS)]
    length = drift.shift(reference["lengths"], lengths)
    characters = [round(float(edge)) for edge in np.sqrt(LENGTH_EDGES[1:] * LENGTH_EDGES[:-1])]
    return [
        *plots,
        Plot(
            "scores",
            f"Of all labels, the scores of {NAMES[bit]} differ most from {held}.",
            _against(middle, scores[bit], reference["scores"][bit], held),
            "share of comments",
            f"probability of {NAMES[bit]}",
            is_log=True,
        ),
        Plot(
            "lengths",
            "There are too few texts to compare their lengths."
            if length is None
            else f"Against {held}, their length shows: {length.band} (PSI {length.estimate.value:.2f}).",
            _against(characters, lengths, reference["lengths"], held),
            "share of comments",
            "characters",
            is_share=True,
            x_log=True,
        ),
    ]


def _against(x: list[Any], counts: np.ndarray, reference: np.ndarray, held: str) -> list[Series]:
    def shares(of: np.ndarray) -> Y:
        return [float(count) or None for count in of / max(of.sum(), 1)]

    return [Series("this window", x, shares(counts)), Series(held, x, shares(reference))]


def _domain_plots() -> list[Plot]:
    check = DomainCheck.objects.first()
    if check is None:
        return []
    can = "can" if check.low > 0.6 else "can hardly"
    phrases = [phrase[0] for phrase in check.phrases[:12]]
    return [
        Plot(
            "changed words",
            f"Last week's comments {can} be told from {check.compared}: ROC-AUC {check.auc:.2f} "
            f"({check.low:.2f} to {check.high:.2f}). These words and pairs changed most.",
            [
                Series("before", phrases, [phrase[1] for phrase in check.phrases[:12]], Kind.BAR),
                Series("last week", phrases, [phrase[2] for phrase in check.phrases[:12]], Kind.BAR),
            ],
            "share of comments",
            is_share=True,
        )
    ]


@dataclass(frozen=True)
class Rates:
    """Accuracy, precision and recall with their intervals; None where nothing was judged."""

    accuracy: tuple[float, float, float] | None
    precision: tuple[float, float, float] | None
    recall: tuple[float, float, float] | None


def rates(judged: np.ndarray) -> Rates:
    """Return a label's rates of `judged[label]` (bins, predicted, true, weight and its square)."""
    sums, squares = judged.sum(axis=0)[..., 0], judged.sum(axis=0)[..., 1]
    return Rates(
        weighted_share(sums[0, 0] + sums[1, 1], sums.sum(), squares.sum()),
        weighted_share(sums[1, 1], sums[1].sum(), squares[1].sum()),
        weighted_share(sums[1, 1], sums[:, 1].sum(), squares[:, 1].sum()),
    )


def _intervals(name: str, x: list[Any], found: Iterable[tuple[float, float, float] | None]) -> Series:
    values = list(found)
    low, high = ([each and each[place] for each in values] for place in (1, 2))
    return Series(name, x, [each and each[0] for each in values], Kind.POINTS, low, high)


def right(filters: Filters) -> Panel:
    """Whether people agree with the model."""
    frame = load(filters, "judged", "said", "right", "wrong")
    judged, said = frame.total("judged"), frame.total("said")
    by_moderators = [rates(judged[bit]) for bit in range(len(LABELS))]
    by_feedback = [rates(said[bit]) for bit in range(len(LABELS))]
    cases = int(judged[0, ..., 0].sum())
    known = [
        (name, each.precision) for name, each in zip(NAMES, by_moderators, strict=True) if each.precision
    ]
    worst = min(known, key=lambda each: each[1][0], default=None)
    good, bad = int(frame.total("right")), int(frame.total("wrong"))
    sentence = (
        f"Moderators decided about {pluralize(cases, 'comment')}; where the model says {worst[0]} it is "
        f"right in {worst[1][0]:.0%} of them ({worst[1][1]:.0%} to {worst[1][2]:.0%}), the lowest of all "
        "labels."
        if worst
        else "No moderator has decided an item in this window, so nobody knows."
    )
    middle = [(place + 0.5) / JUDGED_BINS for place in range(JUDGED_BINS)]
    calibration = [
        _intervals(
            name,
            middle,
            (
                weighted_share(
                    judged[bit, place, :, 1, 0].sum(),
                    judged[bit, place, ..., 0].sum(),
                    judged[bit, place, ..., 1].sum(),
                )
                for place in range(JUDGED_BINS)
            ),
        )
        for bit, name in enumerate(NAMES)
        if judged[bit, ..., 0].sum()
    ]
    accuracy, precision, recall = "accuracy", "precision", "recall"
    return Panel(
        "Are we right?",
        sentence,
        plots=[
            Plot(
                "by moderators",
                "By moderators: reviews as they are, random audits weighted by their chance; 95 % intervals.",
                [
                    _intervals(name, NAMES, (getattr(each, name) for each in by_moderators))
                    for name in (accuracy, precision, recall)
                ],
                "share",
                is_share=True,
            ),
            Plot(
                "by feedback",
                f"Feedback says right {pluralize(good, 'time')} and wrong {pluralize(bad, 'time')}; "
                "who gives it chose to.",
                [
                    _intervals(name, NAMES, (getattr(each, name) for each in by_feedback))
                    for name in (accuracy, precision, recall)
                ],
                "share",
                is_share=True,
            ),
            Plot(
                "calibration",
                "What is given a probability of 0.7 should be true in 70 of 100 cases.",
                [
                    *calibration,
                    Series("as it should be", middle, [float(each) for each in middle]),
                ],
                "share that is true",
                "probability",
                is_share=True,
            ),
            *_challenger(filters),
            *_before_and_after(filters),
        ],
    )


def _challenger(filters: Filters) -> list[Plot]:
    """The challenger in the shadow against the champion, on the same comments; of all communities only."""
    challenger, champion = (
        ModelVersion.objects.with_alias(alias) for alias in (Alias.CHALLENGER, Alias.CHAMPION)
    )
    if challenger is None or champion is None or filters.community is not None:
        return []
    found = shadow.compare(challenger=challenger, champion=champion)
    both = (f"{champion}, champion", f"{challenger}, challenger")
    shares = [[getattr(each, name) for each in found.labels] for name in ("champion", "challenger")]
    judged, cases = _judged_both(challenger, champion)
    return [
        Plot(
            "challenger",
            f"{challenger} rescored {pluralize(found.count, 'comment')} of {champion}; they agree on "
            f"{found.agreement:.1%} of them whether there is any label."
            if found.agreement is not None
            else f"{challenger} is in the shadow and has scored nothing yet.",
            [
                _intervals(
                    name,
                    NAMES[: len(share)],
                    (weighted_share(each * found.count, found.count, found.count) for each in share),
                )
                for name, share in zip(both, shares, strict=True)
            ],
            "share of comments",
            is_share=True,
        ),
        Plot(
            "challenger, accuracy",
            f"Of the same comments moderators decided {cases:,}: how often each model agrees with them."
            if cases
            else "Moderators have decided none of these comments yet.",
            [
                _intervals(name, NAMES, (rates(rows[bit]).accuracy for bit in range(len(LABELS))))
                for name, rows in zip(both, judged, strict=True)
            ],
            "accuracy",
            is_share=True,
        ),
    ]


def _judged_both(challenger: ModelVersion, champion: ModelVersion) -> tuple[list[np.ndarray], int]:
    """What moderators say of the newest comments that both scored, as a rollup's `judged`, and how many."""
    newest = ShadowScore.objects.filter(version=challenger, prediction__model_version=champion)
    pks = list(newest.values_list("prediction", flat=True)[: shadow.MAX_COMPARED])
    verdicts = rollups.verdicts().filter(submission__in=pks).values_list("submission", *rollups.VERDICT)
    of_challenger = {
        pk: row
        for pk, *row in newest.filter(prediction__in=[row[0] for row in verdicts]).values_list(
            "prediction", "label_mask", *LABELS
        )
    }
    both = [np.zeros((len(LABELS), JUDGED_BINS, 2, 2, 2)) for _ in range(2)]
    for pk, action, corrected, rule_label, chance, mask, *scores in verdicts:
        other, *others = of_challenger[pk]
        true, known = insight.stated_labels(action, corrected, rule_label)
        rollups.add_verdict(both[0], scores, mask, true, known, 1 / chance)
        rollups.add_verdict(both[1], others, other, true, known, 1 / chance)
    return both, len(verdicts)


def _before_and_after(filters: Filters) -> list[Plot]:
    """The week before and the week after the last promotion."""
    last = (
        Promotion.objects.filter(replaced__isnull=False, created_at__lte=filters.end)
        .select_related("version", "replaced")
        .first()
    )
    if last is None:
        return []
    whole = Filters(filters.window, filters.community, filters.source)
    sides = []
    for name, begin in (
        (f"{last.replaced}, week before", last.created_at - WEEK),
        (f"{last.version}, week after", last.created_at),
    ):
        frame = load(whole, "requests", "flagged", "judged", begin=begin, end=begin + WEEK)
        sides.append((name, frame.total("requests"), frame.total("flagged"), frame.total("judged")))
    flags = [
        _intervals(
            name, NAMES, (weighted_share(flagged[bit], requests, requests) for bit in range(len(LABELS)))
        )
        for name, requests, flagged, _ in sides
    ]
    exact = [
        _intervals(name, NAMES, (rates(judged[bit]).precision for bit in range(len(LABELS))))
        for name, _, _, judged in sides
    ]
    when = f"{last.created_at:%d %B %H:%M}"
    return [
        Plot(
            "flag rate, promotion",
            f"How often each label was given before and after {when}.",
            flags,
            "share of comments",
            is_share=True,
        ),
        Plot(
            "precision, promotion",
            f"How often it was right before and after {when}.",
            exact,
            "precision",
            is_share=True,
        ),
    ]


def queue(filters: Filters) -> Panel:
    """Whether moderators keep up."""
    frame = load(filters, "queued", "approved", "rejected", "reversed", "escalations_reversed", "waits")
    times, came = frame.over_time("queued", filters)
    decided = frame.over_time("approved", filters)[1] + frame.over_time("rejected", filters)[1]
    # An item whose escalation was taken back had never left the queue.
    taken_back = frame.over_time("reversed", filters)[1] - frame.over_time("escalations_reversed", filters)[1]
    _, waits = frame.over_time("waits", filters)
    items = QueueItem.objects.open()
    if filters.community is not None:
        items = items.filter(community=filters.community)
    depth = state.open_items(filters.community)
    at = timezone.now()
    ages = {}
    for name, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99)):
        # Items are numbered as they come, so age follows the number.
        place = int(depth * (1 - share))
        moment = (
            items.order_by("-pk")
            .values_list("created_at", flat=True)[depth - 1 - place : depth - place]
            .first()
            if depth
            else None
        )
        ages[name] = None if moment is None else (at - moment).total_seconds()
    net = came + taken_back - decided
    backlog = depth - np.concatenate([np.cumsum(net[::-1])[::-1][1:], [0]])
    steps = max(1, round(DAY / filters.step))
    pace = float(net[-7 * steps :].mean()) if len(net) else 0.0
    ahead = [times[-1] + filters.step * number for number in range(1, steps + 1)]
    forecast = [max(0.0, depth + pace * number) for number in range(1, steps + 1)]
    whole = frame.total("waits")
    verdicts = float(decided.sum())
    grows = "grows" if pace > 0 else "shrinks" if pace < 0 else "stays as it is"
    by_label, _ = insight.agreement(communities=None if filters.community is None else [filters.community])
    return Panel(
        "Do moderators keep up?",
        f"{pluralize(depth, 'item waits', 'items wait')}. In this window {int(came.sum()):,} came and "
        f"{pluralize(int(verdicts), 'was', 'were')} decided: the queue {grows}.",
        [
            Tile("Age, median", span(ages["p50"]), "of open items"),
            Tile("Age, p90", span(ages["p90"]), "of open items"),
            Tile("Age, p99", span(ages["p99"]), "of open items"),
            Tile("In a day", f"{forecast[-1]:,.0f}", "open items, if it goes on so"),
            Tile(
                "Taken back",
                _percent(100 * float(taken_back.sum()) / verdicts if verdicts else None),
                "of approvals and rejections",
            ),
            Tile("Time to decision", span(percentile(whole, WAIT_EDGES, 0.5)), "median, of this window"),
        ],
        [
            Plot(
                "flow",
                "Items that came, that were decided, and that wait again as their decision was taken back.",
                [
                    Series("came", times, [float(each) for each in came]),
                    Series("decided", times, [float(each) for each in decided]),
                    Series("taken back", times, [float(each) for each in taken_back]),
                ],
                "items",
            ),
            Plot(
                "backlog",
                f"At the pace of this window {pluralize(round(forecast[-1]), 'item')} will wait in a day.",
                [
                    Series("open", times, [max(0.0, float(each)) for each in backlog]),
                    Series("forecast", ahead, forecast),
                ],
                "open items",
            ),
            Plot(
                "time to decision",
                f"Half of the items were decided within {span(percentile(whole, WAIT_EDGES, 0.5))}, "
                f"95 in 100 within {span(percentile(whole, WAIT_EDGES, 0.95))}.",
                [
                    Series(name, times, _percentiles(waits, WAIT_EDGES, share, 60))
                    for name, share in (("p50", 0.5), ("p95", 0.95))
                ],
                "minutes",
                is_log=True,
            ),
            Plot(
                "agreement",
                "How far blind second reviews agree with the first, beyond chance: 1 always, 0 as by chance.",
                [
                    Series(
                        "Cohen's kappa, 90 days",
                        NAMES,
                        [by_label[label].kappa for label in LABELS],
                        Kind.POINTS,
                    )
                ],
                "kappa",
            ),
        ],
    )


def fairness(filters: Filters) -> Panel:
    """Whether naming a group changes the score."""
    stored = Reference.objects.exclude(bias={}).select_related("version").order_by("-version__number").first()
    frame = load(filters, "groups")
    times, named = frame.over_time("groups", filters)
    total = frame.total("groups")
    if stored:
        order = sorted(stored.bias, key=lambda group: stored.bias[group]["bpsn"])[:20]
        worst = order[0]
        sentence = (
            f"{stored.version} treats sentences that name “{worst}” worst: a kind one scores below a "
            f"hateful one about others in {stored.bias[worst]['bpsn']:.1%} of all pairs."
        )
        plots = [
            Plot(
                "audit",
                "The twenty groups whose kind sentences are most easily taken for hateful (low BPSN AUC).",
                [
                    Series(name, order, [stored.bias[group][key] for group in order], Kind.POINTS)
                    for name, key in (
                        ("BPSN AUC", "bpsn"),
                        ("BNSP AUC", "bnsp"),
                        ("subgroup AUC", "subgroup"),
                    )
                ],
                "AUC of toxic",
            )
        ]
    else:
        sentence, plots = "No evaluation is stored yet: the worker makes one every day.", []
    most = sorted(range(len(GROUPS)), key=lambda place: -total[place, 0])
    bars = [place for place in most if total[place, 0]]
    plots.append(
        Plot(
            "flag rate by group",
            "Of sampled comments that name a group, how many got a label; more may also mean more hate."
            if bars
            else "No sampled comment of this window names a group.",
            [
                _intervals(
                    "any label",
                    [GROUPS[place] for place in bars],
                    (weighted_share(total[place, 1], total[place, 0], total[place, 0]) for place in bars),
                )
            ],
            "share with any label",
            is_share=True,
        )
    )
    days = Filters("90d" if filters.window == "90d" else filters.window, filters.community)
    plots.append(
        Plot(
            "over time",
            "The same over time, for the groups that are named most.",
            [
                Series(GROUPS[place], times, _ratio(named[:, place, 1], named[:, place, 0]))
                for place in bars[:5]
            ],
            "share with any label",
            is_share=True,
            events=promotions(days),
        )
    )
    return Panel("Do we treat groups alike?", sentence, plots=plots)


def system(filters: Filters) -> Panel:
    """Whether the machinery runs."""
    at = timezone.now()
    processes = (
        RequestMinute.objects.filter(minute__gte=at - timedelta(minutes=3))
        .values("process")
        .distinct()
        .count()
    )
    work, counts = freshness.of_background_work(at), freshness.of_counts(now=at)
    behind = (at - counts.as_of).total_seconds() if counts.as_of else None
    states = schedules.states(at)
    failing = [state.name for state in states if state.problem]
    deliveries = Delivery.objects.all()
    if filters.community is not None:
        deliveries = deliveries.filter(decision__submission__community=filters.community)
    waiting = dict(deliveries.order_by().values_list("status").annotate(Count("pk")))
    retried = deliveries.filter(status__in=Delivery.UNFINISHED).exclude(error="").count()
    disk = shutil.disk_usage(settings.DATA_DIR)
    free = disk.free / disk.total
    depths = state.broker_depths()
    mirror = state.mirror_lag()
    troubles = [
        text
        for text, is_so in (
            (f"{len(failing)} of {len(states)} scheduled tasks fail or are overdue", bool(failing)),
            ("counts are late or incomplete", counts.is_late),
            ("the broker does not answer", depths is None),
            ("the mirror is behind", mirror is not None and mirror > 900),
            (f"{pluralize(waiting.get('failed', 0), 'webhook')} failed", bool(waiting.get("failed"))),
            (f"{pluralize(retried, 'webhook is', 'webhooks are')} being retried", bool(retried)),
            (f"only {free:.0%} of the disk is free", free < 0.1),
        )
        if is_so
    ]
    return Panel(
        "Does the machinery run?",
        f"Not all of it: {', '.join(troubles)}."
        if troubles
        else "Yes: schedules, counts, broker, mirror, webhooks and disk are well.",
        [
            Tile("Web processes", str(processes), "that answered in the last three minutes"),
            Tile("Counted", span(behind), "ago, everything up to then", counts.is_late),
            Tile(
                "Schedules",
                f"{len(states) - len(failing)} of {len(states)}",
                f"on time; not: {', '.join(failing)}" if failing else "on time",
                bool(failing),
            ),
            Tile(
                "Webhooks waiting", f"{waiting.get('pending', 0) + waiting.get('sending', 0):,}", "to be sent"
            ),
            Tile(
                "Webhooks failed",
                f"{waiting.get('failed', 0):,}",
                "after all attempts",
                bool(waiting.get("failed")),
            ),
            Tile(
                "Mirror",
                "off" if mirror is None else span(mirror),
                "DynamoDB" if mirror is None else "behind",
                mirror is not None and mirror > 900,
            ),
            Tile("Disk", f"{free:.0%}", f"free of {disk.total / 2**30:.0f} GB", free < 0.1),
        ],
        [
            Plot(
                "broker",
                "The broker does not answer, or is in memory."
                if depths is None
                else f"{pluralize(sum(depths.values()), 'message waits', 'messages wait')} in the broker.",
                [
                    Series(
                        "messages",
                        list(depths or {}),
                        [float(each) for each in (depths or {}).values()],
                        Kind.BAR,
                    )
                ],
                "messages",
            )
        ],
        work,
    )


PANELS: dict[str, tuple[str, Callable[[Filters], Panel]]] = {
    "now": ("Now", now),
    "volume": ("Volume and latency", volume),
    "predicted": ("What we predict", predicted),
    "right": ("Are we right", right),
    "queue": ("The queue", queue),
    "fairness": ("Fairness", fairness),
    "system": ("System", system),
}


def build(name: str, filters: Filters) -> Panel:
    """Return a panel with the time that its data are of."""
    panel = PANELS[name][1](filters)
    if panel.freshness:
        return panel
    return replace(panel, freshness=freshness.of_counts(begin=filters.begin, end=filters.end))
