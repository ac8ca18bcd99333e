"""Errors of connected platforms."""

from apps.core.exceptions import ToxicmodError


class InvalidPayloadError(ToxicmodError):
    """The platform sent something else than its documentation describes; the message names the field."""


class CommentNotFoundError(ToxicmodError):
    """The platform does not have the comment any more, at least not with this text."""

    status = 404
