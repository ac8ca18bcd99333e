"""Errors of the mirror."""

from apps.core.exceptions import ToxicmodError


class MirrorError(ToxicmodError):
    """DynamoDB can't be reached, throttles or reports an error; the message says what to do."""

    status = 502


class UnreadableRecordError(ToxicmodError):
    """A record in DynamoDB does not match its model."""

    status = 500
