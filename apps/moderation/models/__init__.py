"""The tables of moderation, by subject."""

from apps.moderation.models.bulk import BulkJob
from apps.moderation.models.decisions import (
    Appeal,
    AutomaticDecision,
    Decision,
    DecisionQuerySet,
    Strike,
    StrikeQuerySet,
)
from apps.moderation.models.deliveries import Delivery
from apps.moderation.models.policies import LABEL_CHOICES, MAX_REASON, Policy, PolicyRule
from apps.moderation.models.preferences import Preference
from apps.moderation.models.queue import (
    MIN_SEVERE,
    VIEWS,
    Queue,
    QueueItem,
    QueueItemQuerySet,
    Skip,
)
from apps.moderation.models.submissions import Author, Submission

__all__ = [
    "LABEL_CHOICES",
    "MAX_REASON",
    "MIN_SEVERE",
    "VIEWS",
    "Appeal",
    "Author",
    "AutomaticDecision",
    "BulkJob",
    "Decision",
    "DecisionQuerySet",
    "Delivery",
    "Policy",
    "PolicyRule",
    "Preference",
    "Queue",
    "QueueItem",
    "QueueItemQuerySet",
    "Skip",
    "Strike",
    "StrikeQuerySet",
    "Submission",
]
