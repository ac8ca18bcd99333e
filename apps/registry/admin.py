"""Model versions, promotions and canaries in the admin, read-only."""

from collections.abc import Iterable, Mapping
from typing import Any

from django.contrib import admin
from django.urls import reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from apps.accounts.models import User
from apps.classifier.labels import LABELS
from apps.core.admin import ReadOnlyAdmin, link, viewer_display
from apps.registry import tracking
from apps.registry.actions import PROMOTE_PERMISSION
from apps.registry.gates import (
    Gate,
    failures_first,
    state_measurement,
    state_rule,
    state_verdict,
    summarize,
)
from apps.registry.models import Canary, CanaryEnd, CanaryFailure, ModelVersion, Promotion


def metrics_by_label_table(metrics: Mapping[str, Mapping[str, float | None]]) -> SafeString:
    """Return metrics as an HTML table: one row for each label, then the mean."""
    metrics = {name: metrics[name] for name in (*LABELS, "mean") if name in metrics}
    names = list(next(iter(metrics.values()), {}))
    head = format_html_join("", "<th>{}</th>", ((name,) for name in names))
    rows = (
        (label, format_html_join("", "<td>{}</td>", ((format_metric(row.get(name)),) for name in names)))
        for label, row in metrics.items()
    )
    body = format_html_join("", "<tr><th>{}</th>{}</tr>", rows)
    return _wide("Metrics", format_html("<table><tr><td></td>{}</tr>{}</table>", head, body))


def _wide(name: str, table: SafeString) -> SafeString:
    """Return the table in a container that the keyboard can scroll horizontally."""
    return format_html('<div class="wide" tabindex="0" role="group" aria-label="{}">{}</div>', name, table)


def format_metric(value: float | None) -> str:
    """Return a metric with four decimals, or a dash for None."""
    return "–" if value is None else f"{value:.4f}"


def run_link(run_id: str) -> SafeString | str:
    """Return a link to a run's page on the tracking server, or its id where there is no server."""
    url = tracking.run_url(run_id)
    return format_html('<a href="{}" rel="noreferrer">{}</a>', url, run_id) if url else run_id or "–"


class GatesAdmin(ReadOnlyAdmin):
    """Rows that record gates."""

    @admin.display(description="gates")
    def gates_table(self, row: Any) -> SafeString:
        return gates_table(row.gates)


class PromotionInline(admin.TabularInline):
    model = Promotion
    fk_name = "version"
    fields = readonly_fields = ("created_at", "kind", "replaced", "actor", "reason", "forced")
    extra = 0
    can_delete = False
    show_change_link = True

    def has_add_permission(self, request: Any, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: Any, obj: Any = None) -> bool:
        return False


