"""List the model versions."""

from typing import Any

from apps.core.management import ProjectCommand
from apps.registry.models import ModelVersion

COLUMNS = ("version", "alias", "recipe", "made (UTC)", "ROC-AUC", "PR-AUC", "ECE", "MLflow", "SHA-256")


class Command(ProjectCommand):
    help = "List the model versions, newest first, with the mean of their metrics on the held-out rows."
    examples = "  manage.py list_models"

    def handle(self, *args: Any, **options: Any) -> None:
        versions = ModelVersion.objects.all()
        if not versions:
            self.stdout.write("There is no model version: run install_base_model or train_model.")
            return
        rows = [COLUMNS, *(self._row(version) for version in versions)]
        widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
        for row in rows:
            line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            self.stdout.write(line.rstrip())

    def _row(self, version: ModelVersion) -> tuple[str, ...]:
        mean = version.metrics.get("mean", {})
        values = (mean.get(metric) for metric in ("roc_auc", "pr_auc", "ece"))
        return (
            str(version),
            version.alias or "",
            version.recipe,
            f"{version.created_at:%Y-%m-%d %H:%M}",
            *("" if value is None else f"{value:.4f}" for value in values),
            version.mlflow_version,
            version.sha256[:12],
        )
