"""The panel Predictions: which labels the model predicts, and whether traffic has drifted."""

from typing import Any

import numpy as np

from apps.classifier.labels import LABELS
from apps.monitoring import drift
from apps.monitoring.dashboard.charts import Kind, Panel, Plot, Series, Values, interval_points
from apps.monitoring.dashboard.queries import (
    LABEL_NAMES,
    Filters,
    RollupTable,
    load_baseline,
    load_promotions,
    load_rollups,
)
from apps.monitoring.dashboard.statistics import ratios
from apps.monitoring.models import LENGTH_EDGES, SCORE_BINS, DomainCheck

_QUESTION = "What do we predict, and has traffic drifted?"
_MAX_PHRASES = 12
_MIN_AUC = 0.6  # below, the two samples are practically the same


def predictions_panel(filters: Filters) -> Panel:
    """Return the panel Predictions: flag rates, scores and drift."""
    rollups = load_rollups(filters, "requests", "any_flagged", "flagged", "scores", "lengths", "ngrams")
    promotions = load_promotions(filters)
    requests, flagged = rollups.by_step("requests"), rollups.by_step("flagged")
    total = rollups.total("requests")
    answer = (
        f"{rollups.total('any_flagged') / total:.2%} of the comments got a label, at the model's thresholds."
        if total
        else "No comments were scored in this window."
    )
    plots = [
        Plot(
            "flag rate",
            answer,
            [
                Series(name, filters.times, ratios(flagged[:, bit], requests))
                for bit, name in enumerate(LABEL_NAMES)
            ],
            "fraction of comments",
            is_fraction=True,
            events=promotions,
        )
    ]
    loaded = load_baseline(filters, "scores", "lengths", "ngrams")
    if loaded is None or not total:
        return Panel(_QUESTION, answer, plots=plots)
    baseline_name, baseline = loaded
    shifts = {
        measure: [
            drift.detect_shift(baseline["scores"][bit], rollups.fields["scores"][:, bit], measure)
            for bit in range(len(LABELS))
        ]
        for measure in drift.Measure
    }
    plots += [_distance_plot(measure, row, baseline_name) for measure, row in shifts.items()]
    psi = [shift.estimate.value if shift else -1.0 for shift in shifts[drift.Measure.PSI]]
    plots += [
        _score_plot(int(np.argmax(psi)), rollups.total("scores"), baseline["scores"], baseline_name),
        _length_plot(rollups.total("lengths"), baseline["lengths"], baseline_name),
        _ngram_plot(rollups, baseline["ngrams"], baseline_name, promotions),
    ]
    if filters.community is None:  # the check compares comments of all communities
        plots += _domain_plots()
    return Panel(_QUESTION, answer, plots=plots)


def _distance_plot(measure: drift.Measure, shifts: list[drift.Shift | None], baseline_name: str) -> Plot:
    if measure == drift.Measure.PSI:
        title = "population stability index"
        drifted = [
            name for name, shift in zip(LABEL_NAMES, shifts, strict=True) if shift and shift.is_significant
        ]
        caption = (
            f"Scores of {', '.join(drifted)} have drifted significantly from {baseline_name}."
            if drifted
            else f"No label's scores have drifted significantly from {baseline_name}."
        )
    else:
        title = "Jensen–Shannon distance"
        caption = "The same with another measure, which is robust to empty bins."
    moderate, major = drift.BANDS[measure]
    estimates = [shift.estimate if shift else None for shift in shifts]
    values = [(estimate.value, estimate.low, estimate.high) if estimate else None for estimate in estimates]
    return Plot(
        measure.value,
        caption,
        [interval_points(title, LABEL_NAMES, values)],
        title,
        levels=[(moderate, "moderate"), (major, "major")],
    )


def _score_plot(bit: int, scores: np.ndarray, baseline: np.ndarray, baseline_name: str) -> Plot:
    centres = [(index + 0.5) / SCORE_BINS for index in range(SCORE_BINS)]
    return Plot(
        "scores",
        f"The scores of {LABEL_NAMES[bit]} differ most from {baseline_name}.",
        _compare(centres, scores[bit], baseline[bit], baseline_name),
        "fraction of comments",
        f"probability of {LABEL_NAMES[bit]}",
        is_log=True,
    )


def _length_plot(lengths: np.ndarray, baseline: np.ndarray, baseline_name: str) -> Plot:
    shift = drift.detect_shift(baseline, lengths)
    centres = [round(float(centre)) for centre in np.sqrt(LENGTH_EDGES[1:] * LENGTH_EDGES[:-1])]
    return Plot(
        "lengths",
        "There are too few texts to compare their lengths."
        if shift is None
        else f"Text lengths compared with {baseline_name}: {shift.band} (PSI {shift.estimate.value:.2f}).",
        _compare(centres, lengths, baseline, baseline_name),
        "fraction of comments",
        "characters",
        is_fraction=True,
        x_log=True,
    )


def _ngram_plot(
    rollups: RollupTable, baseline: np.ndarray, baseline_name: str, promotions: list[Any]
) -> Plot:
    ngrams, unknown = rollups.total("ngrams")
    baseline_ngrams, baseline_unknown = baseline
    by_step = rollups.by_step("ngrams")
    return Plot(
        "unknown n-grams",
        f"{unknown / ngrams:.1%} of the n-grams are unknown to the model; in {baseline_name} it is "
        f"{baseline_unknown / baseline_ngrams:.1%}."
        if ngrams and baseline_ngrams
        else "No n-grams were sampled in this window.",
        [Series("unknown", rollups.filters.times, ratios(by_step[:, 1], by_step[:, 0]))],
        "fraction of n-grams",
        is_fraction=True,
        levels=[(baseline_unknown / baseline_ngrams, baseline_name)] if baseline_ngrams else [],
        events=promotions,
    )


def _compare(x: list[Any], counts: np.ndarray, baseline: np.ndarray, baseline_name: str) -> list[Series]:
    def fractions(histogram: np.ndarray) -> Values:
        return [float(fraction) or None for fraction in histogram / max(histogram.sum(), 1)]

    return [Series("this window", x, fractions(counts)), Series(baseline_name, x, fractions(baseline))]


def _domain_plots() -> list[Plot]:
    check = DomainCheck.objects.first()
    if check is None:
        return []
    verb = "can" if check.low > _MIN_AUC else "can hardly"
    names, before, after = (
        [phrase[column] for phrase in check.phrases[:_MAX_PHRASES]] for column in range(3)
    )
    return [
        Plot(
            "changed phrases",
            f"Last week's comments {verb} be distinguished from {check.baseline_name}: ROC-AUC "
            f"{check.auc:.2f} ({check.low:.2f} to {check.high:.2f}). These words and pairs of words changed "
            "most.",
            [Series("before", names, before, Kind.BAR), Series("last week", names, after, Kind.BAR)],
            "fraction of comments",
            is_fraction=True,
        )
    ]
