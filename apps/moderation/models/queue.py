"""The moderation queue."""

from datetime import datetime
from typing import TYPE_CHECKING

from django.db import models
from django.db.models import Q
from django.utils import timezone

from apps.accounts.models import User
from apps.classifier.selection import Reason
from apps.core.models import AppendOnly
from apps.moderation.models.policies import LABEL_CHOICES, Policy, PolicyRule
from apps.moderation.models.submissions import Submission
from apps.predictions.models import Prediction

if TYPE_CHECKING:
    from apps.moderation.models.decisions import Decision

OPEN = Q(status="open")
# If all probabilities are below this value and the policy has no matching rule, no label is likely.
MIN_POSSIBLE = 0.2
# From this severity on, an item is urgent and counts towards a moderator's exposure limit.
MIN_SEVERE = 0.5


class Queue(models.TextChoices):
    """A category of the moderation queue; each is a saved view."""

    URGENT = "urgent", "Urgent"
    UNCERTAIN = "uncertain", "Uncertain"
    NORMAL = "normal", "Normal"
    AUDIT = "audit", "Audit"
    ACTIVE_LEARNING = "learn", "Active learning"
    SECOND = "second", "Second review"
    APPEAL = "appeal", "Appeals"
    ESCALATED = "escalated", "Escalated"


VIEWS = ("all", "mine", "overdue", *Queue.values)


class QueueItemQuerySet(models.QuerySet["QueueItem"]):
    """Queries of queue items by state, lease and saved view."""

    def open(self) -> "QueueItemQuerySet":
        """Return the items that wait for a decision."""
        return self.filter(status=QueueItem.Status.OPEN)

    def free(self, user: User, now: datetime | None = None) -> "QueueItemQuerySet":
        """Return the items that no other user has leased."""
        now = now or timezone.now()
        return self.filter(Q(lease_by=None) | Q(lease_until__lte=now) | Q(lease_by=user))

    def in_view(self, view: str, user: User, now: datetime | None = None) -> "QueueItemQuerySet":
        """Return the open items of a saved view, one of `VIEWS`.

        Raises:
            ValueError: there is no such view.
        """
        items = self.open()
        match view:
            case "all":
                return items
            case "mine":
                return items.filter(lease_by=user, lease_until__gt=now or timezone.now())
            case "overdue":
                return items.filter(due_at__lt=now or timezone.now())
            case _ if view in Queue.values:
                return items.filter(queue=view)
        raise ValueError(f"There is no view “{view}”: choose one of {', '.join(VIEWS)}.")

    def by_priority(self) -> "QueueItemQuerySet":
        """Return the items, the one with the highest priority first."""
        return self.order_by("-priority", "-pk")

    def after(self, item: "QueueItem") -> "QueueItemQuerySet":
        """Return the items that follow an item in the order of `by_priority`."""
        items = self.filter(priority__lte=item.priority)
        return items.exclude(priority=item.priority, pk__gte=item.pk)

    def with_related(self) -> "QueueItemQuerySet":
        """Return the items with the related rows that a list row or the review page shows, in one query."""
        return self.select_related(
            "submission__prediction__model_version", "submission__author", "policy", "lease_by"
        )


