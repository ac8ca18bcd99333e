"""What an action refuses, besides Django's `PermissionDenied`."""

from apps.core.exceptions import ToxicmodError
from apps.moderation.models import QueueItem


class ModerationError(ToxicmodError):
    """The action can't be done as asked; the message says why."""


class StaleError(ModerationError):
    """Somebody else was faster; the message names who did what and when.

    Where the user may not see the item any more, `item` is None.
    """

    status = 409

    def __init__(self, message: str, item: QueueItem | None = None) -> None:
        super().__init__(message)
        self.item = item


class ConflictError(ModerationError):
    """The same external id came with another comment."""

    status = 409
