"""Decisions as CSV and as statements of reasons."""

import csv
from collections.abc import Iterable, Iterator
from typing import Any

from apps.core.text import escape_formula, percent
from apps.moderation.exceptions import ModerationError
from apps.moderation.models import Decision

# The countries to which the portal of the transparency database expands “EEA”.
EEA = (
    *("AT", "BE", "BG", "CY", "CZ", "DE", "DK", "EE", "ES", "FI", "FR", "GR", "HR", "HU", "IE"),
    *("IS", "IT", "LI", "LT", "LU", "LV", "MT", "NL", "NO", "PL", "PT", "RO", "SE", "SI", "SK"),
)
COLUMNS = (
    "decision",
    "decided_at",
    "action",
    "reverses",
    "automatic",
    "by",
    "community",
    "author",
    "external_id",
    "prediction",
    "queue_item",
    "labels",
    "reason",
    "note",
    "seconds",
    "model_version",
    "policy",
)


class _Echo:
    """A file whose writes are returned, so that the CSV can be streamed."""

    def write(self, line: str) -> str:
        return line


def decisions_csv(decisions: Iterable[Decision]) -> Iterator[str]:
    """Yield the lines of a CSV file. The decisions should have their related rows selected."""
    writer = csv.writer(_Echo())
    yield writer.writerow(COLUMNS)
    for decision in decisions:
        labels = decision.labels
        author = decision.submission.author
        cells = (
            decision.pk,
            decision.created_at.isoformat(),
            decision.action,
            decision.reverses_id,
            decision.automatic,
            decision.actor,
            decision.submission.community,
            author.ref if author else "",
            decision.submission.external_id,
            decision.submission_id,
            decision.item_id,
            "" if labels is None else " ".join(label for label, flag in labels.items() if flag),
            decision.reason,
            decision.note,
            "" if decision.seconds is None else f"{decision.seconds:.1f}",
            decision.model_version.number,
            decision.policy,
        )
        yield writer.writerow([escape_formula(cell) for cell in cells])


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
    if decision.rule and decision.rule.label:
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