class QueueItem(models.Model):
    """A comment that waits for a moderator, or waited."""

    class Kind(models.TextChoices):
        REVIEW = "review", "Review: the policy requires a moderator"
        AUDIT = "audit", "Audit: random check of an automatic decision"
        ACTIVE_LEARNING = "learn", "Active learning: selected to improve the next model"
        APPEAL = "appeal", "Appeal: the author objects"
        SECOND = "second", "Second review, blind"
        EXAMPLE = "example", "Example"

    class SelectionReason(models.TextChoices):
        UNCERTAINTY = Reason.UNCERTAINTY.value, "model unsure"
        DISAGREEMENT = Reason.DISAGREEMENT.value, "champion and challenger disagree"

    class Status(models.TextChoices):
        OPEN = "open", "Open"
        APPROVED = "approved", "Approved"
        REJECTED = "rejected", "Rejected"
        WITHDRAWN = "withdrawn", "Withdrawn"

    submission = models.ForeignKey(Submission, on_delete=models.PROTECT, related_name="items")
    policy = models.ForeignKey(Policy, on_delete=models.PROTECT, related_name="+")
    community = models.CharField(max_length=100, blank=True)
    kind = models.CharField(max_length=8, choices=Kind)
    queue = models.CharField(max_length=9, choices=Queue)
    selection_reason = models.CharField(
        max_length=12, choices=SelectionReason, blank=True, help_text="Of an item for active learning only."
    )
    label = models.CharField(
        max_length=13, choices=LABEL_CHOICES, help_text="The label that comes closest to its thresholds."
    )
    score = models.FloatField(help_text="The calibrated probability of that label.")
    severity = models.FloatField(help_text="From 0 to 1.")
    uncertainty = models.FloatField(help_text="From 0 to 1: how close the score is to a threshold.")
    author_risk = models.FloatField(help_text="From 0 to 1, from the author's strikes.")
    priority = models.FloatField(
        help_text="Score from severity, uncertainty and author risk, minus the days from 2026-01-01 to the "
        "item's creation. Of two items with the same score, the older one comes first."
    )
    sampling_chance = models.FloatField(
        default=1.0, help_text="Probability with which a comment like it is sampled for review."
    )
    cluster = models.BigIntegerField(help_text="Near-duplicates have the same number.")
    minhash_a = models.BigIntegerField(help_text="First minimum hash of the pairs of words.")
    minhash_b = models.BigIntegerField(help_text="Second minimum hash of the pairs of words.")
    original = models.ForeignKey(
        "self",
        null=True,
        on_delete=models.PROTECT,
        related_name="+",
        help_text="The item that a second review repeats.",
    )
    excluded_reviewer = models.ForeignKey(
        User,
        null=True,
        on_delete=models.PROTECT,
        related_name="+",
        help_text="The user who made the earlier decision and must not decide this item.",
    )
    requested_by = models.ForeignKey(
        User,
        null=True,
        on_delete=models.PROTECT,
        related_name="+",
        db_index=False,
        help_text="The user who sent the comment to review; empty where the policy or an author did.",
    )
    created_at = models.DateTimeField(default=timezone.now)
    due_at = models.DateTimeField()
    status = models.CharField(max_length=9, choices=Status, default=Status.OPEN)
    decided_at = models.DateTimeField(null=True)
    lease_by = models.ForeignKey(User, null=True, on_delete=models.SET_NULL, related_name="+", db_index=False)
    lease_until = models.DateTimeField(null=True)
    version = models.PositiveIntegerField(
        default=1, help_text="Increases with each change of the lease or the status."
    )

    objects = QueueItemQuerySet.as_manager()

    class Meta:
        ordering = ("-pk",)
        permissions = [
            ("decide_queueitem", "Can claim and decide items"),
            ("bulk_decide", "Can decide many items at once"),
            ("decide_escalated", "Can decide escalated items and appeals"),
        ]
        constraints = [
            models.CheckConstraint(
                condition=Q(lease_by__isnull=True, lease_until__isnull=True)
                | Q(lease_by__isnull=False, lease_until__isnull=False, status="open"),
                name="moderation_lease_is_complete",
                violation_error_message="A lease names a moderator and an end, and only an open item "
                "has one.",
            ),
            models.CheckConstraint(
                condition=Q(sampling_chance__gt=0, sampling_chance__lte=1),
                name="moderation_sampling_chance",
                violation_error_message="The sampling chance is above 0 and at most 1.",
            ),
            models.CheckConstraint(
                condition=Q(kind="learn", selection_reason__in=["uncertainty", "disagreement"])
                | (~Q(kind="learn") & Q(selection_reason="")),
                name="moderation_selection_reason",
                violation_error_message="An item for active learning, and no other, names the reason "
                "for which it was selected.",
            ),
            models.UniqueConstraint(
                fields=["submission"],
                condition=Q(kind="learn"),
                name="moderation_one_active_learning",
                violation_error_message="This comment has been selected for active learning already.",
            ),
        ]
        indexes = [
            models.Index(fields=["-priority", "-id"], condition=OPEN, name="moderation_queue"),
            models.Index(fields=["queue", "-priority", "-id"], condition=OPEN, name="moderation_one_queue"),
            models.Index(
                fields=["community", "-priority", "-id"], condition=OPEN, name="moderation_queue_community"
            ),
            models.Index(
                fields=["community", "queue", "-priority", "-id"],
                condition=OPEN,
                name="moderation_one_queue_community",
            ),
            models.Index(fields=["label", "-priority", "-id"], condition=OPEN, name="moderation_queue_label"),
            models.Index(fields=["label", "score"], condition=OPEN, name="moderation_queue_score"),
            models.Index(fields=["queue", "created_at"], condition=OPEN, name="moderation_one_queue_oldest"),
            models.Index(fields=["due_at"], condition=OPEN, name="moderation_queue_due"),
            models.Index(fields=["queue", "due_at"], condition=OPEN, name="moderation_one_queue_due"),
            models.Index(fields=["cluster"], condition=OPEN, name="moderation_queue_cluster"),
            models.Index(fields=["minhash_a"], condition=OPEN, name="moderation_queue_minhash_a"),
            models.Index(fields=["minhash_b"], condition=OPEN, name="moderation_queue_minhash_b"),
            models.Index(
                fields=["lease_by", "lease_until"],
                condition=Q(lease_by__isnull=False),
                name="moderation_queue_leases",
            ),
            models.Index(fields=["status", "-id"], name="moderation_queue_status"),
        ]

    def __str__(self) -> str:
        return f"item {self.pk}"

    @property
    def prediction(self) -> Prediction:
        """The scored comment."""
        return self.submission.prediction

    @property
    def is_blind(self) -> bool:
        """Whether to hide scores and earlier decisions."""
        return self.kind == self.Kind.SECOND

    @property
    def is_leased(self) -> bool:
        """Whether a moderator has leased the item."""
        return self.lease_until is not None and self.lease_until > timezone.now()

    @property
    def is_overdue(self) -> bool:
        """Whether the item is open after its deadline."""
        return self.status == self.Status.OPEN and self.due_at < timezone.now()

    @property
    def priority_explanation(self) -> str:
        """Why the item is in the queue and what determines its priority, in one line."""
        return self.explain_priority(None)

    def explain_priority(self, user: User | None) -> str:
        """Return `priority_explanation`, with “you” if the user escalated or requested the item."""
        parts = []
        if self.queue == Queue.ESCALATED:
            is_own = user is not None and self._last_escalated_by() == user.pk
            parts.append(f"escalated by {'you' if is_own else 'a colleague'}")
        if self.requested_by_id:
            is_own = user is not None and self.requested_by_id == user.pk
            parts.append(f"sent to review by {'you' if is_own else 'a colleague'}")
        match self.kind:
            case self.Kind.APPEAL:
                parts.append("the author appeals")
            case self.Kind.SECOND:
                parts.append("second review, blind")
            case self.Kind.AUDIT:
                parts.append(f"random audit (1 in {round(1 / self.sampling_chance):,})")
            case self.Kind.ACTIVE_LEARNING:
                parts.append(f"training sample: {self.get_selection_reason_display()}")
            case self.Kind.EXAMPLE:
                parts.append("example comment")
        if not self.is_blind:
            parts.append(self.assessment)
            is_scored = not self.is_language_unscored
            if is_scored and self.severity >= MIN_SEVERE:
                parts.append("high severity")
            if is_scored and self.uncertainty >= 0.8:
                parts.append("close to a threshold")
            if self.author_risk > 0:
                parts.append("its author has strikes")
        if self.is_overdue:
            parts.append("overdue")
        line = " · ".join(parts)
        return f"{line[0].upper()}{line[1:]}"

    def _last_escalated_by(self) -> int | None:
        """Return the id of the user who escalated the item last; lists annotate it as `escalated_by`."""
        annotated: int | None = getattr(self, "escalated_by", None)
        if annotated is not None:
            return annotated
        escalations = self.decisions.filter(action="escalate", reversal=None).order_by("-pk")
        return escalations.values_list("by", flat=True).first()

    @property
    def assessment(self) -> str:
        """The item's label with its probability, or why there is none."""
        if self.is_language_unscored:
            return "language not scored"
        if self.is_unlikely:
            label, score = max(self.prediction.probabilities.items(), key=lambda pair: pair[1])
            share = "under 1%" if score < 0.01 else f"{score:.0%}"
            return f"no label is likely (highest: {label.replace('_', ' ')} {share})"
        return (
            f"{'likely' if self.score >= 0.5 else 'possibly'} {self.get_label_display()} ({self.score:.0%})"
        )

    @property
    def is_language_unscored(self) -> bool:
        """Whether the policy held the comment because the model does not score its language."""
        return self.submission.is_language_unscored

    @property
    def is_unlikely(self) -> bool:
        """Whether all probabilities are low and no rule of the policy was met."""
        return not self.submission.reasons and max(self.prediction.probabilities.values()) < MIN_POSSIBLE

    def default_rule(self) -> PolicyRule | None:
        """Return the default reason for a rejection: the rule of the item's label, else the first one."""
        rules = list(self.policy.rules.all())
        return next((rule for rule in rules if rule.label == self.label), rules[0] if rules else None)

    def similar(self) -> QueueItemQuerySet:
        """Return the other open items of the same cluster, community and kind."""
        return (
            QueueItem.objects.open()
            .filter(cluster=self.cluster, community=self.community, kind=self.kind)
            .exclude(pk=self.pk)
        )

    def last_decision(self) -> "Decision | None":
        """Return the newest human decision on the item, reversals included."""
        return self.decisions.select_related("by").order_by("-pk").first()


class Skip(AppendOnly):
    """A moderator skipped an item, so that other moderators decide it."""

    item = models.ForeignKey(QueueItem, on_delete=models.PROTECT, related_name="+")
    by = models.ForeignKey(User, on_delete=models.PROTECT, related_name="+")
    reason = models.CharField(max_length=200, blank=True)
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ("-pk",)

    def __str__(self) -> str:
        return f"{self.item} skipped"
