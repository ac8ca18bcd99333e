"""Perspective's attributes and the labels that answer for them."""

import re
from collections.abc import Sized
from typing import Any

from apps.api.perspective.errors import invalid

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
MAX_ATTRIBUTES = 100  # of a request; Perspective had about sixty names
_VERSION = re.compile(r"@[\w.-]{1,100}\Z")


def label_of(attribute: str) -> str | None:
    """Return the label that answers for an attribute of whatever version (`NAME@version`), or None."""
    return LABEL_OF.get(_VERSION.sub("", attribute))


def scored(requested: dict[str, Any], drop: bool) -> dict[str, str]:
    """Return the label by attribute; what no model here scores is refused, or left out where `drop` is set.

    Raises:
        PerspectiveError: the first attribute that is unknown or asked for in a unit that there isn't.
    """
    check_count(requested)
    labels = {}
    for attribute, parameters in requested.items():
        label = label_of(attribute)
        if label is None:
            if drop:
                continue
            raise invalid(f"Unknown requested attribute: {attribute}")
        check_score_type(attribute, parameters.get("scoreType", PROBABILITY))
        labels[attribute] = label
    return labels


def check_count(attributes: Sized) -> None:
    """Raise PerspectiveError where a request names too many attributes."""
    if len(attributes) > MAX_ATTRIBUTES:
        raise invalid(f"Too many attributes: {len(attributes)}. At most {MAX_ATTRIBUTES} may be named.")


def check_score_type(attribute: str, score_type: str) -> None:
    """Raise PerspectiveError unless the unit is a probability."""
    if score_type not in (PROBABILITY, _UNSPECIFIED):
        raise invalid(f"Requested score type {score_type} is not supported by attribute {attribute}")
