"""Appeals of authors, which a moderator other than the first one decides."""

from django.core import signing
from django.db import IntegrityError, transaction

from apps.accounts.models import APIKey
from apps.moderation import selectors, webhooks
from apps.moderation.actions.queue import decided_label, enqueue_item, withdraw
from apps.moderation.exceptions import ModerationError
from apps.moderation.models import Appeal, Decision, QueueItem


def appeal(*, token: str, text: str = "") -> Appeal:
    """Lodge an author's appeal with the token that the webhook of the rejection contains.

    If the comment has been rejected again since, the appeal is about the newest rejection.

    Args:
        text: the author's statement, at most 5,000 characters.

    Raises:
        ModerationError: the token is forged or older than six months, or the decision can't be appealed.
    """
    try:
        decision_id = webhooks.decision_of_token(token)
    except signing.BadSignature as error:
        raise ModerationError("This appeal link is not valid, or older than six months.") from error
    return _appeal(Decision.objects.filter(pk=decision_id).first(), text)


def appeal_for(*, decision_id: int, api_key: APIKey, text: str = "") -> Appeal:
    """Lodge an appeal that a platform forwards for the author, as in `appeal`.

    Raises:
        ModerationError: the decision is not on a comment of this API key, or it can't be appealed.
    """
    return _appeal(Decision.objects.filter(pk=decision_id, submission__api_key=api_key).first(), text)


@transaction.atomic
def _appeal(decision: Decision | None, text: str) -> Appeal:
    if decision is None:
        raise ModerationError("There is no such decision.")
    # A concurrent decision on one of the comment's items commits first, or sees the appeal.
    items = QueueItem.objects.filter(submission=decision.submission_id).order_by("pk")
    list(items.select_for_update().values_list("pk"))
    rejection, existing = selectors.appeal_state(decision)
    if decision.action != Decision.Action.REJECT or rejection is None:
        raise ModerationError("Only a rejection that is in force can be appealed.")
    if existing is not None:
        raise ModerationError("This decision has been appealed already.")
    # The rejection in force may be newer than the one whose token the author has.
    decision = rejection
    submission = decision.submission
    # The reviewer of the appeal sees the decision, so a blind second review is no longer possible.
    withdraw(QueueItem.objects.filter(submission=submission, kind=QueueItem.Kind.SECOND))
    item = enqueue_item(
        submission=submission,
        policy=decision.policy,
        kind=QueueItem.Kind.APPEAL,
        label=decided_label(decision),
        excluded_reviewer=decision.by,
    )
    try:
        with transaction.atomic():
            return Appeal.objects.create(decision=decision, item=item, text=text[:5_000])
    except IntegrityError as error:
        raise ModerationError("This decision has been appealed already.") from error
