"""The errors of this app."""

from collections.abc import Sequence

from apps.core.exceptions import ToxicmodError
from apps.registry.exceptions import RegistryError
from apps.registry.gates import Gate


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


class GateError(RegistryError):
    """A version fails its gates.

    Attributes:
        gates: all gates of the version.
    """

    def __init__(self, message: str, gates: Sequence[Gate]) -> None:
        super().__init__(message)
        self.gates = gates
