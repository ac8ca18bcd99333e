"""Data sets and runs in the admin: read-only evidence, and the doors to train, promote and roll back."""

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404, redirect
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from apps.accounts.models import User
from apps.accounts.permissions import require
from apps.classifier.config import RECIPES
from apps.classifier.labels import LABELS
from apps.core.admin import ReadOnlyAdmin
from apps.moderation.models import Decision
from apps.moderation.selectors import visible
from apps.registry import actions as registry
from apps.registry.admin import figures_table, gates_table, link, run_link
from apps.registry.gates import summarize
from apps.training import challenger, datasets, jigsaw, life, runs
from apps.training.challenger import page, user_of
from apps.training.models import Dataset, GateReport, TrainingRun
from apps.training.sources import SourceError

SHOWN_DECISIONS = 200
_LOOKED_UP = 10_000  # ids in one query


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


class RunForm(forms.Form):
    """What to train, with defaults that fit."""

    dataset = forms.ModelChoiceField(Dataset.objects.all(), empty_label=None, label="Data set")
    recipe = forms.ChoiceField(
        choices=[(name, name) for name in RECIPES],
        help_text="two_level makes a model version; the baselines are evaluated for comparison only.",
    )
    seed = forms.IntegerField(min_value=0, max_value=2**31 - 1, initial=0)


def _visible(user: User, decisions: list[int]) -> list[int]:
    """Return the ids of those decisions that the user may see."""
    kept: set[int] = set()
    for start in range(0, len(decisions), _LOOKED_UP):
        found = Decision.objects.filter(pk__in=decisions[start : start + _LOOKED_UP])
        kept.update(visible(user, found).values_list("pk", flat=True))
    return [pk for pk in decisions if pk in kept]


@admin.register(Dataset)
class DatasetAdmin(ReadOnlyAdmin):
    list_display = ("__str__", "rows", "labelled", "source", "created_at", "runs")
    search_fields = ("name", "sha256")
    fields = (
        "name", "version", "created_at", "source", "licence", "sha256", "rows", "labelled", "by_label",
        "natural_rate", "left_out", "decisions", "runs",
    )  # fmt: skip
    actions = ("build",)

    @admin.action(description="Build a data set of decisions and feedback on top of the selected one")
    def build(self, request: HttpRequest, queryset: QuerySet[Dataset]) -> None:
        base = queryset.first()
        if queryset.count() != 1 or base is None or base.is_built:
            messages.error(request, "Select one imported data set to build on.")
            return
        runs.send_build(name=runs.LEARNED, base=base, by=user_of(request))
        messages.success(
            request, "A worker builds the data set “decisions”; it appears here when it is done."
        )

    @admin.display(description="rows by label")
    def by_label(self, dataset: Dataset) -> SafeString:
        counts = ((label, dataset.positives.get(label, 0)) for label in LABELS)
        return format_html_join("", "{}: {}<br>", counts)

    @admin.display(description="rows left out")
    def left_out(self, dataset: Dataset) -> SafeString:
        return format_html_join("", "{}<br>", ((sentence,) for sentence in jigsaw.sentences(dataset.report)))

    def get_object(
        self, request: HttpRequest, object_id: str, from_field: str | None = None
    ) -> Dataset | None:
        dataset = super().get_object(request, object_id, from_field)
        if dataset is not None:
            dataset.viewer = user_of(request)  # for `decisions`, which the admin hands no request
        return dataset

    @admin.display(description="decisions")
    def decisions(self, dataset: Dataset) -> SafeString | str:
        if not dataset.is_built:
            return "–"
        try:
            found = datasets.ids(dataset.path, f"{life.MODERATOR}-")
        except SourceError as error:
            return str(error)
        viewer = dataset.viewer  # type: ignore[attr-defined]
        numbers = _visible(viewer, [int(identifier.rpartition("-")[2]) for identifier in found])
        links = (
            (link("moderation_decision_change", str(number), number),) for number in numbers[:SHOWN_DECISIONS]
        )
        more = len(numbers) - SHOWN_DECISIONS
        return format_html(
            "{} that you may see: {}{}",
            len(numbers),
            format_html_join(", ", "{}", links),
            f" and {more} more" if more > 0 else "",
        )

    @admin.display(description="training runs")
    def runs(self, dataset: Dataset) -> SafeString:
        return link("training_trainingrun_changelist", "Runs", dataset__id__exact=dataset.pk)


