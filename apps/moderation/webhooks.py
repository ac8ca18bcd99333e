"""Payloads of the webhooks about decisions, which `apps.webhooks` signs and sends, and appeal tokens."""

from datetime import timedelta
from typing import Any

from django.conf import settings
from django.core import signing

from apps.moderation.exports import statement_of_reasons
from apps.moderation.models import Decision, Delivery, Submission

APPEAL_DAYS = 183  # DSA Article 20(1): at least six months
_SALT = "moderation.appeal"


def appeal_token(decision: Decision) -> str:
    """Return the signed token with which the author may appeal, for six months."""
    return signing.dumps(decision.pk, salt=_SALT)


def decision_of_token(token: str) -> int:
    """Return the decision's id from an appeal token.

    Raises:
        signing.BadSignature: the token is forged or has expired.
    """
    return int(signing.loads(token, salt=_SALT, max_age=timedelta(days=APPEAL_DAYS)))


def payload(decision: Decision, event: Delivery.Event) -> dict[str, Any]:
    """Return the payload, which contains no comment, no note and no moderator's name."""
    submission = decision.submission
    # After a reversal the earlier decision is in force again. Without one, the comment waits for a moderator.
    current = submission.current_decision() if decision.action == Decision.Action.REVERSE else decision
    outcome = Submission.Outcome(current.action) if current else Submission.Outcome.HUMAN_REVIEW
    content: dict[str, Any] = {
        "event": str(event),
        "decision_id": decision.pk,
        "reverses": decision.reverses_id,
        "prediction_id": str(submission.pk),
        "queue_id": decision.item_id,
        "external_id": submission.external_id,
        "community": submission.community,
        "author": submission.author.ref if submission.author else None,
        "outcome": str(outcome),
        "reasons": [],
        "decided_at": decision.created_at.isoformat(),
        "model_version": decision.model_version.number,
        "policy": {"community": decision.policy.community, "version": decision.policy.version},
    }
    if current and outcome == Submission.Outcome.REJECT:
        token = appeal_token(current)
        content |= {"statement_of_reasons": statement_of_reasons(current), "appeal_token": token}
        if rule := current.rule:
            content["reasons"] = [{"label": rule.label, "title": rule.title, "reason": rule.reason}]
        if settings.PUBLIC_URL:
            content["appeal_url"] = f"{settings.PUBLIC_URL}/appeal/{token}"
    return content
