"""Data sets, training runs and gate reports in the admin; pages to start a run and see its progress."""

from typing import Any

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404, redirect
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from apps.accounts.models import User
from apps.accounts.permissions import get_user, require
from apps.classifier.labels import LABELS
from apps.core.admin import ReadOnlyAdmin, link, viewer_display
from apps.moderation.models import Decision
from apps.moderation.selectors import visible
from apps.registry import actions as registry
from apps.registry.admin import GatesAdmin, format_metric, metrics_by_label_table, run_link
from apps.registry.gates import summarize
from apps.training import actions, datasets, jigsaw, labels, selectors, views
from apps.training.actions.runs import AUTOMATIC_DATASET, RUN_PERMISSION
from apps.training.exceptions import SourceError, TrainingError
from apps.training.forms import RunForm
from apps.training.models import Dataset, GateReport, TrainingRun
from apps.training.views import pop_error, redirect_with_error, render_page

SHOWN_DECISIONS = 200
_IDS_PER_QUERY = 10_000


def _visible_ids(user: User, decisions: list[int]) -> list[int]:
    """Return the ids of the decisions that the user may see."""
    visible_ids: set[int] = set()
    for start in range(0, len(decisions), _IDS_PER_QUERY):
        rows = Decision.objects.filter(pk__in=decisions[start : start + _IDS_PER_QUERY])
        visible_ids.update(visible(user, rows).values_list("pk", flat=True))
    return [pk for pk in decisions if pk in visible_ids]


@admin.register(Dataset)
class DatasetAdmin(ReadOnlyAdmin):
    list_display = ("__str__", "rows", "labelled", "source", "created_at", "runs")
    search_fields = ("name", "sha256")
    fields = (
        "name", "version", "created_at", "source", "licence", "sha256", "rows", "labelled", "by_label",
        "natural_rate", "left_out", "decisions", "runs",
    )  # fmt: skip
    actions = ("build",)

    @admin.action(description="Build a data set from decisions and feedback, with the selected one as base")
    def build(self, request: HttpRequest, queryset: QuerySet[Dataset]) -> None:
        base = queryset.first()
        if queryset.count() != 1 or base is None or base.is_built:
            messages.error(request, "Select one imported data set as base.")
            return
        actions.enqueue_build(actor=get_user(request), name=AUTOMATIC_DATASET, base=base)
        messages.success(
            request,
            f"A worker is building the data set “{AUTOMATIC_DATASET}”. It appears here when it is done.",
        )

    @admin.display(description="rows by label")
    def by_label(self, dataset: Dataset) -> SafeString:
        counts = ((label, dataset.positives.get(label, 0)) for label in LABELS)
        return format_html_join("", "{}: {}<br>", counts)

    @admin.display(description="rows left out")
    def left_out(self, dataset: Dataset) -> SafeString:
        return format_html_join(
            "", "{}<br>", ((sentence,) for sentence in jigsaw.format_report(dataset.report))
        )

    @viewer_display(description="decisions")
    def decisions(self, dataset: Dataset, viewer: User) -> SafeString | str:
        if not dataset.is_built:
            return "–"
        try:
            ids = datasets.read_ids(dataset.path, f"{labels.MODERATOR}-")
        except SourceError as error:
            return str(error)
        numbers = _visible_ids(viewer, [int(identifier.rpartition("-")[2]) for identifier in ids])
        links = (
            (link(viewer, "moderation_decision_change", str(number), number),)
            for number in numbers[:SHOWN_DECISIONS]
        )
        more = len(numbers) - SHOWN_DECISIONS
        return format_html(
            "{} that you may see: {}{}",
            len(numbers),
            format_html_join(", ", "{}", links),
            f" and {more} more" if more > 0 else "",
        )

    @viewer_display(description="training runs")
    def runs(self, dataset: Dataset, viewer: User) -> SafeString | str:
        return link(viewer, "training_trainingrun_changelist", "Runs", dataset__id__exact=dataset.pk)


