"""The errors of this app."""

from apps.core.exceptions import ToxicmodError


class TrainingError(ToxicmodError):
    """A data set or a training run can't be made as requested."""


class TrainingBusyError(TrainingError):
    """Another run is being trained, so this one stays queued."""

    status = 409


class RunStoppedError(TrainingError):
    """The run was cancelled, or marked as failed because its worker sent no heartbeat."""

    status = 409


class SourceError(ToxicmodError):
    """The data can't be fetched or read."""


class ScoringError(ToxicmodError):
    """A file can't be scored as requested."""
