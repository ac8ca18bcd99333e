"""Errors of predictions and feedback."""

from apps.core.exceptions import ToxicmodError


class FeedbackExistsError(ToxicmodError):
    """The visitor has given feedback on this prediction already."""

    status = 409
