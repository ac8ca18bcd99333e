"""Errors of moderation."""

from apps.core.exceptions import ToxicmodError
from apps.moderation.models import QueueItem


class ModerationError(ToxicmodError):
    """The action is not possible; the message says why."""


class PolicyChangedError(ModerationError):
    """The policy has been changed since the user saw it."""

    status = 409


class StaleError(ModerationError):
    """Another user has changed the item meanwhile; the message names the user, the change and the time.

    Attributes:
        item: the item, or None if the user may not see it any more.
    """

    status = 409

    def __init__(self, message: str, item: QueueItem | None = None) -> None:
        super().__init__(message)
        self.item = item
