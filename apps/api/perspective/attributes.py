"""Perspective's attributes and the labels whose probabilities are their scores."""

import re
from collections.abc import Sized
from typing import Any

from apps.api.perspective.exceptions import invalid_argument

PROBABILITY = "PROBABILITY"
_UNSPECIFIED = "SCORE_TYPE_UNSPECIFIED"
_PRODUCTION = {
    "TOXICITY": "toxic",
    "SEVERE_TOXICITY": "severe_toxic",
    "IDENTITY_ATTACK": "identity_hate",
    "INSULT": "insult",
    "PROFANITY": "obscene",
    "THREAT": "threat",
}
LABEL_OF: dict[str, str] = {
    **_PRODUCTION,
    **{f"{name}_EXPERIMENTAL": label for name, label in _PRODUCTION.items()},
    "TOXICITY_FAST": "toxic",
}
MAX_ATTRIBUTES = 100  # in a request; Perspective has about sixty
_VERSION = re.compile(r"@[\w.-]{1,100}\Z")


def label_of(attribute: str) -> str | None:
    """Return the label of an attribute of any version (`NAME@version`), or None if no label matches it."""
    return LABEL_OF.get(_VERSION.sub("", attribute))


def select_labels(requested: dict[str, Any], drop_unsupported: bool) -> dict[str, str]:
    """Return the label of each requested attribute.

    Args:
        drop_unsupported: leave out attributes without a label instead of raising an error.

    Raises:
        PerspectiveError: there are too many attributes, one has no label, or its score type is not supported.
    """
    require_attribute_count(requested)
    labels = {}
    for attribute, parameters in requested.items():
        label = label_of(attribute)
        if label is None:
            if drop_unsupported:
                continue
            raise invalid_argument(f"Unknown requested attribute: {attribute}")
        require_probability(attribute, parameters.get("scoreType", PROBABILITY))
        labels[attribute] = label
    return labels


def require_attribute_count(attributes: Sized) -> None:
    """Raise PerspectiveError if a request has too many attributes."""
    if len(attributes) > MAX_ATTRIBUTES:
        raise invalid_argument(
            f"Too many attributes: {len(attributes)}. At most {MAX_ATTRIBUTES} may be named."
        )


def require_probability(attribute: str, score_type: str) -> None:
    """Raise PerspectiveError if the score type of an attribute is not a probability."""
    if score_type not in (PROBABILITY, _UNSPECIFIED):
        raise invalid_argument(f"Requested score type {score_type} is not supported by attribute {attribute}")
