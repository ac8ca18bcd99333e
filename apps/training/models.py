"""Data sets and the runs that made models of them."""

from pathlib import Path

from django.conf import settings
from django.db import models
from django.utils import timezone


class DatasetQuerySet(models.QuerySet["Dataset"]):
    def newest(self, name: str) -> "Dataset | None":
        """Return the newest version of the named data set, or None."""
        return self.filter(name=name).order_by("-version").first()


class Dataset(models.Model):
    """Labelled comments, imported once and never changed: a Parquet file with the columns of the Jigsaw data."""

    name = models.CharField(max_length=100)
    version = models.PositiveIntegerField(help_text="Counts up from 1 for each name.")
    sha256 = models.CharField("SHA-256", max_length=64, help_text="Of the rows, whatever file they came from.")
    source = models.CharField(max_length=500, help_text="Where the rows came from.")
    rows = models.PositiveIntegerField()
    positives = models.JSONField(help_text="How many rows carry each label.")
    report = models.JSONField(default=dict, help_text="What was wrong with the rows that were left out.")
    created_at = models.DateTimeField(default=timezone.now)

    objects = DatasetQuerySet.as_manager()

    class Meta:
        ordering = ("-created_at", "-pk")
        constraints = [
            models.UniqueConstraint(fields=["name", "version"], name="training_dataset_version"),
            models.UniqueConstraint(fields=["name", "sha256"], name="training_dataset_once"),
        ]

    def __str__(self) -> str:
        return f"{self.name} v{self.version}"

    @property
    def path(self) -> Path:
        """The Parquet file."""
        return settings.DATA_DIR / "datasets" / f"{self.sha256}.parquet"


class TrainingRun(models.Model):
    """One fit of one recipe on one data set."""

    class Status(models.TextChoices):
        QUEUED = "queued", "Queued"
        RUNNING = "running", "Running"
        SUCCEEDED = "succeeded", "Succeeded"
        FAILED = "failed", "Failed"

    dataset = models.ForeignKey(Dataset, on_delete=models.PROTECT)
    recipe = models.CharField(max_length=20)
    seed = models.PositiveIntegerField(default=0)
    status = models.CharField(max_length=10, choices=Status, default=Status.QUEUED)
    step = models.CharField(max_length=100, blank=True, help_text="What it is doing.")
    error = models.TextField(blank=True)
    metrics = models.JSONField(default=dict)
    git_commit = models.CharField(max_length=40, blank=True)
    seconds = models.FloatField(null=True)
    peak_memory_mb = models.FloatField("Peak memory (MB)", null=True)
    mlflow_run_id = models.CharField("MLflow run", max_length=64, blank=True)
    version = models.ForeignKey("registry.ModelVersion", null=True, on_delete=models.PROTECT, related_name="+")
    created_by = models.ForeignKey("accounts.User", null=True, on_delete=models.PROTECT, related_name="+")
    created_at = models.DateTimeField(default=timezone.now)
    finished_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ("-created_at", "-pk")

    def __str__(self) -> str:
        return f"{self.recipe} on {self.dataset}"
