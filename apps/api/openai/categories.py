"""OpenAI's moderation categories and the labels from which their scores are computed."""

from typing import Any

from apps.predictions.models import LabelScores

CATEGORIES = (
    "harassment",
    "harassment/threatening",
    "hate",
    "hate/threatening",
    "illicit",
    "illicit/violent",
    "self-harm",
    "self-harm/instructions",
    "self-harm/intent",
    "sexual",
    "sexual/minors",
    "violence",
    "violence/graphic",
)
# A category applies if any of its labels applies.
_ANY_OF = {
    "harassment": ("insult", "threat"),
    "harassment/threatening": ("threat",),
    "hate": ("identity_hate",),
    "violence": ("threat",),
}
# A category applies if all of its labels apply.
_ALL_OF = {"hate/threatening": ("identity_hate", "threat")}
SCORED = frozenset(_ANY_OF | _ALL_OF)


def build_result(prediction: LabelScores) -> dict[str, Any]:
    """Return the moderation object of a scored comment.

    A category of several labels gets the highest of their probabilities if one label is enough, and the
    lowest if all are needed. These are Fréchet's bounds of the probability of a union and an intersection,
    which are exact if one label implies the other. A category that is not scored gets 0, false and no input
    type.
    """
    probabilities, labels = prediction.probabilities, prediction.labels
    scores = dict.fromkeys(CATEGORIES, 0.0)
    flags = dict.fromkeys(CATEGORIES, False)
    for category, names in _ANY_OF.items():
        scores[category] = max(probabilities[name] for name in names)
        flags[category] = any(labels[name] for name in names)
    for category, names in _ALL_OF.items():
        scores[category] = min(probabilities[name] for name in names)
        flags[category] = all(labels[name] for name in names)
    return {
        "flagged": any(flags.values()),
        "categories": flags,
        "category_scores": scores,
        "category_applied_input_types": {
            category: ["text"] if category in SCORED else [] for category in CATEGORIES
        },
    }
