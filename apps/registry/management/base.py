"""The base class of management commands for model versions."""

from apps.core.management import ProjectCommand
from apps.registry import tracking
from apps.registry.exceptions import RegistryError, TrackingError
from apps.registry.models import ModelVersion

VERSION_HELP = "The model version: a number (3 or v3), or champion, challenger or previous."


class ModelCommand(ProjectCommand):
    """A management command that reads or changes model versions."""

    def sync_tracking(self) -> None:
        """Synchronize MLflow; print a warning if it can't be reached, because the schedule tries again."""
        try:
            tracking.sync()
        except TrackingError as error:
            self.warn(f"{error}. The next training, promotion or rollback updates its aliases.")


def find_version(name: str) -> ModelVersion:
    """Return the version with this number or alias.

    Raises:
        RegistryError: there is no such version.
    """
    version = ModelVersion.objects.named(name)
    if version is None:
        raise RegistryError(f"There is no model version {name}: see `manage.py list_models`.")
    return version
