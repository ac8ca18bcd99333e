"""Decisions and their consequences: strikes and appeals."""

from datetime import datetime

from django.db import models
from django.db.models import OuterRef, Q, Subquery
from django.utils import timezone

from apps.accounts.models import User
from apps.core.models import AppendOnly, AppendOnlyQuerySet
from apps.moderation.models.policies import Policy, PolicyRule
from apps.moderation.models.queue import QueueItem
from apps.moderation.models.submissions import Author, Submission
from apps.predictions.models import unpack_labels


class DecisionQuerySet(AppendOnlyQuerySet):
    """Queries of decisions: which of them are in force, and who made them."""

    def effective(self) -> "DecisionQuerySet":
        """Return the decisions that are neither reversals nor reversed."""
        return self.filter(reverses=None, reversal=None)

    def human(self) -> "DecisionQuerySet":
        """Return the decisions of moderators."""
        return self.filter(automatic=False)

    def in_force(self) -> "DecisionQuerySet":
        """Return the approvals and rejections that are not reversed, except those of blind second reviews.

        The newest one is a comment's current decision.
        """
        verdicts = (Decision.Action.APPROVE, Decision.Action.REJECT)
        return self.filter(action__in=verdicts, reversal=None).exclude(item__kind=QueueItem.Kind.SECOND)

    def with_state(self) -> "DecisionQuerySet":
        """Add `open_item`, the comment's open queue item, and `superseded_by`, the action decided later."""
        items = QueueItem.objects.open().filter(submission=OuterRef("submission"))
        newer = Decision.objects.filter(submission=OuterRef("submission"), pk__gt=OuterRef("pk")).in_force()
        return self.annotate(
            open_item=Subquery(items.exclude(kind=QueueItem.Kind.SECOND).order_by("pk").values("pk")[:1]),
            superseded_by=Subquery(newer.order_by("-pk").values("action")[:1]),
        )


