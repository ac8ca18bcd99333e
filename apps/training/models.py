"""Data sets, training runs, gate reports and shadow scores."""

from datetime import timedelta
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import models
from django.utils import timezone

from apps.core.models import AppendOnly, AppendOnlyQuerySet
from apps.registry.models import Alias, ModelVersion

REPORT_VALIDITY = timedelta(days=1)


class DatasetQuerySet(models.QuerySet["Dataset"]):
    """Queries of data sets by name and age."""

    def named(self, name: str) -> "Dataset | None":
        """Return a data set by `name` (its newest version) or `name:version`, or None."""
        name, _, version = name.partition(":")
        versions = self.filter(name=name).order_by("-version")
        if version:
            return versions.filter(version=version).first() if version.isdecimal() else None
        return versions.first()

    def newest(self) -> "Dataset | None":
        """Return the data set that was created last, or None."""
        return self.order_by("-created_at", "-pk").first()


class Dataset(models.Model):
    """Labelled comments, stored once and never changed: a Parquet file with the Jigsaw data's columns."""

    name = models.CharField(max_length=100)
    version = models.PositiveIntegerField(help_text="Consecutive for each name, from 1.")
    sha256 = models.CharField(
        "SHA-256", max_length=64, help_text="Of the rows, independent of the file format."
    )
    source = models.CharField(max_length=500, help_text="Origin of the rows.")
    licence = models.CharField(
        max_length=200, blank=True, help_text="Stated in the cards of models trained on it."
    )
    rows = models.PositiveIntegerField()
    positives = models.JSONField(help_text="Number of rows with each label.")
    labelled = models.PositiveIntegerField(help_text="Number of rows with any label.")
    natural_rate = models.FloatField(
        null=True,
        help_text="Rate of labelled rows in the traffic; empty if the rows have this rate.",
    )
    report = models.JSONField(default=dict, help_text="Rows that were left out, by problem.")
    is_built = models.BooleanField(default=False, help_text="Built from decisions and feedback.")
    created_at = models.DateTimeField(default=timezone.now)

    objects = DatasetQuerySet.as_manager()

    class Meta:
        ordering = ("-created_at", "-pk")
        verbose_name = "data set"
        constraints = [
            models.UniqueConstraint(fields=["name", "version"], name="training_dataset_version"),
            models.UniqueConstraint(fields=["name", "sha256"], name="training_dataset_once"),
            models.CheckConstraint(
                condition=models.Q(natural_rate=None) | models.Q(natural_rate__gt=0, natural_rate__lt=1),
                name="training_dataset_natural_rate",
                violation_error_message="The natural rate must be above 0 and below 1.",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.name} v{self.version}"

    @property
    def clean_weight(self) -> float:
        """The weight of a row without labels, so that labelled rows have their natural rate."""
        clean = self.rows - self.labelled
        if self.natural_rate is None or not clean:
            return 1.0
        return self.labelled * (1 - self.natural_rate) / (self.natural_rate * clean)

    @property
    def path(self) -> Path:
        """The Parquet file."""
        return settings.DATA_DIR / "datasets" / f"{self.sha256}.parquet"


class TrainingRunQuerySet(models.QuerySet["TrainingRun"]):
    """Queries of training runs by state, and their results."""

    def running(self) -> "TrainingRunQuerySet":
        """Return the run that is being trained, if any."""
        return self.filter(status=TrainingRun.Status.RUNNING)

    def unfinished(self) -> "TrainingRunQuerySet":
        """Return the queued and running runs."""
        return self.filter(status__in=TrainingRun.UNFINISHED)

    def with_result(self) -> "TrainingRunQuerySet":
        """Add `gates`, the version's newest gate report, and the champion's number and metrics."""
        reports = GateReport.objects.filter(version=models.OuterRef("version")).order_by("-created_at", "-pk")
        champion = ModelVersion.objects.filter(alias=Alias.CHAMPION)
        return self.annotate(
            gates=models.Subquery(reports.values("gates")[:1]),
            champion_number=models.Subquery(champion.values("number")[:1]),
            champion_metrics=models.Subquery(champion.values("metrics")[:1]),
        )


class TrainingRun(models.Model):
    """One training of one recipe on one data set."""

    class Status(models.TextChoices):
        QUEUED = "queued", "Queued"
        RUNNING = "running", "Running"
        SUCCEEDED = "succeeded", "Succeeded"
        FAILED = "failed", "Failed"
        CANCELLED = "cancelled", "Cancelled"

    UNFINISHED = (Status.QUEUED, Status.RUNNING)

    dataset = models.ForeignKey(Dataset, on_delete=models.PROTECT, verbose_name="data set")
    recipe = models.CharField(max_length=20)
    seed = models.PositiveIntegerField(default=0)
    status = models.CharField(max_length=10, choices=Status, default=Status.QUEUED)
    step = models.CharField(max_length=100, blank=True, help_text="The current step.")
    progress = models.FloatField(default=0, help_text="From 0 to 1.")
    heartbeat_at = models.DateTimeField(
        null=True, help_text="Last sign of life of its worker; a run without one is marked as failed."
    )
    retry_of = models.OneToOneField(
        "self",
        null=True,
        on_delete=models.PROTECT,
        related_name="retry",
        help_text="The run whose worker was lost.",
    )
    interruptions = models.PositiveIntegerField(
        default=0, help_text="How often the run was stopped and queued again."
    )
    error = models.TextField(blank=True)
    metrics = models.JSONField(default=dict, help_text="On the held-out rows, by label.")
    git_commit = models.CharField(max_length=40, blank=True)
    seconds = models.FloatField("Training seconds", null=True, help_text="Of the last fit.")
    peak_memory_mb = models.FloatField("Peak memory (MB)", null=True)
    mlflow_run_id = models.CharField("MLflow run", max_length=64, blank=True)
    version = models.ForeignKey(
        "registry.ModelVersion",
        null=True,
        on_delete=models.PROTECT,
        related_name="+",
        verbose_name="model version",
    )
    created_by = models.ForeignKey("accounts.User", null=True, on_delete=models.PROTECT, related_name="+")
    trigger = models.CharField(
        max_length=150,
        null=True,
        unique=True,
        help_text="The event that requested the run; empty if a person did.",
    )
    created_at = models.DateTimeField(default=timezone.now)
    finished_at = models.DateTimeField(null=True)

    objects = TrainingRunQuerySet.as_manager()

    class Meta:
        ordering = ("-created_at", "-pk")
        constraints = [
            # This is the lock of training. Unlike a lease it needs no worker or broker to be released.
            models.UniqueConstraint(
                fields=["status"],
                condition=models.Q(status="running"),
                name="training_one_run_at_a_time",
                violation_error_message="Another training run is running.",
            )
        ]

    def __str__(self) -> str:
        return f"{self.recipe} on {self.dataset} (run {self.pk})"


class GateReportQuerySet(AppendOnlyQuerySet):
    """Queries of gate reports."""

    def current(self, version: ModelVersion) -> "GateReport | None":
        """Return the version's newest report, or None if it is about another champion, data set or day."""
        since = timezone.now() - REPORT_VALIDITY
        report: Any = self.filter(version=version, created_at__gte=since).first()
        if report is None or report.champion != ModelVersion.objects.with_alias(Alias.CHAMPION):
            return None
        return report if report.dataset == Dataset.objects.newest() else None


class GateReport(AppendOnly):
    """The measured gates of a version, against the champion at the time."""

    version = models.ForeignKey("registry.ModelVersion", on_delete=models.PROTECT, related_name="+")
    champion = models.ForeignKey(
        "registry.ModelVersion", null=True, on_delete=models.PROTECT, related_name="+"
    )
    dataset = models.ForeignKey(Dataset, null=True, on_delete=models.PROTECT, related_name="+")
    gates: Any = models.JSONField(help_text="Each gate with its figure, its bound and whether it passed.")
    created_at = models.DateTimeField(default=timezone.now)

    objects = GateReportQuerySet.as_manager()  # type: ignore[misc]

    class Meta:
        ordering = ("-created_at", "-pk")

    def __str__(self) -> str:
        return f"Gates of {self.version} (report {self.pk})"


class ShadowScore(models.Model):
    """The scores of a challenger for a comment that the champion has scored."""

    prediction = models.ForeignKey("predictions.Prediction", on_delete=models.CASCADE, related_name="+")
    version = models.ForeignKey("registry.ModelVersion", on_delete=models.PROTECT, related_name="+")
    toxic = models.FloatField()
    severe_toxic = models.FloatField()
    obscene = models.FloatField()
    threat = models.FloatField()
    insult = models.FloatField()
    identity_hate = models.FloatField()
    label_mask = models.PositiveSmallIntegerField(help_text="The labels whose threshold was reached.")
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ("-pk",)
        constraints = [
            models.UniqueConstraint(fields=["version", "prediction"], name="training_one_shadow_score")
        ]

    def __str__(self) -> str:
        return f"{self.prediction_id} by {self.version}"
