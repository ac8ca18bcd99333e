"""Counts an hour: predictions, sampled texts, policy outcomes, decisions, feedback, errors.

Predictions are streamed and only counts are kept, so that memory does not grow with traffic. Predictions and
feedback come from an `Origin`; the queue and decisions come from this machine's database.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import numpy as np
from celery.exceptions import SoftTimeLimitExceeded
from django.db import DatabaseError
from django.db.models import Count, OuterRef, Subquery, Sum

from apps.classifier.labels import LABELS
from apps.mirror.exceptions import MirrorError
from apps.moderation.models import Decision, QueueItem, Submission
from apps.moderation.statistics import stated_labels
from apps.monitoring import ngram_stats
from apps.monitoring.exceptions import UnknownVersionError, UnusableRowError
from apps.monitoring.failures import describe
from apps.monitoring.models import (
    CONFUSION_BINS,
    DECISION_TIME_EDGES,
    LATENCY_EDGES,
    LENGTH_EDGES,
    SCORE_BINS,
    ArrayField,
    HourlyRollup,
    RequestMinute,
)
from apps.monitoring.rollups.hours import Key
from apps.monitoring.rollups.origins import (
    HOUR,
    PREDICTION_COLUMNS,
    FeedbackRow,
    Origin,
    PredictionRow,
    TextRow,
    batches,
)
from apps.predictions.models import ALL_LABELS, Prediction
from apps.registry.models import Alias, ModelVersion, Promotion

_CHUNK = 20_000
# Items that the policy or a random audit selected: a sample of traffic, unlike items that a person selected.
SAMPLED_KINDS = (QueueItem.Kind.REVIEW, QueueItem.Kind.AUDIT)
FINAL_ACTIONS = (Decision.Action.APPROVE, Decision.Action.REJECT)
DECISION_COLUMNS = {
    Decision.Action.APPROVE: "approved",
    Decision.Action.REJECT: "rejected",
    Decision.Action.ESCALATE: "escalated",
    Decision.Action.REVERSE: "reversed",
}
# These exceptions end the run; all others concern one record.
_FATAL = (DatabaseError, MirrorError, SoftTimeLimitExceeded)

KEY_FIELDS = ("overall", "community", "hour", "version", "source")
COUNT_FIELDS = [
    field.name
    for field in HourlyRollup._meta.concrete_fields
    if not field.primary_key and field.name not in KEY_FIELDS
]
_ARRAYS = {
    field.name: (field.shape, field.dtype)
    for field in HourlyRollup._meta.concrete_fields
    if isinstance(field, ArrayField)
}
_NUMBERS = [name for name in COUNT_FIELDS if name not in _ARRAYS]

Rows = dict[Key, dict[str, Any]]


def bin_indices(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Return the bin of each value; values beyond the edges are in the first or last bin."""
    return np.clip(np.searchsorted(edges, values, side="right") - 1, 0, len(edges) - 2)


def add_to_confusion(
    confusion: np.ndarray, scores: Sequence[float], predicted: int, true: int, known: int, weight: float
) -> None:
    """Add a comment whose true labels are known to a confusion array of HourlyRollup.

    Args:
        confusion: (labels, bins, 2, 2, 2), changed in place.
        scores: (labels,) probabilities.
        predicted: mask of the predicted labels.
        true: mask of the true labels.
        known: mask of the labels of which `true` is known.
        weight: how many comments of the traffic this one represents.
    """
    for bit, score in enumerate(scores):
        if known >> bit & 1:
            decile = min(int(score * CONFUSION_BINS), CONFUSION_BINS - 1)
            confusion[bit, decile, predicted >> bit & 1, true >> bit & 1] += (weight, weight * weight)


def count_hour(origin: Origin, hour: datetime, queued: Counter[Key]) -> "HourCounter":
    """Count an hour, by community and over all communities.

    Args:
        queued: the number of items queued in this hour.

    Raises:
        DatabaseError: the database does not respond.
        MirrorError: DynamoDB does not respond.
    """
    counter = HourCounter()
    unreadable = origin.unreadable
    counter.add_predictions(origin.predictions(hour))
    counter.drop_unknown_versions()
    counter.add_texts(origin.sampled_texts(hour))
    counter.add_outcomes(hour)
    counter.add_decisions(hour)
    counter.add_feedback(origin.feedback(hour))
    counter.drop_unknown_versions()
    if count := origin.unreadable - unreadable:
        counter.skip("Records in DynamoDB can't be read.", count)
    counter.add_queued(queued)
    counter.add_overall_rows()
    counter.add_errors(hour)
    return counter


def _empty_row() -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(_NUMBERS, 0)
    row["outcomes"] = Counter()
    for name, (shape, dtype) in _ARRAYS.items():
        row[name] = np.zeros(shape, np.int64 if dtype == "<u4" else np.float64)
    return row