@admin.register(TrainingRun)
class TrainingRunAdmin(ReadOnlyAdmin):
    list_display = ("__str__", "status", "step", "brief_result", "seconds", "mlflow_run_id", "created_at")
    list_filter = ("status", "recipe")
    list_select_related = ("dataset", "version")
    fields = (
        "dataset", "recipe", "seed", "status", "step", "interruptions", "error", "result",
        "version", "metrics_table", "git_commit", "seconds", "peak_memory_mb", "mlflow_run",
        "created_by", "trigger", "created_at", "finished_at",
    )  # fmt: skip
    change_list_template = "training/list.html"

    def get_queryset(self, request: HttpRequest) -> QuerySet[TrainingRun]:
        runs: Any = super().get_queryset(request)
        return runs.with_result()

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        tools = []
        if request.user.has_perm(RUN_PERMISSION):
            tools.append((reverse("admin:training_trainingrun_start"), "Start a run"))
        if request.user.has_perm(registry.PROMOTE_PERMISSION):
            tools.append((reverse("admin:training_challenger"), "Challenger"))
            tools.append((reverse("admin:training_roll_back"), "Roll back"))
        return super().changelist_view(request, {"tools": tools} | (extra_context or {}))

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view
        return [
            path("start/", view(self.start), name="training_trainingrun_start"),
            path("challenger/", view(views.challenger), name="training_challenger"),
            path("roll-back/", view(views.roll_back), name="training_roll_back"),
            path("<int:pk>/run/", view(self.run), name="training_trainingrun_run"),
            path("<int:pk>/progress/", view(self.progress), name="training_trainingrun_progress"),
            *super().get_urls(),
        ]

    def start(self, request: HttpRequest) -> HttpResponse:
        """Show the form for a new run, with the newest data set first; POST starts the run."""
        user = get_user(request)
        require(user, RUN_PERMISSION)
        title = "Start a training run"
        if not Dataset.objects.exists():
            return render_page(
                request, title, error="There is no data set. Import one with manage.py import_dataset."
            )
        error, fields = pop_error(request)
        form = RunForm(request.POST or None, initial=fields)
        if request.method == "POST" and form.is_valid():
            try:
                run = actions.create_run(actor=user, **form.cleaned_data)
            except TrainingError as failure:
                return redirect_with_error(request, str(failure), form)
            actions.enqueue_run(run)
            return redirect("admin:training_trainingrun_run", run.pk)
        return render_page(request, title, form=form, button="Start", error=error)

    def run(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Show the progress of a run; POST cancels it."""
        rows = TrainingRun.objects.with_result().select_related("dataset", "version")
        run = get_object_or_404(rows, pk=pk)
        if request.method == "POST":
            actions.cancel_run(actor=get_user(request), run=run)
            return redirect("admin:training_trainingrun_run", pk)
        self._require_view(request)
        is_unfinished = run.status in TrainingRun.UNFINISHED
        button = "Cancel run" if is_unfinished and request.user.has_perm(RUN_PERMISSION) else ""
        result = self.result(run, get_user(request)) if run.status == TrainingRun.Status.SUCCEEDED else ""
        return render_page(
            request,
            str(run),
            run=run,
            is_unfinished=is_unfinished,
            button=button,
            explanation=selectors.explain_state(run),
            error=run.error,
            result=result,
        )

    def _require_view(self, request: HttpRequest) -> None:
        if not self.has_view_permission(request):
            raise PermissionDenied

    def progress(self, request: HttpRequest, pk: int) -> JsonResponse:
        """Return the progress of a run as JSON, for the script of the page."""
        self._require_view(request)
        run = get_object_or_404(TrainingRun, pk=pk)
        return JsonResponse(
            {
                "status": run.status,
                "status_display": run.get_status_display(),
                "step": run.step,
                "progress": run.progress,
                "explanation": selectors.explain_state(run),
            }
        )

    @viewer_display(description="result")
    def brief_result(self, run: Any, viewer: User) -> SafeString | str:
        """Return the result of a run for the list."""
        if run.status != TrainingRun.Status.SUCCEEDED:
            return "–"
        roc_auc = format_metric(run.metrics.get("mean", {}).get("roc_auc"))
        if run.version is None:
            return format_html("baseline<br>ROC-AUC {}", roc_auc)
        champion = format_metric((run.champion_metrics or {}).get("mean", {}).get("roc_auc"))
        return format_html(
            "{}<br>ROC-AUC {}<br>(champion v{}: {})<br>{}",
            link(viewer, "registry_modelversion_change", f"Model version {run.version}", run.version_id),
            roc_auc,
            run.champion_number,
            champion,
            self._gates(run, viewer),
        )

    @viewer_display(description="result")
    def result(self, run: Any, viewer: User) -> SafeString | str:
        """Return the result of a run: the version, its metrics and the champion's, and its gates."""
        if run.status != TrainingRun.Status.SUCCEEDED:
            return "–"
        metrics, champion = (
            of_model.get("mean", {}) for of_model in (run.metrics, run.champion_metrics or {})
        )
        is_champion = run.version is not None and run.version.number == run.champion_number
        summary = ", ".join(
            f"{name} {format_metric(metrics.get(key))}"
            + (
                ""
                if is_champion
                else f" (champion v{run.champion_number}: {format_metric(champion.get(key))})"
            )
            for name, key in (("ROC-AUC", "roc_auc"), ("PR-AUC", "pr_auc"), ("calibration error", "ece"))
        )
        if run.version is None:
            return format_html("A baseline for comparison, no model version.<br>Mean {}.", summary)
        return format_html(
            "{}{}<br>Mean {}, each on the held-out rows of its data set.<br>{}",
            link(viewer, "registry_modelversion_change", f"Model version {run.version}", run.version_id),
            ", the champion" if is_champion else "",
            summary,
            self._gates(run, viewer),
        )

    def _gates(self, run: Any, viewer: User) -> SafeString | str:
        if run.gates is None:
            return "Gates: not measured yet"
        text = f"Gates: {summarize(run.gates)}"
        return link(viewer, "training_gatereport_changelist", text, version__id__exact=run.version_id)

    @admin.display(description="MLflow run")
    def mlflow_run(self, run: TrainingRun) -> SafeString | str:
        # A run that was not recorded because MLflow was down is published with its version later.
        return run_link(run.mlflow_run_id or (run.version.mlflow_run_id if run.version else ""))

    @admin.display(description="metrics on held-out rows")
    def metrics_table(self, run: TrainingRun) -> SafeString:
        return metrics_by_label_table(run.metrics)


@admin.register(GateReport)
class GateReportAdmin(GatesAdmin):
    list_display = ("__str__", "champion", "dataset", "created_at")
    list_select_related = ("version", "champion", "dataset")
    fields = ("version", "champion", "dataset", "created_at", "gates_table")
