"""Errors of the model registry."""

from apps.core.exceptions import ToxicmodError


class RegistryError(ToxicmodError):
    """The registry rejects a change of the model versions or their roles."""

    status = 409


class GateError(RegistryError):
    """A version fails its gates, and the request does not override them."""


class NoModelError(ToxicmodError):
    """No champion is installed, or it can't be loaded."""

    status = 503


class TrackingError(ToxicmodError):
    """MLflow can't be reached or reports an error."""

    status = 502
