"""Add and remove the example comments."""

from django.db import transaction
from django.db.models import Q

from apps.classifier.scorer import warm
from apps.moderation.actions.moderate import moderate
from apps.moderation.examples import EXAMPLES
from apps.moderation.models import (
    Appeal,
    Author,
    Decision,
    Delivery,
    QueueItem,
    Skip,
    Strike,
    Submission,
)
from apps.predictions.models import Feedback, Prediction
from apps.registry import serving


def seed_examples() -> int:
    """Queue the example comments that are missing; return how many.

    Raises:
        NoModelError, ModerationError: as in `moderate`.
    """
    warm(serving.current().scorer)  # so that the recorded scoring times do not include compilation
    seeded = 0
    for number, (community, author, text) in enumerate(EXAMPLES, start=1):
        result = moderate(
            text=text,
            community=community,
            author_ref=author,
            external_id=f"example-{number}",
            context={"title": f"An example from the community “{community}”"},
            example=True,
        )
        seeded += not result.is_repeat
    return seeded


@transaction.atomic
def remove_examples() -> int:
    """Delete the example comments with their decisions; return the number of comments.

    No other code deletes append-only rows.
    """
    submissions = list(Submission.objects.filter(is_example=True).values_list("pk", flat=True))
    items = list(QueueItem.objects.filter(submission__in=submissions).values_list("pk", flat=True))
    decisions = Decision._base_manager.filter(submission__in=submissions)
    authors = set(Submission.objects.filter(pk__in=submissions).values_list("author", flat=True))
    Delivery.objects.filter(decision__submission__in=submissions).delete()
    Strike.objects.filter(decision__submission__in=submissions).delete()
    Appeal.objects.filter(item__in=items).delete()
    Skip._base_manager.filter(item__in=items).delete()
    decisions.filter(~Q(reverses=None), ~Q(applied_from=None)).delete()
    decisions.filter(~Q(reverses=None)).delete()
    decisions.filter(~Q(applied_from=None)).delete()
    decisions.delete()
    QueueItem.objects.filter(pk__in=items, original__isnull=False).delete()
    QueueItem.objects.filter(pk__in=items).delete()
    Submission._base_manager.filter(pk__in=submissions).delete()
    Feedback._base_manager.filter(prediction__in=submissions).delete()
    Prediction._base_manager.filter(pk__in=submissions).delete()
    Author.objects.filter(pk__in=authors, submission=None).delete()
    return len(submissions)
