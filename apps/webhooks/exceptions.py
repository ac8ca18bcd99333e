"""Errors of webhooks."""

from apps.core.exceptions import ToxicmodError


class WebhookError(ToxicmodError):
    """The action can't be done; the message says why and what to do."""

    status = 409


class ExchangeError(ToxicmodError):
    """The receiver sent no response; the message says why."""

    status = 502


class InvalidEndpointError(ExchangeError):
    """Webhooks may not be sent to this URL. The error is permanent."""

    status = 400


class NoResponseError(ExchangeError):
    """The receiver can't be reached, or did not respond in time. The error may be temporary."""


class ResponseTimeoutError(NoResponseError):
    """The exchange was not complete at its deadline."""
