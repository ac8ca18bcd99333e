"""Model versions, their artifacts and the record of who promoted what, and why."""

from typing import Any

from django.db import models
from django.utils import timezone

from apps.classifier.artifact import Artifact
from apps.core.models import AppendOnly, AppendOnlyQuerySet

MAX_SHARE = 0.5


class Alias(models.TextChoices):
    """The role of a version; the same names are MLflow's model aliases."""

    CHAMPION = "champion", "Champion: serves the requests"
    CHALLENGER = "challenger", "Challenger: trained, waiting to be promoted"
    PREVIOUS = "previous", "Previous: the champion before, one command away"
    CANARY = "canary", "Canary: serves a share of the requests, on trial"


class ModelVersionQuerySet(models.QuerySet["ModelVersion"]):
    def with_alias(self, alias: Alias) -> "ModelVersion | None":
        """Return the version that holds the alias, or None."""
        return self.filter(alias=alias).first()

    def named(self, name: str) -> "ModelVersion | None":
        """Return a version by number (`3` or `v3`) or alias (`champion`), or None."""
        number = name.lower().removeprefix("v")
        return self.filter(models.Q(number=number) if number.isdecimal() else models.Q(alias=name)).first()


class ModelVersion(models.Model):
    """A trained model: its measured figures and where it came from. The bytes are in `ModelArtifact`."""

    number = models.PositiveIntegerField(unique=True, help_text="Counts up from 1.")
    alias = models.CharField(max_length=10, choices=Alias, null=True, blank=True)
    share = models.FloatField(null=True, blank=True, help_text="Of the requests that a canary serves.")
    recipe = models.CharField(max_length=20)
    sha256 = models.CharField(
        "SHA-256", max_length=64, help_text="Of the manifest, which holds the weights' own."
    )
    manifest = models.JSONField()
    metrics = models.JSONField(default=dict)
    card = models.TextField(blank=True, help_text="The model card, Markdown.")
    mlflow_run_id = models.CharField("MLflow run", max_length=64, blank=True)
    mlflow_version = models.CharField("MLflow version", max_length=16, blank=True)
    created_at = models.DateTimeField(default=timezone.now)

    objects = ModelVersionQuerySet.as_manager()

    class Meta:
        ordering = ("-number",)
        permissions = [("override_gates", "Can promote a version although a gate fails")]
        constraints = [
            models.UniqueConstraint(
                fields=["alias"],
                condition=models.Q(alias__isnull=False),
                name="registry_one_version_per_alias",
                violation_error_message="Another version has this role already.",
            ),
            models.CheckConstraint(
                condition=models.Q(alias="canary", share__isnull=False, share__gt=0, share__lte=MAX_SHARE)
                | (models.Q(share=None) & (models.Q(alias=None) | ~models.Q(alias="canary"))),
                name="registry_a_canary_has_a_share",
                violation_error_message="A canary needs a share above 0 and at most a half; other "
                "versions have none.",
            ),
        ]

    def __str__(self) -> str:
        return f"v{self.number}"

    @property
    def thresholds(self) -> dict[str, float]:
        """The probability from which each label counts as given."""
        return self.manifest["thresholds"]


class StoredArtifact(models.Model):
    """The bytes of an artifact, in the database so that any host can load them with nothing else up."""

    version = models.OneToOneField(ModelVersion, on_delete=models.CASCADE, primary_key=True)
    manifest = models.BinaryField()
    weights = models.BinaryField()

    class Meta:
        abstract = True

    def __str__(self) -> str:
        return f"Artifact of {self.version}"

    def artifact(self) -> Artifact:
        """Return the stored bytes as the classifier's artifact."""
        return Artifact(manifest=bytes(self.manifest), weights=bytes(self.weights))


class ModelArtifact(StoredArtifact):
    """What a version serves with."""


class EvaluationArtifact(StoredArtifact):
    """The version's twin, fitted without the held-out rows, on which it stands in for the version."""


