"""The panel Quality: whether moderators and feedback agree with the model."""

from collections.abc import Callable
from typing import Any

import numpy as np

from apps.classifier.labels import LABELS
from apps.core.statistics import weighted_rate
from apps.core.text import pluralize
from apps.moderation.models import Decision
from apps.moderation.statistics import stated_labels
from apps.monitoring.dashboard.charts import Panel, Plot, Series, interval_points, line
from apps.monitoring.dashboard.queries import LABEL_NAMES, WEEK, Filters, load_rollups
from apps.monitoring.dashboard.statistics import Rates, confusion_rates, rate
from apps.monitoring.models import CONFUSION_BINS
from apps.monitoring.rollups.counter import FINAL_ACTIONS, SAMPLED_KINDS, add_to_confusion
from apps.registry.models import Alias, ModelVersion, Promotion
from apps.training import shadow
from apps.training.models import ShadowScore

_RATES = ("accuracy", "precision", "recall")
_DECISION_COLUMNS = (
    "action",
    "corrected_mask",
    "rule__label",
    "item__sampling_chance",
    "submission__prediction__label_mask",
    *(f"submission__prediction__{label}" for label in LABELS),
)


def quality_panel(filters: Filters) -> Panel:
    """Return the panel Quality: precision and recall by moderators and by feedback."""
    rollups = load_rollups(
        filters, "moderator_confusion", "feedback_confusion", "feedback_right", "feedback_wrong"
    )
    by_moderators = rollups.total("moderator_confusion")
    by_feedback = rollups.total("feedback_confusion")
    right, wrong = (int(rollups.total(name)) for name in ("feedback_right", "feedback_wrong"))
    moderator_rates = [confusion_rates(confusion) for confusion in by_moderators]
    feedback_rates = [confusion_rates(confusion) for confusion in by_feedback]
    return Panel(
        "Are the predictions right?",
        _describe_rates(int(by_moderators[0, ..., 0].sum()), moderator_rates),
        plots=[
            _rates_plot(
                "by moderators",
                "By moderators' decisions: reviews, and random audits weighted by their sampling rate; "
                "95% intervals.",
                moderator_rates,
            ),
            _rates_plot(
                "by feedback",
                f"By feedback: right {pluralize(right, 'time')}, wrong {pluralize(wrong, 'time')}. Feedback "
                "is self-selected, so it may be biased.",
                feedback_rates,
            ),
            _calibration_plot(by_moderators),
            *_challenger_plots(filters),
            *_promotion_plots(filters),
        ],
    )


def _describe_rates(comments: int, rates: list[Rates]) -> str:
    precisions = [
        (name, row.precision) for name, row in zip(LABEL_NAMES, rates, strict=True) if row.precision
    ]
    if not precisions:
        return "Unknown: no moderator has decided an item in this window."
    name, (precision, low, high) = min(precisions, key=lambda pair: pair[1][0])
    return (
        f"Moderators' decisions represent {pluralize(comments, 'comment')}. The label with the lowest "
        f"precision is {name}: {precision:.0%} of its predictions are right ({low:.0%} to {high:.0%})."
    )


def _rates_plot(key: str, caption: str, rates: list[Rates]) -> Plot:
    return Plot(
        key,
        caption,
        [interval_points(name, LABEL_NAMES, (getattr(row, name) for row in rates)) for name in _RATES],
        "rate",
        is_fraction=True,
    )


def _calibration_plot(confusion: np.ndarray) -> Plot:
    centres = [(index + 0.5) / CONFUSION_BINS for index in range(CONFUSION_BINS)]
    series = []
    for bit, name in enumerate(LABEL_NAMES):
        weights, squares = confusion[bit, ..., 0], confusion[bit, ..., 1]
        if weights.sum():
            rates = (
                weighted_rate(weights[index, :, 1].sum(), weights[index].sum(), squares[index].sum())
                for index in range(CONFUSION_BINS)
            )
            series.append(interval_points(name, centres, rates))
    return Plot(
        "calibration",
        "A probability of 0.7 should be right in 70 of 100 cases.",
        [*series, line("perfect calibration", centres, centres)],
        "fraction that is true",
        "probability",
        is_fraction=True,
    )


