"""Reference distributions for drift detection, and the results of the domain classifier."""

from typing import Any

from django.db import models
from django.utils import timezone

from apps.classifier.labels import LABELS
from apps.monitoring.models.fields import ArrayField
from apps.monitoring.models.rollups import LENGTH_EDGES, SCORE_BINS


class Baseline(models.Model):
    """A model version's reference distributions: its scores on held-out rows, and its bias audit.

    The arrays have the meaning and the bins that they have in `HourlyRollup`.
    """

    version = models.OneToOneField("registry.ModelVersion", primary_key=True, on_delete=models.CASCADE)
    dataset = models.CharField(
        max_length=120,
        blank=True,
        help_text="Name and version of the data set. Empty if its file is not on the worker's machine.",
    )
    rows = models.PositiveIntegerField(default=0)
    bias: Any = models.JSONField(
        default=dict, help_text="Subgroup, BPSN and BNSP AUC of the label toxic, by identity group."
    )
    flagged = ArrayField(shape=(len(LABELS),), grows=True)
    scores = ArrayField(shape=(len(LABELS), SCORE_BINS), grows=True)
    lengths = ArrayField(shape=(len(LENGTH_EDGES) - 1,))
    ngrams = ArrayField(shape=(2,))
    created_at = models.DateTimeField(default=timezone.now)

    def __str__(self) -> str:
        return f"{self.version} on {self.dataset}"


class DomainCheck(models.Model):
    """How well a classifier distinguishes last week's comments from a baseline, and the changed phrases."""

    version = models.ForeignKey("registry.ModelVersion", on_delete=models.CASCADE, related_name="+")
    baseline_name = models.CharField(max_length=200, help_text="Source of the texts that it compares with.")
    comments = models.PositiveIntegerField(help_text="Number of last week's comments.")
    auc = models.FloatField("ROC-AUC")
    low = models.FloatField(help_text="Lower end of the 95% interval.")
    high = models.FloatField(help_text="Upper end of the 95% interval.")
    phrases: Any = models.JSONField(
        help_text="Word or pair of words, fraction of comments before and after, strength of the change."
    )
    created_at = models.DateTimeField(default=timezone.now, db_index=True)

    class Meta:
        ordering = ("-created_at", "-pk")

    def __str__(self) -> str:
        return f"{self.version} {self.created_at:%Y-%m-%d}: {self.auc:.3f}"