class Promotion(AppendOnly):
    """A version became champion: by whom, why, and in whose place."""

    class Kind(models.TextChoices):
        INSTALL = "install", "Installed as the first champion"
        PROMOTE = "promote", "Promoted"
        ROLLBACK = "rollback", "Rolled back"

    kind = models.CharField(max_length=10, choices=Kind)
    version = models.ForeignKey(ModelVersion, on_delete=models.PROTECT)
    replaced = models.ForeignKey(ModelVersion, null=True, on_delete=models.PROTECT, related_name="+")
    by = models.ForeignKey("accounts.User", null=True, on_delete=models.PROTECT, related_name="+")
    actor = models.CharField(max_length=150, help_text="The user's name, or the account of the command line.")
    reason = models.TextField()
    forced = models.BooleanField(default=False, help_text="Promoted although a gate failed.")
    gates: Any = models.JSONField(default=list, help_text="Each gate with its figure, bound and verdict.")
    created_at = models.DateTimeField(default=timezone.now, db_index=True)

    class Meta:
        ordering = ("-created_at", "-pk")

    def __str__(self) -> str:
        return f"{self.version} {self.kind}"


class CanaryQuerySet(AppendOnlyQuerySet):
    def running(self) -> "Canary | None":
        """Return the canary that has not ended, or None."""
        running: Any = self.filter(end=None).select_related("version", "champion").first()
        return running


class Canary(AppendOnly):
    """A version began to serve a share of the requests, on trial: by whom and why."""

    version = models.ForeignKey(ModelVersion, on_delete=models.PROTECT, related_name="+")
    champion = models.ForeignKey(ModelVersion, on_delete=models.PROTECT, related_name="+")
    share = models.FloatField(help_text="Of the requests.")
    by = models.ForeignKey("accounts.User", null=True, on_delete=models.PROTECT, related_name="+")
    actor = models.CharField(max_length=150, help_text="The user's name, or the account of the command line.")
    reason = models.TextField()
    forced = models.BooleanField(default=False, help_text="Begun although a gate failed.")
    gates: Any = models.JSONField(default=list, help_text="Each gate with its figure, bound and verdict.")
    created_at = models.DateTimeField(default=timezone.now)

    objects = CanaryQuerySet.as_manager()  # type: ignore[misc]

    class Meta:
        ordering = ("-created_at", "-pk")
        verbose_name_plural = "canaries"

    def __str__(self) -> str:
        return f"{self.version} as canary"


class CanaryEnd(AppendOnly):
    """A canary ended: how, by whom and why."""

    class Outcome(models.TextChoices):
        COMPLETED = "completed", "Completed: promoted to champion"
        FINISHED = "finished", "Finished: waits for a person to promote it"
        ROLLED_BACK = "rolled_back", "Rolled back: it left a band"
        WITHDRAWN = "withdrawn", "Withdrawn"

    canary = models.OneToOneField(Canary, on_delete=models.PROTECT, related_name="end")
    outcome = models.CharField(max_length=11, choices=Outcome)
    by = models.ForeignKey("accounts.User", null=True, on_delete=models.PROTECT, related_name="+")
    actor = models.CharField(max_length=150)
    reason = models.TextField()
    bands: Any = models.JSONField(default=list, help_text="Each band with its figure, bound and verdict.")
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ("-created_at", "-pk")

    def __str__(self) -> str:
        return f"{self.canary}: {self.outcome}"


class CanaryFailure(AppendOnly):
    """A canary could not be loaded or could not score; the champion answered in its place."""

    version = models.ForeignKey(ModelVersion, on_delete=models.PROTECT, related_name="+")
    error = models.CharField(max_length=100, help_text="The kind of error; comments may be in its message.")
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ("-created_at", "-pk")

    def __str__(self) -> str:
        return f"{self.version}: {self.error}"