def _challenger_plots(filters: Filters) -> list[Plot]:
    """Compare the challenger's shadow scores with the champion's predictions, over all communities only."""
    challenger, champion = (
        ModelVersion.objects.with_alias(alias) for alias in (Alias.CHALLENGER, Alias.CHAMPION)
    )
    if challenger is None or champion is None or filters.community is not None:
        return []
    comparison = shadow.compare(challenger=challenger, champion=champion)
    names = (f"{champion}, champion", f"{challenger}, challenger")
    flag_rates = [
        [getattr(label, name) for label in comparison.labels] for name in ("champion", "challenger")
    ]
    confusions, decided = _confusions_of_both(challenger, champion)
    return [
        Plot(
            "challenger",
            f"{challenger} scored {pluralize(comparison.count, 'comment')} that {champion} had scored. They "
            f"agree on {comparison.agreement:.1%} of them whether there is any label."
            if comparison.agreement is not None
            else f"{challenger} is in shadow evaluation and has not scored any comments yet.",
            [
                interval_points(
                    name,
                    LABEL_NAMES[: len(rates)],
                    (rate(value * comparison.count, comparison.count) for value in rates),
                )
                for name, rates in zip(names, flag_rates, strict=True)
            ],
            "fraction of comments",
            is_fraction=True,
        ),
        Plot(
            "challenger, accuracy",
            f"Moderators decided {decided:,} of these comments. The plot shows how often each model agrees "
            "with them."
            if decided
            else "Moderators have not decided any of these comments yet.",
            [
                interval_points(name, LABEL_NAMES, (confusion_rates(label).accuracy for label in confusion))
                for name, confusion in zip(names, confusions, strict=True)
            ],
            "accuracy",
            is_fraction=True,
        ),
    ]


def _confusions_of_both(challenger: ModelVersion, champion: ModelVersion) -> tuple[list[np.ndarray], int]:
    """Compare moderators' decisions with the scores of both versions on the newest comments that both scored.

    Returns:
        The champion's and the challenger's confusion arrays (see `HourlyRollup`) and the number of decisions.
    """
    scored = ShadowScore.objects.filter(version=challenger, prediction__model_version=champion)
    ids = list(scored.values_list("prediction", flat=True)[: shadow.MAX_COMPARED])
    # Items that a person requested are not a sample of traffic.
    decisions = (
        Decision.objects.human()
        .filter(
            action__in=FINAL_ACTIONS,
            reversal=None,
            item__kind__in=SAMPLED_KINDS,
            item__requested_by=None,
            submission__in=ids,
        )
        .values_list("submission", *_DECISION_COLUMNS)
    )
    shadow_scores = {
        pk: row
        for pk, *row in scored.filter(prediction__in=[row[0] for row in decisions]).values_list(
            "prediction", "label_mask", *LABELS
        )
    }
    confusions = [np.zeros((len(LABELS), CONFUSION_BINS, 2, 2, 2)) for _ in range(2)]
    for pk, action, corrected, rule_label, chance, mask, *scores in decisions:
        challenger_mask, *challenger_scores = shadow_scores[pk]
        true, known = stated_labels(action, corrected, rule_label)
        add_to_confusion(confusions[0], scores, mask, true, known, 1 / chance)
        add_to_confusion(confusions[1], challenger_scores, challenger_mask, true, known, 1 / chance)
    return confusions, len(decisions)


def _promotion_plots(filters: Filters) -> list[Plot]:
    """Compare the replaced version's week before the last promotion with its successor's week after."""
    promotion = (
        Promotion.objects.filter(replaced__isnull=False, created_at__lte=filters.end)
        .select_related("version", "replaced")
        .first()
    )
    if promotion is None or promotion.replaced is None:
        return []
    weeks = {}
    for version, name, begin in (
        (promotion.replaced, "week before", promotion.created_at - WEEK),
        (promotion.version, "week after", promotion.created_at),
    ):
        of_version = Filters(filters.window, filters.community, filters.source, version.number)
        rollups = load_rollups(
            of_version, "requests", "flagged", "moderator_confusion", begin=begin, end=begin + WEEK
        )
        weeks[f"{version}, {name}"] = {field: rollups.total(field) for field in rollups.fields}
    promoted_at = f"{promotion.created_at:%d %B %H:%M} UTC"

    def compare(value: Callable[[dict[str, Any], int], Any]) -> list[Series]:
        return [
            interval_points(name, LABEL_NAMES, (value(totals, bit) for bit in range(len(LABELS))))
            for name, totals in weeks.items()
        ]

    return [
        Plot(
            "flag rate, promotion",
            f"Flag rate of each label before and after {promoted_at}.",
            compare(lambda totals, bit: rate(totals["flagged"][bit], totals["requests"])),
            "fraction of comments",
            is_fraction=True,
        ),
        Plot(
            "precision, promotion",
            f"Precision of each label before and after {promoted_at}.",
            compare(lambda totals, bit: confusion_rates(totals["moderator_confusion"][bit]).precision),
            "precision",
            is_fraction=True,
        ),
    ]
