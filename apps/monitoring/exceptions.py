"""Exceptions of monitoring. Their messages quote no comment, so the dashboard and alerts may show them."""

from apps.core.exceptions import ToxicmodError


class IncompleteRollupError(ToxicmodError):
    """Some hours could not be counted, or not completely. All other hours are counted."""

    status = 500


class RuleEvaluationError(ToxicmodError):
    """Some alert rules could not be evaluated. All other rules were."""

    status = 500


class UnknownVersionError(ToxicmodError):
    """Predictions name a model version that this machine's database does not hold."""


class UnusableRowError(ToxicmodError):
    """A record holds a value that can't be counted."""
