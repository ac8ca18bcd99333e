"""Shadow evaluation: compares the challenger with the champion on comments that both have scored."""

from dataclasses import dataclass

import numpy as np

from apps.classifier.labels import LABELS
from apps.moderation.models import QueueItem
from apps.predictions.models import Prediction, unpack_labels
from apps.registry.models import ModelVersion
from apps.training.models import ShadowScore

MAX_COMPARED = 5_000  # of the newest comments
SHOWN = 20


@dataclass(frozen=True)
class LabelComparison:
    """How often each model gives a label, how often they agree, and the mean distance of scores."""

    label: str
    champion: float
    challenger: float
    agreement: float
    distance: float


@dataclass(frozen=True)
class Disagreement:
    """A comment on which two models disagree, and the label on which they disagree most."""

    prediction: Prediction
    label: str
    champion: float
    challenger: float
    is_queued: bool


@dataclass(frozen=True)
class Comparison:
    """Two models on the same comments; fractions are None without comments."""

    count: int
    labels: list[LabelComparison]
    agreement: float | None
    flagged: tuple[float, float] | None
    disagreements: list[Disagreement]


def compare(
    *, challenger: ModelVersion, champion: ModelVersion, communities: list[str] | None = None
) -> Comparison:
    """Compare two models on the newest comments that both have scored.

    Args:
        communities: compare on the comments of these communities; None for all.
    """
    scores = ShadowScore.objects.filter(version=challenger, prediction__model_version=champion).order_by(
        "-pk"
    )
    if communities is not None:
        scores = scores.filter(prediction__community__in=communities)
    rows = list(
        scores.values_list(
            "prediction",
            "prediction__label_mask",
            "label_mask",
            *(f"prediction__{label}" for label in LABELS),
            *LABELS,
        )[:MAX_COMPARED]
    )
    if not rows:
        return Comparison(0, [], None, None, [])
    probabilities = np.array([row[3:] for row in rows])
    baseline, candidate = probabilities[:, : len(LABELS)], probabilities[:, len(LABELS) :]
    flags = np.array([[list(unpack_labels(mask).values()) for mask in row[1:3]] for row in rows])
    distance = np.abs(candidate - baseline)
    labels = [
        LabelComparison(
            label=label,
            champion=float(flags[:, 0, column].mean()),
            challenger=float(flags[:, 1, column].mean()),
            agreement=float((flags[:, 0, column] == flags[:, 1, column]).mean()),
            distance=float(distance[:, column].mean()),
        )
        for column, label in enumerate(LABELS)
    ]
    flagged: np.ndarray = np.any(flags, axis=2)
    order = np.argsort(-distance.max(axis=1), kind="stable")[:SHOWN]
    predictions = Prediction.objects.in_bulk([rows[row][0] for row in order])
    queued = set(
        QueueItem.objects.filter(submission__in=list(predictions)).values_list("submission", flat=True)
    )
    disagreements = []
    for row in order:
        column = int(distance[row].argmax())
        pk = rows[row][0]
        disagreements.append(
            Disagreement(
                prediction=predictions[pk],
                label=LABELS[column],
                champion=float(baseline[row, column]),
                challenger=float(candidate[row, column]),
                is_queued=pk in queued,
            )
        )
    return Comparison(
        count=len(rows),
        labels=labels,
        agreement=float((flagged[:, 0] == flagged[:, 1]).mean()),
        flagged=(float(flagged[:, 0].mean()), float(flagged[:, 1].mean())),
        disagreements=disagreements,
    )