def _finite(values: Sequence[Any]) -> np.ndarray:
    array = np.array(values, np.float64)
    if not np.isfinite(array).all():
        raise UnusableRowError("A score, a time or a length is missing or is not a finite number.")
    return array


class HourCounter:
    """The rollups of an hour while they are counted.

    Attributes:
        rows: the fields of the rollups.
        skipped: the number of records left out.
        error: why the first of them was left out.
    """

    def __init__(self) -> None:
        self.rows: Rows = defaultdict(_empty_row)
        self.skipped = 0
        self.error = ""

    def skip(self, error: str, count: int = 1) -> None:
        """Record that records are left out, and why; only the first reason is kept."""
        self.skipped += count
        self.error = self.error or error

    @contextmanager
    def _skip_on_error(self) -> Iterator[None]:
        try:
            yield
        except _FATAL:
            raise
        except Exception as error:
            self.skip(describe(error))

    def _add_each(self, add: Callable[..., None], records: Iterable[Sequence[Any]]) -> None:
        for record in records:
            with self._skip_on_error():
                add(*record)

    def add_predictions(self, predictions: Iterator[PredictionRow]) -> None:
        """Count predictions in batches; a batch that fails is counted one by one."""
        for batch in batches(predictions, _CHUNK):
            try:
                self._add_batch(batch)
            except _FATAL:
                raise
            except Exception:
                self._add_each(self._add_batch, ([[row]] for row in batch))

    def _add_batch(self, batch: list[PredictionRow]) -> None:
        """Count all predictions of a batch, or none if one of them can't be counted."""
        versions, sources, communities, masks, times, lengths, *scores = zip(*batch, strict=True)
        if None in versions or None in sources or None in communities:
            raise UnusableRowError("A prediction has no model version, source or community.")
        indices: dict[tuple[int, str, str], int] = {}
        index = np.array(
            [
                indices.setdefault(key, len(indices))
                for key in zip(versions, sources, communities, strict=True)
            ]
        )
        size = len(indices)

        def histogram(bins: np.ndarray, width: int, rows: np.ndarray = index) -> np.ndarray:
            return np.bincount(rows * width + bins, minlength=size * width).reshape(size, width)

        mask = np.array(masks, np.int64)
        has_text = np.array([length is not None for length in lengths])
        microseconds = _finite(times)
        characters = _finite([length for length in lengths if length is not None])
        scores_by_label = [
            histogram(np.clip((_finite(score) * SCORE_BINS).astype(np.int64), 0, SCORE_BINS - 1), SCORE_BINS)
            for score in scores
        ]
        flagged = [histogram(mask >> bit & 1, 2)[:, 1] for bit in range(len(LABELS))]
        latency = histogram(bin_indices(microseconds, LATENCY_EDGES), len(LATENCY_EDGES) - 1)
        length = histogram(bin_indices(characters, LENGTH_EDGES), len(LENGTH_EDGES) - 1, index[has_text])
        any_flagged = histogram((mask > 0).astype(np.int64), 2)[:, 1]
        requests = np.bincount(index, minlength=size)
        latency_total = np.bincount(index, microseconds, size)
        for key, number in indices.items():
            row = self.rows[Key(*key)]
            row["requests"] += int(requests[number])
            row["any_flagged"] += int(any_flagged[number])
            row["latency_total_us"] += int(latency_total[number])
            row["flagged"] += [counts[number] for counts in flagged]
            row["scores"] += [counts[number] for counts in scores_by_label]
            row["latency"] += latency[number]
            row["lengths"] += length[number]

    def drop_unknown_versions(self) -> None:
        """Leave out the rows of model versions that are not in this machine's database."""
        versions = {key.version for key in self.rows}
        unknown = versions - set(ModelVersion.objects.filter(pk__in=versions).values_list("pk", flat=True))
        for key in [key for key in self.rows if key.version in unknown]:
            error = UnknownVersionError(
                f"Predictions name a model version that this database does not hold (id {key.version}): copy "
                "the registry from the site's database with `manage.py dumpdata registry` and "
                "`manage.py loaddata`."
            )
            self.skip(describe(error), self.rows.pop(key)["requests"] or 1)

    def add_texts(self, texts: Iterator[TextRow]) -> None:
        """Count the n-grams and identity groups of sampled texts."""
        self._add_each(self._add_text, texts)

    def _add_text(self, version: int, source: str, community: str, mask: int, text: str) -> None:
        key = Key(version, source, community)
        if key not in self.rows:
            return  # its version is unknown
        ngrams = ngram_stats.count_ngrams(ngram_stats.load_lookup(version), text)
        groups = ngram_stats.named_groups(text)[:, None] * np.array([1, int(mask > 0)])
        row = self.rows[key]
        row["sampled"] += 1
        row["ngrams"] += ngrams
        row["identity_groups"] += groups

    def add_outcomes(self, hour: datetime) -> None:
        """Count the policy's outcomes of the hour's predictions."""
        # With a join, PostgreSQL would read all submissions for every hour.
        outcome = Submission.objects.filter(prediction=OuterRef("pk")).values("outcome")[:1]
        counts = (
            Prediction.objects.filter(created_at__gte=hour, created_at__lt=hour + HOUR)
            .order_by()
            .annotate(outcome=Subquery(outcome))
            .values_list("model_version", "source", "community", "outcome")
            .annotate(Count("pk"))
        )
        for version, source, community, name, count in counts:
            if name and name != Submission.Outcome.NOT_MODERATED:
                self.rows[Key(version, source, community)]["outcomes"][name] += count

    def add_decisions(self, hour: datetime) -> None:
        """Count the hour's decisions by moderators."""
        decisions = (
            Decision.objects.human()
            .filter(created_at__gte=hour, created_at__lt=hour + HOUR)
            .order_by()
            .values_list(
                "action",
                "corrected_mask",
                "rule__label",
                "reversal",
                "reverses__action",
                "item__kind",
                "item__sampling_chance",
                "item__requested_by",
                "item__created_at",
                "created_at",
                *(f"submission__prediction__{name}" for name in PREDICTION_COLUMNS),
            )
        )
        self._add_each(self._add_decision, decisions.iterator(_CHUNK))

    def _add_decision(
        self,
        action: str,
        corrected: int | None,
        rule_label: str | None,
        reversal: int | None,
        reversed_action: str | None,
        kind: str,
        chance: float,
        requested_by: int | None,
        queued_at: datetime,
        decided_at: datetime,
        *prediction: Any,
    ) -> None:
        version, source, community, predicted, *scores = prediction
        if action not in Decision.Action.values:
            raise UnusableRowError(f"No column counts decisions with the action “{action}”.")
        column, weight = DECISION_COLUMNS[Decision.Action(action)], 1 / chance
        _finite(scores)
        row = self.rows[Key(version, source, community)]
        row[column] += 1
        row["escalations_reversed"] += reversed_action == Decision.Action.ESCALATE
        if action not in FINAL_ACTIONS:
            return
        seconds = np.array([(decided_at - queued_at).total_seconds()])
        row["decision_times"][bin_indices(seconds, DECISION_TIME_EDGES)] += 1
        if reversal is None and kind in SAMPLED_KINDS and requested_by is None:
            true, known = stated_labels(action, corrected, rule_label)
            add_to_confusion(row["moderator_confusion"], scores, predicted, true, known, weight)

    def add_feedback(self, feedback: Iterator[FeedbackRow]) -> None:
        """Count feedback."""
        self._add_each(self._add_statement, feedback)

    def _add_statement(self, is_right: bool, true: int | None, known: int | None, *prediction: Any) -> None:
        version, source, community, predicted, *scores = prediction
        _finite(scores)
        if true is None and is_right:
            true, known = predicted, None
        row = self.rows[Key(version, source, community)]
        row["feedback_right" if is_right else "feedback_wrong"] += 1
        if true is not None:
            known = ALL_LABELS if known is None else known
            add_to_confusion(row["feedback_confusion"], scores, predicted, true, known, 1.0)

    def add_queued(self, queued: Counter[Key]) -> None:
        """Count queued items."""
        for key, count in queued.items():
            self.rows[key]["queued"] += count

    def add_overall_rows(self) -> None:
        """Add the rows that count all communities together."""
        for key, row in list(self.rows.items()):
            overall = self.rows[key._replace(community=None)]
            for name in row:
                overall[name] = overall[name] + row[name]

    def add_errors(self, hour: datetime) -> None:
        """Count 5xx responses under the version that was champion at the end of the hour.

        The stored rollups keep their errors if they have more, because `roll_up` deletes old `RequestMinute`
        rows.
        """
        minutes = RequestMinute.objects.filter(minute__gte=hour, minute__lt=hour + HOUR, errors__gt=0)
        rollups = HourlyRollup.objects.overall().filter(hour=hour, errors__gt=0)
        counted, stored = (
            Counter(dict(rows.order_by().values_list("source").annotate(Sum("errors"))))
            for rows in (minutes, rollups)
        )
        errors = counted | stored
        if not errors:
            return
        promotions = Promotion.objects.filter(created_at__lt=hour + HOUR)
        champions = ModelVersion.objects.filter(alias=Alias.CHAMPION)
        version = (
            promotions.values_list("version", flat=True).first()
            or champions.values_list("pk", flat=True).first()
        )
        if version is not None:
            for source, count in errors.items():
                self.rows[Key(version, source, None)]["errors"] += count
