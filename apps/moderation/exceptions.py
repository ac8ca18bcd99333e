"""Errors of moderation."""

from apps.core.exceptions import ToxicmodError
from apps.moderation.models import QueueItem


class ModerationError(ToxicmodError):
    """The action can't be done as requested; the message says why."""


class StaleError(ModerationError):
    """Another moderator was faster; the message names who did what and when.

    Attributes:
        item: the queue item, or None if the user may not see it any more.
    """

    status = 409

    def __init__(self, message: str, item: QueueItem | None = None) -> None:
        super().__init__(message)
        self.item = item


class ConflictError(ModerationError):
    """The same external id came with another comment."""

    status = 409
