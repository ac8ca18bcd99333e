"""Evaluate model versions on data sets, and measure their gates."""

from typing import Any

from apps.accounts.permissions import Actor, require
from apps.classifier.evaluation import evaluate
from apps.core.enqueue import enqueue
from apps.registry.actions import PROMOTE_PERMISSION
from apps.registry.models import Alias, ModelVersion
from apps.training import datasets, gates, tasks
from apps.training.models import Dataset, GateReport, TrainingRun


def evaluate_version(
    *, version: ModelVersion, dataset: Dataset, all_rows: bool = False
) -> tuple[dict[str, Any], int]:
    """Evaluate a version on a data set.

    Args:
        all_rows: evaluate the served model on every row, for data that it was not trained on. By default its
            evaluation model is evaluated on the held-out rows.

    Returns:
        The metrics by label, and the number of rows.
    """
    rows = datasets.read(dataset.path, clean_weight=dataset.clean_weight)
    if all_rows:
        scorer = version.load_scorer()
    else:
        rows = rows.take(rows.split()[1])
        scorer = gates.load_evaluation_model(version)
    probabilities = gates.score_all(scorer, rows.texts)
    return evaluate(rows.labels, probabilities, scorer.thresholds, rows.weights), len(rows)


def enqueue_gates(*, actor: Actor, version: ModelVersion) -> None:
    """Have a worker measure the gates of a version, see `measure_gates`.

    Raises:
        PermissionDeniedError: the actor may not promote.
    """
    require(actor, PROMOTE_PERMISSION)
    enqueue(tasks.measure_gates, version.pk)


def measure_gates(*, version: ModelVersion) -> GateReport:
    """Measure every gate of a version against the champion, on the newest data set, and store the report.

    A report that is still current is returned as it is, so that two requests measure once.

    Raises:
        ArtifactError: a stored artifact is damaged.
        SourceError: the data set's file is damaged.
    """
    if report := GateReport.objects.current(version):
        return report
    champion, dataset = ModelVersion.objects.with_alias(Alias.CHAMPION), Dataset.objects.newest()
    return GateReport.objects.create(
        version=version,
        champion=champion,
        dataset=dataset,
        gates=gates.run_gates(version, champion, dataset),
    )


def find_unmeasured_version() -> ModelVersion | None:
    """Return the version of the last successful run if its gates were never measured."""
    run = TrainingRun.objects.filter(status=TrainingRun.Status.SUCCEEDED).order_by("-pk").first()
    if run is None or run.version is None or GateReport.objects.filter(version=run.version).exists():
        return None
    return run.version
