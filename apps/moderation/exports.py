"""Decisions as CSV and as statements of reasons."""

import csv
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from apps.core.text import escape_formula, percent
from apps.moderation.exceptions import ModerationError
from apps.moderation.models import Decision

# The countries to which the portal of the transparency database expands “EEA”.
EEA = (
    *("AT", "BE", "BG", "CY", "CZ", "DE", "DK", "EE", "ES", "FI", "FR", "GR", "HR", "HU", "IE"),
    *("IS", "IT", "LI", "LT", "LU", "LV", "MT", "NL", "NO", "PL", "PT", "RO", "SE", "SI", "SK"),
)


def _author(decision: Decision) -> str:
    author = decision.submission.author
    return author.ref if author else ""


def _labels(decision: Decision) -> str:
    return " ".join(label for label, flag in (decision.labels or {}).items() if flag)


# The cell of a decision in each column of the CSV file.
COLUMNS: dict[str, Callable[[Decision], object]] = {
    "decision": lambda decision: decision.pk,
    "decided_at": lambda decision: decision.created_at.isoformat(),
    "action": lambda decision: decision.action,
    "reverses": lambda decision: decision.reverses_id,
    "automatic": lambda decision: decision.automatic,
    "by": lambda decision: decision.actor,
    "community": lambda decision: decision.submission.community,
    "author": _author,
    "external_id": lambda decision: decision.submission.external_id,
    "prediction": lambda decision: decision.submission_id,
    "queue_item": lambda decision: decision.item_id,
    "labels": _labels,
    "reason": lambda decision: decision.reason,
    "note": lambda decision: decision.note,
    "seconds": lambda decision: "" if decision.seconds is None else f"{decision.seconds:.1f}",
    "model_version": lambda decision: decision.model_version.number,
    "policy": lambda decision: decision.policy,
}


class _Echo:
    """A file whose writes are returned, so that the CSV can be streamed."""

    def write(self, line: str) -> str:
        return line


def decisions_csv(decisions: Iterable[Decision]) -> Iterator[str]:
    """Yield the lines of a CSV file. The decisions should have their related rows selected."""
    writer = csv.writer(_Echo())
    yield writer.writerow(COLUMNS)
    for decision in decisions:
        yield writer.writerow([escape_formula(cell(decision)) for cell in COLUMNS.values()])


def statement_of_reasons(decision: Decision) -> dict[str, Any]:
    """Return a rejection's statement of reasons (DSA Article 17) by the transparency database's field names.

    Source: https://transparency.dsa.ec.europa.eu/page/api-documentation

    Raises:
        ModerationError: the decision is not a rejection.
    """
    if decision.action != Decision.Action.REJECT:
        raise ModerationError("Only a rejection has a statement of reasons.")
    submission = decision.submission
    facts = f"The comment was scored by model version {decision.model_version.number}"
    facts += (
        f" and rejected automatically under policy {decision.policy}."
        if decision.automatic
        else f" and rejected by a moderator under policy {decision.policy}."
    )
    if decision.rule and decision.rule.label and not submission.is_language_unscored:
        probability = submission.prediction.probabilities[decision.rule.label]
        facts += f" Estimated probability of “{decision.rule.get_label_display()}”: {percent(probability)}."
    return {
        "decision_visibility": ["DECISION_VISIBILITY_CONTENT_REMOVED"],
        "decision_ground": "DECISION_GROUND_INCOMPATIBLE_CONTENT",
        "incompatible_content_ground": decision.rule.title if decision.rule else "Community rules",
        "incompatible_content_explanation": decision.reason or "The comment breaks the community's rules.",
        "incompatible_content_illegal": "No",
        "category": decision.rule.category if decision.rule else "STATEMENT_CATEGORY_OTHER_VIOLATION_TC",
        "content_type": ["CONTENT_TYPE_TEXT"],
        "content_date": submission.created_at.date().isoformat(),
        "application_date": decision.created_at.date().isoformat(),
        "territorial_scope": decision.policy.territorial_scope or list(EEA),
        "decision_facts": facts,
        "source_type": "SOURCE_VOLUNTARY",
        # The model detects all comments. Only an appeal of the author adds another item; nobody gives notice.
        "automated_detection": "Yes",
        "automated_decision": "AUTOMATED_DECISION_FULLY"
        if decision.automatic
        else "AUTOMATED_DECISION_NOT_AUTOMATED",
        "puid": f"{submission.pk}-{decision.pk}",
    }