@admin.register(TrainingRun)
class TrainingRunAdmin(ReadOnlyAdmin):
    list_display = ("__str__", "status", "step", "brief_result", "seconds", "mlflow_run_id", "created_at")
    list_filter = ("status", "recipe")
    list_select_related = ("dataset", "version")
    fields = (
        "dataset_link", "recipe", "seed", "status", "step", "interruptions", "error", "result",
        "version_link", "metrics_table", "git_commit", "seconds", "peak_memory_mb", "mlflow_run",
        "created_by", "trigger", "created_at", "finished_at",
    )  # fmt: skip
    change_list_template = "training/list.html"

    def get_queryset(self, request: HttpRequest) -> QuerySet[TrainingRun]:
        found: Any = super().get_queryset(request)
        return found.with_result()

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        tools = []
        if request.user.has_perm(runs.RUN_PERMISSION):
            tools.append((reverse("admin:training_trainingrun_start"), "Start a run"))
        if request.user.has_perm(registry.PROMOTE_PERMISSION):
            tools.append((reverse("admin:training_challenger"), "The challenger"))
            tools.append((reverse("admin:training_roll_back"), "Roll back"))
        return super().changelist_view(request, {"tools": tools} | (extra_context or {}))

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view
        return [
            path("start/", view(self.start), name="training_trainingrun_start"),
            path("challenger/", view(challenger.challenger), name="training_challenger"),
            path("roll-back/", view(challenger.roll_back), name="training_roll_back"),
            path("<int:pk>/watch/", view(self.watch), name="training_trainingrun_watch"),
            path("<int:pk>/progress/", view(self.progress), name="training_trainingrun_progress"),
            *super().get_urls(),
        ]

    def start(self, request: HttpRequest) -> HttpResponse:
        """Start a run; the data set made last is offered first."""
        require(user_of(request), runs.RUN_PERMISSION)
        title = "Start a training run"
        if not Dataset.objects.exists():
            return page(
                request, title, refusal="There is no data set: import one by manage.py import_dataset."
            )
        form, refusal = RunForm(request.POST or None), ""
        if request.method == "POST" and form.is_valid():
            try:
                run = runs.queue_run(by=user_of(request), **form.cleaned_data)
            except runs.TrainingError as error:
                refusal = str(error)
            else:
                runs.send_run(run)
                return redirect("admin:training_trainingrun_watch", run.pk)
        return page(request, title, form=form, button="Start", refusal=refusal)

    def watch(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Show how far a run is; a post cancels it."""
        rows = TrainingRun.objects.with_result().select_related("dataset", "version")
        run = get_object_or_404(rows, pk=pk)
        if request.method == "POST":
            runs.cancel_run(run=run, by=user_of(request))
            return redirect("admin:training_trainingrun_watch", pk)
        self._require_view(request)
        going = run.status in (TrainingRun.Status.QUEUED, TrainingRun.Status.RUNNING)
        button = "Cancel this run" if going and request.user.has_perm(runs.RUN_PERMISSION) else ""
        result = self.result(run) if run.status == TrainingRun.Status.SUCCEEDED else ""
        return page(request, str(run), run=run, going=going, button=button, refusal=run.error, result=result)

    def _require_view(self, request: HttpRequest) -> None:
        if not self.has_view_permission(request):
            raise PermissionDenied

    def progress(self, request: HttpRequest, pk: int) -> JsonResponse:
        """Say how far a run is, for the page's script."""
        self._require_view(request)
        run = get_object_or_404(TrainingRun, pk=pk)
        return JsonResponse(
            {
                "status": run.status,
                "status_display": run.get_status_display(),
                "step": run.step,
                "share": run.share,
            }
        )

    @admin.display(description="result")
    def brief_result(self, run: Any) -> SafeString | str:
        """Say in a list row what a run produced."""
        if run.status != TrainingRun.Status.SUCCEEDED:
            return "–"
        figure = _figure(run.metrics.get("mean", {}).get("roc_auc"))
        if run.version is None:
            return format_html("reference<br>ROC-AUC {}", figure)
        champion = _figure((run.champion_metrics or {}).get("mean", {}).get("roc_auc"))
        return format_html(
            "{}<br>ROC-AUC {}<br>(champion v{}: {})<br>{}",
            link("registry_modelversion_change", f"Model version {run.version}", run.version_id),
            figure,
            run.champion_number,
            champion,
            self._gates(run),
        )

    @admin.display(description="result")
    def result(self, run: Any) -> SafeString | str:
        """Say what a run produced: the version, its main figures beside the champion's, and its gates."""
        if run.status != TrainingRun.Status.SUCCEEDED:
            return "–"
        metrics, champion = (found.get("mean", {}) for found in (run.metrics, run.champion_metrics or {}))
        is_champion = run.version is not None and run.version.number == run.champion_number
        figures = ", ".join(
            f"{name} {_figure(metrics.get(key))}"
            + ("" if is_champion else f" (champion v{run.champion_number}: {_figure(champion.get(key))})")
            for name, key in (("ROC-AUC", "roc_auc"), ("PR-AUC", "pr_auc"), ("calibration error", "ece"))
        )
        if run.version is None:
            return format_html("A reference for comparison, no model version.<br>Mean {}.", figures)
        return format_html(
            "{}{}<br>Mean {}, each on the held-out rows of its own data set.<br>{}",
            link("registry_modelversion_change", f"Model version {run.version}", run.version_id),
            ", the champion" if is_champion else "",
            figures,
            self._gates(run),
        )

    def _gates(self, run: Any) -> SafeString | str:
        if run.gates is None:
            return "Gates: not measured yet"
        text = f"Gates: {summarize(run.gates)}"
        return link("training_gatereport_changelist", text, version__id__exact=run.version_id)

    @admin.display(description="MLflow run")
    def mlflow_run(self, run: TrainingRun) -> SafeString | str:
        # What an outage kept from MLflow was published with the version.
        return run_link(run.mlflow_run_id or (run.version.mlflow_run_id if run.version else ""))

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


@admin.register(GateReport)
class GateReportAdmin(ReadOnlyAdmin):
    list_display = ("__str__", "champion", "dataset", "created_at")
    list_select_related = ("version", "champion", "dataset")
    fields = ("version_link", "champion", "dataset", "created_at", "gates_table")

    @admin.display(description="version")
    def version_link(self, report: GateReport) -> SafeString:
        return link("registry_modelversion_change", str(report.version), report.version_id)

    @admin.display(description="gates")
    def gates_table(self, report: GateReport) -> SafeString:
        return gates_table(report.gates)
