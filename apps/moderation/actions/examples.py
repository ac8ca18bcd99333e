"""The demonstration queue: put up, and taken away without a trace."""

from django.db import transaction
from django.db.models import Q

from apps.classifier.scorer import warm
from apps.moderation.actions.intake import moderate
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
    """Put the example comments that are missing into the queue; return how many.

    Raises:
        NoModelError, ModerationError: as in `moderate`.
    """
    warm(serving.current().scorer)  # or the first example's time of scoring would be the compiler's
    seeded = 0
    for number, (community, author, text) in enumerate(EXAMPLES, start=1):
        answer = moderate(
            text=text,
            community=community,
            author_ref=author,
            external_id=f"example-{number}",
            context={"title": f"An example from the community “{community}”"},
            example=True,
        )
        seeded += not answer.is_repeat
    return seeded


@transaction.atomic
def remove_examples() -> int:
    """Delete the example comments and all that was decided of them; return how many there were.

    The only rows of evidence that are ever deleted: nobody wrote these comments and nobody was judged.
    """
    found = list(Submission.objects.filter(is_example=True).values_list("pk", flat=True))
    items = list(QueueItem.objects.filter(submission__in=found).values_list("pk", flat=True))
    decisions = Decision._base_manager.filter(submission__in=found)
    authors = set(Submission.objects.filter(pk__in=found).values_list("author", flat=True))
    Delivery.objects.filter(decision__submission__in=found).delete()
    Strike.objects.filter(decision__submission__in=found).delete()
    Appeal.objects.filter(item__in=items).delete()
    Skip._base_manager.filter(item__in=items).delete()
    decisions.filter(~Q(reverses=None)).delete()
    decisions.delete()
    QueueItem.objects.filter(pk__in=items, original__isnull=False).delete()
    QueueItem.objects.filter(pk__in=items).delete()
    Submission._base_manager.filter(pk__in=found).delete()
    Feedback._base_manager.filter(prediction__in=found).delete()
    Prediction._base_manager.filter(pk__in=found).delete()
    Author.objects.filter(pk__in=authors, submission=None).delete()
    return len(found)
