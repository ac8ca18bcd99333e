"""What the management commands for data sets share."""

from apps.core.management import ProjectCommand
from apps.training.exceptions import TrainingError
from apps.training.models import Dataset

DATASET_HELP = "The data set: name, or name:version for an older one."


class DatasetCommand(ProjectCommand):
    """A management command that stores a data set."""

    def write_summary(self, verb: str, dataset: Dataset) -> None:
        """Print what was stored."""
        positives = ", ".join(f"{label} {count}" for label, count in dataset.positives.items())
        self.stdout.write(
            f"{verb} {dataset}: {dataset.rows} rows ({positives}), sha256 {dataset.sha256[:12]}."
        )


def find_dataset(name: str) -> Dataset:
    """Return the data set with this name or name:version.

    Raises:
        TrainingError: there is no such data set.
    """
    dataset = Dataset.objects.named(name)
    if dataset is None:
        known = ", ".join(map(str, Dataset.objects.all()[:20])) or "none: run import_dataset"
        raise TrainingError(f"There is no data set {name} (there are: {known}).")
    return dataset
