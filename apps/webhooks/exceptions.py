"""Errors of webhooks."""

from apps.core.exceptions import ToxicmodError


class WebhookError(ToxicmodError):
    """The action can't be done; the message says why and what to do."""

    status = 409


class ExchangeError(ToxicmodError):
    """There is no response from the receiver; the message says why."""

    status = 502


class InvalidEndpointError(ExchangeError):
    """The URL is not one that webhooks may be sent to: trying it again is of no use."""

    status = 400


class NoResponseError(ExchangeError):
    """The receiver can't be reached, or did not respond in time: this may pass."""


class ResponseTimeoutError(NoResponseError):
    """The exchange was not complete at its deadline."""
