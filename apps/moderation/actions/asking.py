"""Somebody asks that a moderator look at a comment, whatever the policy made of it."""

from django.db import transaction

from apps.accounts.models import User
from apps.moderation import triage
from apps.moderation.actions.intake import queue
from apps.moderation.errors import ModerationError
from apps.moderation.models import Policy, QueueItem, Submission
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
    return queue(submission=submission, policy=policy, kind=QueueItem.Kind.REVIEW, label=verdict.label)
