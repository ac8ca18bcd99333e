"""All that is mirrored in DynamoDB: predictions, feedback and decisions."""

from apps.moderation.models import Decision
from apps.predictions import mirror
from apps.predictions.mirror import Stream

DECISIONS = Stream("decision", Decision, "submission_id", "submission__prediction__text", ("note",))
STREAMS = (mirror.PREDICTIONS, mirror.FEEDBACK, DECISIONS)