@admin.register(ModelVersion)
class ModelVersionAdmin(ReadOnlyAdmin):
    list_display = ("__str__", "alias", "recipe", "mean_roc_auc", "mean_ece", "mlflow_version", "created_at")
    list_filter = ("alias", "recipe")
    fields = (
        "number", "alias", "share", "recipe", "created_at", "sha256", "runs", "gates", "predictions",
        "mlflow_run", "mlflow_version", "thresholds_table", "metrics_table", "card_text",
    )  # fmt: skip
    inlines = (PromotionInline,)
    change_list_template = "training/list.html"

    def changelist_view(self, request: Any, extra_context: dict[str, Any] | None = None) -> Any:
        pages = (("training_challenger", "The challenger"), ("training_roll_back", "Roll back"))
        may_promote = request.user.has_perm(PROMOTE_PERMISSION)
        tools = [(reverse(f"admin:{name}"), text) for name, text in pages] if may_promote else []
        return super().changelist_view(request, {"tools": tools} | (extra_context or {}))

    def get_queryset(self, request: Any) -> Any:
        return super().get_queryset(request).defer("manifest", "card")

    @admin.display(description="mean ROC-AUC")
    def mean_roc_auc(self, version: ModelVersion) -> str:
        return format_metric(version.metrics.get("mean", {}).get("roc_auc"))

    @admin.display(description="mean ECE")
    def mean_ece(self, version: ModelVersion) -> str:
        return format_metric(version.metrics.get("mean", {}).get("ece"))

    @admin.display(description="metrics on held-out rows")
    def metrics_table(self, version: ModelVersion) -> SafeString:
        return metrics_by_label_table(version.metrics)

    @admin.display(description="thresholds")
    def thresholds_table(self, version: ModelVersion) -> SafeString:
        return metrics_by_label_table({label: {"threshold": version.thresholds[label]} for label in LABELS})

    @admin.display(description="card")
    def card_text(self, version: ModelVersion) -> SafeString:
        return format_html("<pre>{}</pre>", version.card)

    @admin.display(description="MLflow run")
    def mlflow_run(self, version: ModelVersion) -> SafeString | str:
        return run_link(version.mlflow_run_id)

    # The apps of runs, gates and predictions import this app, so their pages are linked by URL name.
    @viewer_display(description="training run")
    def runs(self, version: ModelVersion, viewer: User) -> SafeString | str:
        return link(
            viewer, "training_trainingrun_changelist", "Run of this version", version__id__exact=version.pk
        )

    @viewer_display(description="gates")
    def gates(self, version: ModelVersion, viewer: User) -> SafeString | str:
        return link(
            viewer, "training_gatereport_changelist", "Gates of this version", version__id__exact=version.pk
        )

    @viewer_display(description="predictions")
    def predictions(self, version: ModelVersion, viewer: User) -> SafeString | str:
        return link(
            viewer,
            "predictions_prediction_changelist",
            "Predictions of this version",
            model_version__id__exact=version.pk,
        )


@admin.register(Promotion)
class PromotionAdmin(GatesAdmin):
    list_display = ("created_at", "kind", "version", "replaced", "actor", "forced", "reason")
    list_filter = ("kind", "forced")
    list_select_related = ("version", "replaced")
    fields = ("created_at", "kind", "version", "replaced", "by", "actor", "reason", "forced", "gates_table")


@admin.register(Canary)
class CanaryAdmin(GatesAdmin):
    list_display = ("created_at", "version", "share", "actor", "forced", "reason", "ended")
    list_select_related = ("version", "end")
    fields = (
        "created_at", "version", "champion", "share", "by", "actor", "reason", "forced", "ended",
        "gates_table",
    )  # fmt: skip

    @admin.display(description="ended")
    def ended(self, canary: Canary) -> str:
        end = getattr(canary, "end", None)
        return f"{end.get_outcome_display()}. {end.reason}" if end else "–"


@admin.register(CanaryEnd)
class CanaryEndAdmin(ReadOnlyAdmin):
    list_display = ("created_at", "canary", "outcome", "actor", "reason")
    list_filter = ("outcome",)
    list_select_related = ("canary__version",)
    fields = ("created_at", "canary", "outcome", "by", "actor", "reason", "guardrails_table")

    @admin.display(description="guardrails")
    def guardrails_table(self, end: CanaryEnd) -> SafeString:
        return gates_table(end.guardrails)


@admin.register(CanaryFailure)
class CanaryFailureAdmin(ReadOnlyAdmin):
    list_display = ("created_at", "version", "error")
    list_select_related = ("version",)


def gates_table(gates: Iterable[Gate]) -> SafeString:
    """Return a summary and an HTML table of gates, with the failed gates first."""
    gates = failures_first(gates)
    rows = (
        (
            state_verdict(gate),
            gate["name"],
            state_rule(gate),
            state_measurement(gate),
            state_verdict(gate),
        )
        for gate in gates
    )
    table = format_html(
        "<p><strong>{}.</strong></p>"
        "<table><tr><th>gate</th><th>rule</th><th>measured</th><th>verdict</th></tr>{}</table>",
        summarize(gates),
        format_html_join("", '<tr class="gate-{}"><th>{}</th><td>{}</td><td>{}</td><td>{}</td></tr>', rows),
    )
    return _wide("Gates", table)
