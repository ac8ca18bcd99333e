"""Comments that were sent to the `moderate` API, and their authors."""

from datetime import datetime
from typing import TYPE_CHECKING, Any

from django.db import models
from django.db.models import Q
from django.utils import timezone

from apps.core.models import AppendOnly
from apps.moderation.models.policies import Policy
from apps.predictions.models import Prediction

if TYPE_CHECKING:
    from apps.moderation.models.decisions import Decision


class Author(models.Model):
    """The author of comments, identified by the platform's own reference."""

    community = models.CharField(max_length=100, blank=True)
    ref = models.CharField("reference", max_length=200)
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ("community", "ref")
        constraints = [models.UniqueConstraint(fields=["community", "ref"], name="moderation_one_author")]

    def __str__(self) -> str:
        return self.ref

    def active_strikes(self, now: datetime | None = None) -> int:
        """Return the sum of the strikes that have neither expired nor been lifted."""
        return self.strikes.active(now).points()


class Submission(AppendOnly):
    """One `moderate` call: the comment's circumstances and the outcome of the policy.

    A comment that was only scored gets a submission when it is queued for active learning; its outcome is
    `NOT_MODERATED`.
    """

    class Outcome(models.TextChoices):
        APPROVE = "approve", "Approved"
        REJECT = "reject", "Rejected"
        HUMAN_REVIEW = "human_review", "Waits for a moderator"
        NOT_MODERATED = "not_moderated", "Scored only, not moderated"

    prediction = models.OneToOneField(
        Prediction, primary_key=True, on_delete=models.PROTECT, related_name="+"
    )
    api_key = models.ForeignKey(
        "accounts.APIKey", verbose_name="API key", null=True, on_delete=models.PROTECT, related_name="+"
    )
    external_id = models.CharField("External ID", max_length=200, blank=True)
    retry_key = models.CharField(
        max_length=64,
        null=True,
        unique=True,
        editable=False,
        help_text="Hash of external ID, comment and day, for external IDs that several comments may share.",
    )
    revision = models.PositiveIntegerField(
        default=1, help_text="Increases when the platform sends an edited comment with the same external ID."
    )
    previous = models.OneToOneField(
        "self",
        verbose_name="previous revision",
        null=True,
        on_delete=models.PROTECT,
        related_name="next",
        help_text="The comment before it was edited.",
    )
    session_id = models.CharField(
        "session ID", max_length=200, blank=True, help_text="The session that a Perspective client named."
    )
    community = models.CharField(max_length=100, blank=True)
    author = models.ForeignKey(Author, null=True, on_delete=models.PROTECT)
    context: Any = models.JSONField(
        default=dict, help_text="The comment's parent and page, as the platform sent them."
    )
    callback_url = models.URLField(max_length=500, blank=True)
    policy = models.ForeignKey(Policy, on_delete=models.PROTECT, related_name="+")
    outcome = models.CharField(max_length=13, choices=Outcome)
    reasons: Any = models.JSONField(
        default=list, help_text="The rules that were met, with probability and threshold."
    )
    is_example = models.BooleanField(default=False)
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ("-pk",)
        constraints = [
            models.UniqueConstraint(
                fields=["api_key", "external_id", "revision"],
                condition=~Q(external_id="") & Q(api_key__isnull=False, retry_key__isnull=True),
                name="moderation_one_submission_per_external_id",
                violation_error_message="This external ID of this API key has been used already.",
            ),
            models.UniqueConstraint(
                fields=["external_id", "revision"],
                condition=~Q(external_id="") & Q(api_key__isnull=True, retry_key__isnull=True),
                name="moderation_one_anonymous_submission",
                violation_error_message="This external ID has been used already.",
            ),
        ]
        indexes = [
            models.Index(fields=["community", "-prediction"], name="moderation_by_community"),
            models.Index(fields=["author", "-prediction"], name="moderation_by_author"),
            models.Index(
                fields=["external_id"], condition=~Q(external_id=""), name="moderation_by_external_id"
            ),
            models.Index(fields=["session_id"], condition=~Q(session_id=""), name="moderation_by_session_id"),
        ]

    def __str__(self) -> str:
        return f"{self.external_id or self.pk}: {self.outcome}"

    @property
    def text(self) -> str:
        """The comment."""
        return self.prediction.text or ""

    @property
    def is_replaced(self) -> bool:
        """Whether the comment has been edited since: a newer revision is moderated instead."""
        return Submission.objects.filter(previous=self.pk).exists()

    @property
    def is_appealed(self) -> bool:
        """Whether the author has appealed a decision on the comment, whatever became of the appeal."""
        return self.items.filter(kind="appeal").exists()

    @property
    def previous_text(self) -> str:
        """The comment before it was edited; empty if there is none, or if it was in another community."""
        if self.previous is None or self.previous.community != self.community:
            return ""
        return self.previous.text

    @property
    def is_language_unscored(self) -> bool:
        """Whether the policy held the comment because the model does not score its language."""
        return bool(self.reasons) and not self.reasons[0]["label"]

    @property
    def confidence(self) -> float:
        """The calibrated probability that the outcome is right; 0 if the language is not scored."""
        if self.reasons:
            return self.reasons[0]["probability"]
        return 1 - max(self.prediction.probabilities.values())

    def current_decision(self) -> "Decision | None":
        """Return the decision in force."""
        return self.decisions.in_force().order_by("-pk").first()
