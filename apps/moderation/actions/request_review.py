"""Send comments to review at the request of a user. The admin and the pages of a challenger call it."""

from django.db import transaction

from apps.accounts.models import User
from apps.accounts.permissions import require
from apps.moderation import triage
from apps.moderation.actions.policies import active_policy
from apps.moderation.actions.queue import decided_label, enqueue_item
from apps.moderation.exceptions import ModerationError
from apps.moderation.models import Decision, QueueItem, Submission
from apps.predictions.models import Prediction


@transaction.atomic
def request_review(*, prediction: Prediction, by: User) -> QueueItem | None:
    """Put a stored comment into the queue.

    Return None if it has no text, has been queued before or has been edited since.

    A comment that was only scored gets a submission without a callback URL.

    Raises:
        PermissionDeniedError: the user may not see the queue of this community.
        ModerationError: no policy is active.
    """
    require(by, "moderation.view_queueitem", community=prediction.community)
    # The lock keeps two concurrent requests from queueing the comment twice.
    is_locked = Prediction.objects.select_for_update().filter(pk=prediction.pk, text__isnull=False).exists()
    if not is_locked or QueueItem.objects.filter(submission=prediction.pk).exists():
        return None
    if Submission.objects.filter(previous=prediction.pk).exists():
        return None
    policy = active_policy(prediction.community)
    verdict = triage.apply_policy(probabilities=prediction.probabilities, policy=policy)
    submission = Submission.objects.filter(pk=prediction.pk).first() or Submission.objects.create(
        prediction=prediction,
        api_key=prediction.api_key,
        community=prediction.community,
        policy=policy,
        outcome=Submission.Outcome.HUMAN_REVIEW,
        reasons=verdict.reasons,
    )
    return enqueue_item(
        submission=submission,
        policy=policy,
        kind=QueueItem.Kind.REVIEW,
        label=verdict.label,
        requested_by=by,
    )


@transaction.atomic
def send_to_review(*, decision: Decision, by: User) -> QueueItem | None:
    """Put the comment of an automatic decision into the queue, where a moderator confirms or changes it.

    The decision remains in force until then. The platform gets a webhook if the moderator changes it.

    Returns:
        The new queue item, or None if the comment is in the queue already, or has been decided or edited
        since.

    Raises:
        PermissionDeniedError: the user may not decide items of this community.
        ModerationError: the decision is not automatic, or the text of the comment is not stored.
    """
    submission = decision.submission
    require(by, "moderation.decide_queueitem", community=submission.community)
    if not decision.automatic:
        raise ModerationError("A moderator made this decision: only an automatic one is sent to review.")
    # The lock keeps two concurrent requests from queueing the comment twice.
    prediction = Prediction.objects.select_for_update().get(pk=submission.pk)
    if prediction.text is None:
        raise ModerationError("The text of this comment is not stored, so nobody can review it.")
    is_waiting = submission.items.open().exclude(kind=QueueItem.Kind.SECOND).exists()
    # Read after the items, so that a decision that closes one of them meanwhile is seen here.
    current = submission.current_decision()
    if current is None or current.pk != decision.pk or is_waiting or submission.is_replaced:
        return None
    return enqueue_item(
        submission=submission,
        policy=decision.policy,
        kind=QueueItem.Kind.REVIEW,
        label=decided_label(decision),
        requested_by=by,
    )