class Decision(AppendOnly):
    """A decision on a comment, with its grounds. An undo appends a decision that reverses another one."""

    class Action(models.TextChoices):
        APPROVE = "approve", "Approve"
        REJECT = "reject", "Reject"
        ESCALATE = "escalate", "Escalate"
        REVERSE = "reverse", "Reverse"

    submission = models.ForeignKey(Submission, on_delete=models.PROTECT, related_name="decisions")
    item = models.ForeignKey(
        QueueItem, null=True, on_delete=models.PROTECT, related_name="decisions", db_index=False
    )
    item_version = models.PositiveIntegerField(null=True, help_text="The item's version that was decided on.")
    author = models.ForeignKey(Author, null=True, on_delete=models.PROTECT, related_name="+", db_index=False)
    action = models.CharField(max_length=8, choices=Action)
    reverses = models.OneToOneField(
        "self",
        null=True,
        on_delete=models.PROTECT,
        related_name="reversal",
        help_text="The decision that this one undoes.",
    )
    corrected_mask = models.PositiveSmallIntegerField(
        null=True, help_text="The labels that apply, according to the moderator."
    )
    rule = models.ForeignKey(
        PolicyRule, null=True, on_delete=models.PROTECT, related_name="+", db_index=False
    )
    note = models.TextField(blank=True, max_length=2_000, help_text="For moderators, never sent.")
    model_version = models.ForeignKey("registry.ModelVersion", on_delete=models.PROTECT, related_name="+")
    policy = models.ForeignKey(Policy, on_delete=models.PROTECT, related_name="+")
    seconds = models.FloatField(null=True, help_text="From claim to decision.")
    automatic = models.BooleanField(default=False)
    by = models.ForeignKey(User, null=True, on_delete=models.PROTECT, related_name="+", db_index=False)
    api_key = models.ForeignKey(
        "accounts.APIKey",
        verbose_name="API key",
        null=True,
        on_delete=models.PROTECT,
        related_name="+",
        help_text="The API key of the request.",
    )
    job = models.ForeignKey(
        "BulkJob", null=True, on_delete=models.PROTECT, related_name="decisions", db_index=False
    )
    applied_from = models.ForeignKey(
        "self",
        null=True,
        on_delete=models.PROTECT,
        related_name="applied",
        help_text="The decision on a similar comment that was applied to this one as well.",
    )
    created_at = models.DateTimeField(default=timezone.now)

    objects = DecisionQuerySet.as_manager()  # type: ignore[misc]

    class Meta:
        ordering = ("-pk",)
        permissions = [("export_decision", "Can export decisions")]
        constraints = [
            models.UniqueConstraint(
                fields=["item", "item_version"],
                condition=Q(item__isnull=False) & ~Q(action="reverse"),
                name="moderation_one_decision_per_version",
                violation_error_message="This version of the item has been decided already.",
            ),
            models.CheckConstraint(
                condition=Q(automatic=True, by__isnull=True, item__isnull=True)
                | Q(automatic=False, by__isnull=False, item__isnull=False, item_version__isnull=False),
                name="moderation_decision_has_actor",
                violation_error_message="A decision is either automatic or made by a user on an item.",
            ),
            models.CheckConstraint(
                condition=Q(action="reverse", reverses__isnull=False)
                | (~Q(action="reverse") & Q(reverses__isnull=True)),
                name="moderation_reversal_has_decision",
                violation_error_message="A reversal, and no other decision, names the decision that "
                "it reverses.",
            ),
        ]
        indexes = [
            models.Index(
                fields=["author", "-id"], condition=Q(author__isnull=False), name="moderation_dec_author"
            ),
            models.Index(
                fields=["by", "-created_at"], condition=Q(by__isnull=False), name="moderation_dec_by"
            ),
            models.Index(fields=["item", "-id"], condition=Q(item__isnull=False), name="moderation_dec_item"),
            models.Index(fields=["-id"], condition=Q(automatic=False), name="moderation_dec_human"),
            models.Index(fields=["job", "-id"], condition=Q(job__isnull=False), name="moderation_dec_job"),
            models.Index(fields=["created_at"], name="moderation_dec_created"),
            models.Index(
                fields=["-id"],
                condition=Q(automatic=True, action="reject"),
                name="moderation_dec_auto_reject",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.past_tense} by {self.actor}"

    @property
    def past_tense(self) -> str:
        """The action as a verb, such as `approved`."""
        # Keys are strings; an action that another release stored has its stored name.
        return _PAST_TENSE.get(self.action, self.action)  # type: ignore[call-overload]

    @property
    def noun(self) -> str:
        """The action as a noun, such as `approval`."""
        return _NOUNS.get(self.action, self.action)  # type: ignore[call-overload]

    @property
    def actor(self) -> str:
        """The user's name, or “policy” for an automatic decision."""
        return self.by.get_username() if self.by else "policy"

    @property
    def reason(self) -> str:
        """The explanation that the author gets."""
        return self.rule.reason if self.rule else ""

    @property
    def labels(self) -> dict[str, bool] | None:
        """The labels that the moderator set, or None if the moderator set none."""
        return None if self.corrected_mask is None else unpack_labels(self.corrected_mask)


_NOUNS = {
    Decision.Action.APPROVE: "approval",
    Decision.Action.REJECT: "rejection",
    Decision.Action.ESCALATE: "escalation",
}
_PAST_TENSE = {
    Decision.Action.APPROVE: "approved",
    Decision.Action.REJECT: "rejected",
    Decision.Action.ESCALATE: "escalated",
    Decision.Action.REVERSE: "reversed",
}


class AutomaticDecisionManager(models.Manager.from_queryset(DecisionQuerySet)):  # type: ignore[misc]
    """The manager of the proxy model `AutomaticDecision`."""

    def get_queryset(self) -> DecisionQuerySet:
        """Return the decisions that the policy made automatically."""
        return super().get_queryset().filter(automatic=True)


class AutomaticDecision(Decision):
    """An automatic decision of the policy, as the admin lists it."""

    objects = AutomaticDecisionManager()  # type: ignore[misc]

    class Meta:
        proxy = True
        # The permission to see decisions covers these rows.
        default_permissions = ()
        verbose_name = "automatic decision"


class StrikeQuerySet(models.QuerySet["Strike"]):
    """Queries of strikes that count against an author."""

    def active(self, now: datetime | None = None) -> "StrikeQuerySet":
        """Return the strikes that have neither expired nor been lifted."""
        return self.filter(lifted_at=None, expires_at__gt=now or timezone.now())

    def points(self) -> int:
        """Return the sum of the strikes' points."""
        return self.aggregate(sum=models.Sum("points"))["sum"] or 0


class Strike(models.Model):
    """A penalty that an author gets for a rejected comment."""

    author = models.ForeignKey(Author, on_delete=models.PROTECT, related_name="strikes", db_index=False)
    decision = models.OneToOneField(Decision, on_delete=models.PROTECT, related_name="+")
    points = models.PositiveSmallIntegerField()
    expires_at = models.DateTimeField()
    lifted_at = models.DateTimeField(null=True, help_text="When the decision was undone or overruled.")

    objects = StrikeQuerySet.as_manager()

    class Meta:
        ordering = ("-pk",)
        indexes = [
            models.Index(
                fields=["author", "expires_at"],
                condition=Q(lifted_at__isnull=True),
                name="moderation_strikes_active",
            )
        ]

    def __str__(self) -> str:
        return f"{self.points} for {self.author}"


class Appeal(models.Model):
    """An author's objection to a decision."""

    class Status(models.TextChoices):
        OPEN = "open", "Open"
        UPHELD = "upheld", "Upheld: the decision stands"
        OVERTURNED = "overturned", "Overturned"

    decision = models.OneToOneField(Decision, on_delete=models.PROTECT, related_name="appeal")
    item = models.OneToOneField(QueueItem, on_delete=models.PROTECT, related_name="appeal")
    text = models.TextField(max_length=5_000, blank=True, help_text="The author's statement.")
    status = models.CharField(max_length=10, choices=Status, default=Status.OPEN)
    outcome = models.OneToOneField(Decision, null=True, on_delete=models.PROTECT, related_name="+")
    created_at = models.DateTimeField(default=timezone.now)
    resolved_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ("-pk",)
        constraints = [
            models.CheckConstraint(
                condition=Q(status="open", outcome__isnull=True)
                | (~Q(status="open") & Q(outcome__isnull=False)),
                name="moderation_appeal_has_outcome",
                violation_error_message="An appeal that is not open, and no other, has an outcome.",
            )
        ]

    def __str__(self) -> str:
        return f"appeal of decision {self.decision_id}"
