"""Errors of webhooks and of their signing keys."""

from apps.core.exceptions import ToxicmodError


class WebhookError(ToxicmodError):
    """The action can't be done; the message says why and what to do."""

    status = 409


class ExchangeError(Exception):
    """The receiver sent no response; the message says why."""


class InvalidEndpointError(ExchangeError):
    """Webhooks may not be sent to this URL. The error is permanent."""


class NoResponseError(ExchangeError):
    """The receiver can't be reached, or did not respond in time. The error may be temporary."""


class ResponseTimeoutError(NoResponseError):
    """The exchange was not complete at its deadline."""
