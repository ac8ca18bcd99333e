"""Model versions, their artifacts and the record of promotions and canaries."""

from typing import Any

from django.db import models
from django.utils import timezone

from apps.classifier.artifact import Artifact
from apps.classifier.scorer import Scorer
from apps.core.models import AppendOnly, AppendOnlyQuerySet

MAX_SHARE = 0.5


class Alias(models.TextChoices):
    """The role of a version; the same names are MLflow's model aliases."""

    CHAMPION = "champion", "Champion: serves requests"
    CHALLENGER = "challenger", "Challenger: the candidate for promotion"
    PREVIOUS = "previous", "Previous: the former champion, for a rollback"
    CANARY = "canary", "Canary: serves a share of the requests"


class ModelVersionQuerySet(models.QuerySet["ModelVersion"]):
    """Queries of model versions by alias and name."""

    def with_alias(self, alias: Alias) -> "ModelVersion | None":
        """Return the version that holds the alias, or None."""
        return self.filter(alias=alias).first()

    def named(self, name: str) -> "ModelVersion | None":
        """Return a version by number (`3` or `v3`) or alias (`champion`), or None."""
        number = name.lower().removeprefix("v")
        return self.filter(models.Q(number=number) if number.isdecimal() else models.Q(alias=name)).first()


class ModelVersion(models.Model):
    """A trained model with its metrics and its origin. The weights are in `ModelArtifact`."""

    number = models.PositiveIntegerField(unique=True, help_text="Consecutive, from 1.")
    alias = models.CharField(max_length=10, choices=Alias, null=True, blank=True)
    share = models.FloatField(
        null=True, blank=True, help_text="The fraction of the requests that a canary serves."
    )
    recipe = models.CharField(max_length=20)
    sha256 = models.CharField(
        "SHA-256", max_length=64, help_text="Of the manifest, which contains the weights' SHA-256."
    )
    manifest = models.JSONField()
    metrics = models.JSONField(default=dict)
    card = models.TextField(blank=True, help_text="The model card, in Markdown.")
    mlflow_run_id = models.CharField("MLflow run", max_length=64, blank=True)
    mlflow_version = models.CharField("MLflow version", max_length=16, blank=True)
    created_at = models.DateTimeField(default=timezone.now)

    objects = ModelVersionQuerySet.as_manager()

    class Meta:
        ordering = ("-number",)
        permissions = [("override_gates", "Can override failed gates")]
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
        """The probability from which a comment has each label."""
        return self.manifest["thresholds"]

    def load_scorer(self) -> Scorer:
        """Load the model.

        Raises:
            ArtifactError: the stored artifact is damaged.
        """
        return Scorer.load(self.modelartifact.artifact(), expected_sha256=self.sha256)


class StoredArtifact(models.Model):
    """An artifact, stored in the database so that every host can load it without another service."""

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
    """The artifact that serves a version."""


class EvaluationArtifact(StoredArtifact):
    """The version's evaluation model: the same recipe fitted without the held-out rows, for the gates."""


class RoleChange(AppendOnly):
    """A change of a version's role, with actor and reason."""

    by = models.ForeignKey("accounts.User", null=True, on_delete=models.PROTECT, related_name="+")
    actor = models.CharField(max_length=150, help_text="The user name, or the name of the system actor.")
    reason = models.TextField()
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        abstract = True
        ordering = ("-created_at", "-pk")


class Promotion(RoleChange):
    """A change of the champion."""

    class Kind(models.TextChoices):
        INSTALL = "install", "Installed as the first champion"
        PROMOTE = "promote", "Promoted"
        ROLLBACK = "rollback", "Rolled back"

    kind = models.CharField(max_length=10, choices=Kind)
    version = models.ForeignKey(ModelVersion, on_delete=models.PROTECT)
    replaced = models.ForeignKey(ModelVersion, null=True, on_delete=models.PROTECT, related_name="+")
    forced = models.BooleanField(default=False, help_text="Promoted although a gate failed.")
    gates: Any = models.JSONField(default=list, help_text="Each gate with its figure, bound and result.")
    created_at = models.DateTimeField(default=timezone.now, db_index=True)

    def __str__(self) -> str:
        return f"{self.version} {self.kind}"


class CanaryQuerySet(AppendOnlyQuerySet):
    """Queries of canaries."""

    def running(self) -> "Canary | None":
        """Return the canary that has not ended, or None."""
        running: Any = self.filter(end=None).select_related("version", "champion").first()
        return running


class Canary(RoleChange):
    """The start of a canary: a version that serves a share of the requests."""

    version = models.ForeignKey(ModelVersion, on_delete=models.PROTECT, related_name="+")
    champion = models.ForeignKey(ModelVersion, on_delete=models.PROTECT, related_name="+")
    share = models.FloatField(help_text="The fraction of the requests.")
    forced = models.BooleanField(default=False, help_text="Started although a gate failed.")
    gates: Any = models.JSONField(default=list, help_text="Each gate with its figure, bound and result.")

    objects = CanaryQuerySet.as_manager()  # type: ignore[misc]

    class Meta(RoleChange.Meta):
        verbose_name_plural = "canaries"

    def __str__(self) -> str:
        return f"{self.version} as canary"


class CanaryEnd(RoleChange):
    """The end of a canary."""

    class Outcome(models.TextChoices):
        COMPLETED = "completed", "Promoted to champion"
        FINISHED = "finished", "Finished"
        ROLLED_BACK = "rolled_back", "Rolled back"
        WITHDRAWN = "withdrawn", "Withdrawn"

    canary = models.OneToOneField(Canary, on_delete=models.PROTECT, related_name="end")
    outcome = models.CharField(max_length=11, choices=Outcome)
    guardrails: Any = models.JSONField(
        default=list, help_text="Each guardrail with its figure, bound and result."
    )

    def __str__(self) -> str:
        return f"{self.canary}: {self.outcome}"


class CanaryFailure(AppendOnly):
    """A canary that could not be loaded or could not score, so that the champion served the request."""

    version = models.ForeignKey(ModelVersion, on_delete=models.PROTECT, related_name="+")
    error = models.CharField(
        max_length=100, help_text="The class of the error; its message could contain a comment."
    )
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ("-created_at", "-pk")

    def __str__(self) -> str:
        return f"{self.version}: {self.error}"
