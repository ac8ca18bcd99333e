"""Exceptions of monitoring. Their messages quote no comment, so the dashboard and alerts may show them."""


class MonitoringError(Exception):
    """Base class of the exceptions of this app."""


class IncompleteRollupError(MonitoringError):
    """Some hours could not be counted, or not completely. All other hours are counted."""


class RuleEvaluationError(MonitoringError):
    """Some alert rules could not be evaluated. All other rules were."""


class UnknownVersionError(MonitoringError):
    """Predictions name a model version that this machine's database does not hold."""


class UnusableRowError(MonitoringError):
    """A record holds a value that can't be counted."""
