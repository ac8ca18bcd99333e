"""Perspective's attributes and the labels whose probabilities are their scores."""

import re
from collections.abc import Sized
from typing import Any, NamedTuple

from apps.api.perspective.exceptions import PerspectiveError, invalid_argument

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
# Attributes of the New York Times' data, which the labels approximate.
_APPROXIMATIONS = {
    "OBSCENE": "obscene",
    "INFLAMMATORY": "toxic",
    "ATTACK_ON_AUTHOR": "insult",
    "ATTACK_ON_COMMENTER": "insult",
    "LIKELY_TO_REJECT": "toxic",
}
LABEL_OF: dict[str, str] = {
    **_PRODUCTION,
    **{f"{name}_EXPERIMENTAL": label for name, label in _PRODUCTION.items()},
    "TOXICITY_FAST": "toxic",
    **_APPROXIMATIONS,
}
MAX_ATTRIBUTES = 100  # in a request; Perspective has about sixty
MAX_NAME, MAX_DIGITS = 100, 9  # characters of a name, digits of a model version
_VERSION = re.compile(r"@([\w.-]{1,100})\Z")


class Selection(NamedTuple):
    """The requested attributes: the labels of those that have one, and the names of the others."""

    labels: dict[str, str]
    unsupported: list[str]


def label_of(attribute: str) -> str | None:
    """Return the label of an attribute of any version (`NAME@version`), or None if no label matches it."""
    return LABEL_OF.get(attribute) or LABEL_OF.get(_VERSION.sub("", attribute))


def version_of(attribute: str) -> int | None:
    """Return N of an attribute `NAME@N`, which may be a model version; None if it has no such suffix."""
    match = _VERSION.search(attribute)
    return int(match[1]) if match and match[1].isdecimal() and len(match[1]) <= MAX_DIGITS else None


def select_labels(requested: dict[str, Any], refuse_unsupported: bool) -> Selection:
    """Return the label of each requested attribute, and the attributes that have none.

    Args:
        refuse_unsupported: raise an error for an attribute without a label.

    Raises:
        PerspectiveError: there are too many attributes, one is rejected, or its score type is not supported.
    """
    require_attribute_count(requested)
    labels, unsupported = {}, []
    for attribute, parameters in requested.items():
        label = label_of(attribute)
        if label is None:
            if refuse_unsupported:
                raise unknown_attribute(attribute)
            unsupported.append(attribute)
            continue
        require_probability(attribute, parameters.get("scoreType", PROBABILITY))
        labels[attribute] = label
    return Selection(labels, unsupported)


def unknown_attribute(attribute: str) -> PerspectiveError:
    """Return the error for an attribute that has no label."""
    return invalid_argument(f"Unknown requested attribute: {attribute}")


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
