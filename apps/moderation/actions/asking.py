"""A person sends a comment to review, whatever the policy decided. The admin and the console call these."""

from django.db import transaction

from apps.accounts.models import User
from apps.moderation import triage
from apps.moderation.actions.intake import queue
from apps.moderation.errors import ModerationError
from apps.moderation.models import Decision, Policy, QueueItem, Submission
from apps.moderation.permissions import require
from apps.predictions.models import Prediction


@transaction.atomic
def ask_for_review(*, prediction: Prediction, by: User) -> QueueItem | None:
    """Put a stored comment in the queue; None where it has no text, or is or was in the queue already.

    A comment that came without asking for moderation gets a submission, of which no platform is told.

    Raises:
        PermissionDenied: the user may not see the queue of this community.
        ModerationError: no policy is active.
    """
    require(by, "moderation.view_queueitem", community=prediction.community)
    # Who locks the prediction first puts it in the queue.
    locked = Prediction.objects.select_for_update().filter(pk=prediction.pk, text__isnull=False).exists()
    if not locked or QueueItem.objects.filter(submission=prediction.pk).exists():
        return None
    policy = Policy.objects.active_for(prediction.community)
    if policy is None:
        raise ModerationError("No policy is active: run `manage.py install_default_policy`.")
    verdict = triage.triage(probabilities=prediction.probabilities, policy=policy)
    submission = Submission.objects.filter(pk=prediction.pk).first() or Submission.objects.create(
        prediction=prediction,
        client=prediction.client,
        community=prediction.community,
        policy=policy,
        outcome=Submission.Outcome.HUMAN_REVIEW,
        reasons=verdict.reasons,
    )
    return queue(
        submission=submission,
        policy=policy,
        kind=QueueItem.Kind.REVIEW,
        label=verdict.label,
        requested_by=by,
    )


@transaction.atomic
def send_to_review(*, decision: Decision, by: User) -> QueueItem | None:
    """Put the comment of an automatic decision in the queue, where a moderator confirms or changes it.

    The decision stands until then. The platform gets a webhook if the moderator decides otherwise.

    Returns:
        The new queue item, or None where nothing is to be done: the comment is in the queue already, or
        somebody has decided it since.

    Raises:
        PermissionDenied: the user may not decide items of this community.
        ModerationError: the decision is not an automatic one, or the text of the comment is not stored.
    """
    submission = decision.submission
    require(by, "moderation.decide_queueitem", community=submission.community)
    if not decision.automatic:
        raise ModerationError("A moderator made this decision: only an automatic one is sent to review.")
    # Two requests for the same comment follow one another here; the second finds the item of the first.
    prediction = Prediction.objects.select_for_update().get(pk=submission.pk)
    if prediction.text is None:
        raise ModerationError("The text of this comment is not stored, so nobody can review it.")
    current = submission.current_decision()
    is_waiting = submission.items.open().exclude(kind=QueueItem.Kind.SECOND).exists()
    if current is None or current.pk != decision.pk or is_waiting:
        return None
    rules = list(decision.policy.rules.all())
    return queue(
        submission=submission,
        policy=decision.policy,
        kind=QueueItem.Kind.REVIEW,
        label=(decision.rule and decision.rule.label)
        or triage.nearest_label(prediction.probabilities, rules),
        requested_by=by,
    )
