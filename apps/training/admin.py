"""Data sets and training runs in the admin: evidence, read-only."""

from django.contrib import admin
from django.utils.html import format_html_join
from django.utils.safestring import SafeString

from apps.accounts.admin import ReadOnlyAdmin
from apps.classifier.labels import LABELS
from apps.registry.admin import figures_table, link
from apps.training import jigsaw
from apps.training.models import Dataset, TrainingRun


@admin.register(Dataset)
class DatasetAdmin(ReadOnlyAdmin):
    list_display = ("__str__", "rows", "labelled", "source", "created_at", "runs")
    search_fields = ("name", "sha256")
    fields = (
        "name", "version", "created_at", "source", "licence", "sha256", "rows", "labelled", "by_label",
        "natural_rate", "left_out", "runs",
    )  # fmt: skip

    @admin.display(description="rows by label")
    def by_label(self, dataset: Dataset) -> SafeString:
        counts = ((label, dataset.positives.get(label, 0)) for label in LABELS)
        return format_html_join("", "{}: {}<br>", counts)

    @admin.display(description="rows left out")
    def left_out(self, dataset: Dataset) -> SafeString:
        return format_html_join("", "{}<br>", ((sentence,) for sentence in jigsaw.sentences(dataset.report)))

    @admin.display(description="training runs")
    def runs(self, dataset: Dataset) -> SafeString:
        return link("training_trainingrun_changelist", "Runs", dataset__id__exact=dataset.pk)


@admin.register(TrainingRun)
class TrainingRunAdmin(ReadOnlyAdmin):
    list_display = ("__str__", "status", "step", "version", "seconds", "mlflow_run_id", "created_at")
    list_filter = ("status", "recipe")
    list_select_related = ("dataset", "version")
    fields = (
        "dataset_link", "recipe", "seed", "status", "step", "error", "version_link", "metrics_table",
        "git_commit", "seconds", "peak_memory_mb", "mlflow_run_id", "created_by", "created_at", "finished_at",
    )  # fmt: skip

    @admin.display(description="data set")
    def dataset_link(self, run: TrainingRun) -> SafeString:
        return link("training_dataset_change", str(run.dataset), run.dataset_id)

    @admin.display(description="model version")
    def version_link(self, run: TrainingRun) -> SafeString | str:
        if run.version is None:
            return "–"
        return link("registry_modelversion_change", str(run.version), run.version_id)

    @admin.display(description="metrics on held-out rows")
    def metrics_table(self, run: TrainingRun) -> SafeString:
        return figures_table(run.metrics)
