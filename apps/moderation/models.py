"""Policies, the queue, decisions, authors, appeals and the outbox of webhooks."""

from datetime import datetime
from typing import Any

from django.db import models
from django.db.models import F, OuterRef, Q, Subquery
from django.utils import timezone
from uuid_utils.compat import uuid7

from apps.accounts.models import User
from apps.classifier.labels import LABELS
from apps.classifier.selection import Reason
from apps.core.models import AppendOnly, AppendOnlyQuerySet
from apps.predictions.models import Prediction, unpack_labels
from apps.webhooks.models import Endpoint

LABEL_CHOICES = [(label, label.replace("_", " ")) for label in LABELS]
OPEN = Q(status="open")
UNLIKELY = 0.2  # below this probability a label is not called possible, unless a rule of the policy was met
SEVERE = 0.5  # from this severity on an item is urgent and counts against a moderator's budget


class PolicyQuerySet(models.QuerySet["Policy"]):
    def active_for(self, community: str) -> "Policy | None":
        """Return the community's active policy, else the default one, else None; its rules come along."""
        found = self.filter(status=Policy.Status.ACTIVE, community__in={community, ""}).prefetch_related(
            "rules"
        )
        return found.order_by("-community").first()

    def barring(self, user: User) -> list[int]:
        """Return the ids of the policies that let only groups decide of which the user is in none."""
        restricted = self.exclude(may_decide=[]).values_list("pk", "may_decide")
        if user.is_superuser or not restricted:
            return []
        mine = set(user.groups.values_list("name", flat=True))
        return [pk for pk, groups in restricted if mine.isdisjoint(groups)]


class Policy(models.Model):
    """One version of a community's rules. A version that was activated is never edited, only replaced."""

    class Status(models.TextChoices):
        DRAFT = "draft", "Draft"
        ACTIVE = "active", "Active"
        RETIRED = "retired", "Retired"

    community = models.CharField(
        max_length=100, blank=True, help_text="Empty: the default of every community."
    )
    version = models.PositiveIntegerField()
    status = models.CharField(max_length=8, choices=Status, default=Status.DRAFT)
    audit_share = models.FloatField(
        default=0.01, help_text="The share of approved comments that a moderator checks all the same."
    )
    reject_audit_share = models.FloatField(
        default=0.01, help_text="The share of automatically rejected comments that a moderator checks."
    )
    second_review_share = models.FloatField(
        default=0.05, help_text="The share of human decisions that somebody else repeats, blind."
    )
    due_minutes = models.PositiveIntegerField(default=1_440, help_text="How soon an item is to be decided.")
    urgent_due_minutes = models.PositiveIntegerField(default=60, help_text="How soon a severe one is.")
    strike_days = models.PositiveIntegerField(default=90, help_text="After how many days a strike expires.")
    may_decide: Any = models.JSONField(
        default=list,
        blank=True,
        help_text="Names of the groups that may decide; empty: all with the permission.",
    )
    territorial_scope: Any = models.JSONField(
        default=list,
        blank=True,
        help_text="Country codes for the statement of reasons, e.g. DE; empty: the EEA.",
    )
    created_at = models.DateTimeField(default=timezone.now)
    created_by = models.ForeignKey(User, null=True, blank=True, on_delete=models.PROTECT, related_name="+")
    activated_at = models.DateTimeField(null=True, blank=True)
    activated_by = models.ForeignKey(User, null=True, blank=True, on_delete=models.PROTECT, related_name="+")
    reason = models.TextField(blank=True, help_text="Why it was activated.")

    objects = PolicyQuerySet.as_manager()

    class Meta:
        ordering = ("community", "-version")
        verbose_name_plural = "policies"
        permissions = [("manage_policy", "Can draft and activate policies")]
        constraints = [
            models.UniqueConstraint(fields=["community", "version"], name="moderation_policy_version"),
            models.UniqueConstraint(
                fields=["community"],
                condition=Q(status="active"),
                name="moderation_one_active_policy",
                violation_error_message="This community has an active policy already.",
            ),
            *[
                models.CheckConstraint(
                    condition=Q(**{f"{share}__gte": 0, f"{share}__lte": 1}),
                    name=f"moderation_policy_{share}",
                    violation_error_message=f"The {share.replace('_', ' ')} is a number from 0 to 1.",
                )
                for share in ("audit_share", "reject_audit_share", "second_review_share")
            ],
        ]

    def __str__(self) -> str:
        return f"{self.community or 'default'} v{self.version}"

    def automatic_rules(self) -> "list[PolicyRule]":
        """Return the rules that remove a comment without a person looking."""
        return [rule for rule in self.rules.all() if rule.reject_from is not None]


class PolicyRule(models.Model):
    """What a policy says of one label; without a label, a reason that only moderators choose."""

    class Category(models.TextChoices):
        """Categories of the DSA transparency database."""

        SPEECH = "STATEMENT_CATEGORY_ILLEGAL_OR_HARMFUL_SPEECH", "Illegal or harmful speech"
        VIOLENCE = "STATEMENT_CATEGORY_VIOLENCE", "Violence"
        BULLYING = "STATEMENT_CATEGORY_CYBER_VIOLENCE", "Cyber violence"
        SCOPE = "STATEMENT_CATEGORY_OTHER_VIOLATION_TC", "Other violation of the terms"

    policy = models.ForeignKey(Policy, on_delete=models.CASCADE, related_name="rules")
    label = models.CharField(max_length=13, choices=LABEL_CHOICES, blank=True)
    title = models.CharField(max_length=80)
    reject_from = models.FloatField(
        null=True,
        blank=True,
        help_text="Calibrated probability from which a comment is removed without a person looking; "
        "empty: never.",
    )
    review_from = models.FloatField(
        null=True,
        blank=True,
        help_text="Calibrated probability from which a moderator looks at a comment; empty: never.",
    )
    reason = models.CharField(max_length=300, help_text="What the author is told.")
    guideline = models.TextField(blank=True, help_text="What moderators go by.")
    strikes = models.PositiveSmallIntegerField(default=1, help_text="What a rejection costs the author.")
    category = models.CharField(max_length=60, choices=Category, default=Category.SPEECH)
    position = models.PositiveSmallIntegerField(default=0)

    class Meta:
        ordering = ("policy", "position", "pk")
        constraints = [
            models.UniqueConstraint(
                fields=["policy", "label"],
                condition=~Q(label=""),
                name="moderation_one_rule_per_label",
                violation_error_message="This policy has a rule for this label already.",
            ),
            models.CheckConstraint(
                condition=Q(reject_from__isnull=True) | Q(reject_from__gte=0, reject_from__lte=1),
                name="moderation_rule_reject_from",
                violation_error_message="The threshold for rejection is a probability from 0 to 1.",
            ),
            models.CheckConstraint(
                condition=Q(review_from__isnull=True) | Q(review_from__gte=0, review_from__lte=1),
                name="moderation_rule_review_from",
                violation_error_message="The threshold for review is a probability from 0 to 1.",
            ),
            models.CheckConstraint(
                condition=Q(reject_from__isnull=True)
                | Q(review_from__isnull=True)
                | Q(reject_from__gte=F("review_from")),
                name="moderation_rule_order",
                violation_error_message="The threshold for review must be at or below the threshold "
                "for rejection.",
            ),
            models.CheckConstraint(
                condition=~Q(label="") | Q(reject_from__isnull=True, review_from__isnull=True),
                name="moderation_rule_without_label_has_no_thresholds",
                violation_error_message="A rule without a label has no thresholds: only moderators apply it.",
            ),
        ]

    def __str__(self) -> str:
        return self.title


class Author(models.Model):
    """Somebody who writes comments, by the platform's own reference."""

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
        return Strike.objects.active(now).filter(author=self).points()

    def open_appeals(self) -> "models.QuerySet[Appeal]":
        """Return the author's appeals that wait for an answer."""
        return Appeal.objects.filter(decision__author=self, status=Appeal.Status.OPEN)

    def decisions(self) -> "models.QuerySet[Decision]":
        """Return the decisions on the author's comments, the newest first."""
        return (
            Decision.objects.filter(author=self)
            .select_related("by", "rule", "submission__prediction")
            .order_by("-pk")
        )


class Submission(AppendOnly):
    """One `moderate` call: the comment's circumstances and the answer that was given.

    A comment that was only scored gets one when it is put in the queue to learn from: it holds no answer.
    """

    class Outcome(models.TextChoices):
        APPROVE = "approve", "Approved"
        REJECT = "reject", "Rejected"
        HUMAN_REVIEW = "human_review", "Waits for a moderator"
        UNASKED = "unasked", "Scored only: nobody asked the policy"

    prediction = models.OneToOneField(
        Prediction, primary_key=True, on_delete=models.PROTECT, related_name="+"
    )
    client = models.ForeignKey("accounts.APIKey", null=True, on_delete=models.PROTECT, related_name="+")
    external_id = models.CharField("External ID", max_length=200, blank=True)
    retry_key = models.CharField(
        max_length=64,
        null=True,
        unique=True,
        editable=False,
        help_text="Where the external id may belong to several comments: a hash of id, comment and day.",
    )
    community = models.CharField(max_length=100, blank=True)
    author = models.ForeignKey(Author, null=True, on_delete=models.PROTECT)
    context: Any = models.JSONField(
        default=dict, help_text="What the comment answers to and where it stands, as the platform sent it."
    )
    callback_url = models.URLField(max_length=500, blank=True)
    policy = models.ForeignKey(Policy, on_delete=models.PROTECT, related_name="+")
    outcome = models.CharField(max_length=12, choices=Outcome)
    reasons: Any = models.JSONField(
        default=list, help_text="The rules that were met, with probability and threshold."
    )
    is_example = models.BooleanField(default=False)
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ("-pk",)
        constraints = [
            models.UniqueConstraint(
                fields=["client", "external_id"],
                condition=~Q(external_id="") & Q(client__isnull=False, retry_key__isnull=True),
                name="moderation_one_answer_per_external_id",
                violation_error_message="This external ID of this API key has been answered already.",
            ),
            models.UniqueConstraint(
                fields=["external_id"],
                condition=~Q(external_id="") & Q(client__isnull=True, retry_key__isnull=True),
                name="moderation_one_anonymous_answer",
                violation_error_message="This external ID has been answered already.",
            ),
        ]
        indexes = [
            models.Index(fields=["community", "-prediction"], name="moderation_by_community"),
            models.Index(fields=["author", "-prediction"], name="moderation_by_author"),
            models.Index(
                fields=["external_id"], condition=~Q(external_id=""), name="moderation_by_external_id"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.external_id or self.pk}: {self.outcome}"

    @property
    def text(self) -> str:
        """The comment."""
        return self.prediction.text or ""

    @property
    def confidence(self) -> float:
        """The calibrated probability that speaks for the answer."""
        if self.reasons:
            return self.reasons[0]["probability"]
        return 1 - max(self.prediction.probabilities.values())

    def current(self) -> "Decision | None":
        """Return the decision that holds: the newest not taken back, blind second reviews aside."""
        return (
            self.decisions.filter(action__in=("approve", "reject"), reversal=None)
            .exclude(item__kind=QueueItem.Kind.SECOND)
            .order_by("-pk")
            .first()
        )


class QueueItemQuerySet(models.QuerySet["QueueItem"]):
    def open(self) -> "QueueItemQuerySet":
        """Return the items that wait for a decision."""
        return self.filter(status=QueueItem.Status.OPEN)

    def free(self, user: User, now: datetime | None = None) -> "QueueItemQuerySet":
        """Return the items that nobody else holds."""
        now = now or timezone.now()
        return self.filter(Q(lease_by=None) | Q(lease_until__lte=now) | Q(lease_by=user))

    def in_view(self, view: str, user: User, now: datetime | None = None) -> "QueueItemQuerySet":
        """Return the open items of a saved view: all, mine, overdue, or a lane.

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
            case _ if view in Lane.values:
                return items.filter(lane=view)
        raise ValueError(f"There is no view “{view}”: choose one of {', '.join(VIEWS)}.")

    def escalated_by(self, user: User) -> "QueueItemQuerySet":
        """Return the items that wait for a lead because the user was the last to escalate them."""
        escalations = Decision.objects.filter(item=OuterRef("pk"), action="escalate", reversal=None)
        newest = Subquery(escalations.order_by("-pk").values("by")[:1])
        return (
            self.open()
            .filter(lane=Lane.ESCALATED)
            .alias(last_escalated_by=newest)
            .filter(last_escalated_by=user.pk)
        )

    def in_order(self) -> "QueueItemQuerySet":
        """Return the items, the most pressing first."""
        return self.order_by("-priority", "-pk")

    def with_related(self) -> "QueueItemQuerySet":
        """Return the items with all that a list row or a card shows, in one query."""
        return self.select_related(
            "submission__prediction__model_version", "submission__author", "policy", "lease_by"
        )


class Lane(models.TextChoices):
    """The part of the queue in which an item stands; each is a saved view."""

    URGENT = "urgent", "Urgent"
    UNCERTAIN = "uncertain", "Uncertain"
    NORMAL = "normal", "Normal"
    AUDIT = "audit", "Audit"
    LEARN = "learn", "Learn"
    SECOND = "second", "Second review"
    APPEAL = "appeal", "Appeals"
    ESCALATED = "escalated", "Escalated"


VIEWS = ("all", "mine", "overdue", *Lane.values)


class QueueItem(models.Model):
    """A comment that waits for a moderator, or waited."""

    class Kind(models.TextChoices):
        REVIEW = "review", "Review: the policy asks for a human"
        AUDIT = "audit", "Audit: a random check of an automatic decision"
        LEARN = "learn", "Learn: the next model gains most by the answer"
        APPEAL = "appeal", "Appeal: the author objects"
        SECOND = "second", "Second review, blind"
        EXAMPLE = "example", "Example"

    class Lesson(models.TextChoices):
        UNCERTAINTY = Reason.UNCERTAINTY.value, "the model is unsure"
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
    lane = models.CharField(max_length=9, choices=Lane)
    lesson = models.CharField(
        max_length=12, choices=Lesson, blank=True, help_text="Of one to learn from: why it was chosen."
    )
    label = models.CharField(
        max_length=13, choices=LABEL_CHOICES, help_text="The label that comes closest to its thresholds."
    )
    score = models.FloatField(help_text="The calibrated probability of that label.")
    severity = models.FloatField(help_text="From 0 to 1.")
    uncertainty = models.FloatField(help_text="From 0 to 1: how near the score is to a threshold.")
    history = models.FloatField(help_text="From 0 to 1: the author's strikes.")
    priority = models.FloatField(
        help_text="Severity, uncertainty and history, less a point for each day from 2026-01-01 to its "
        "arrival. All items gain alike by waiting, so their order holds without being written again."
    )
    sampling_chance = models.FloatField(
        default=1.0, help_text="How likely a comment like it was to be looked at."
    )
    cluster = models.BigIntegerField(help_text="Near-duplicates share it.")
    sketch_a = models.BigIntegerField(help_text="The first minimum hash of the words.")
    sketch_b = models.BigIntegerField(help_text="The second minimum hash of the words.")
    original = models.ForeignKey(
        "self",
        null=True,
        on_delete=models.PROTECT,
        related_name="+",
        help_text="Of a second review: the item.",
    )
    not_for = models.ForeignKey(
        User,
        null=True,
        on_delete=models.PROTECT,
        related_name="+",
        help_text="Who decided before and must not again.",
    )
    requested_by = models.ForeignKey(
        User,
        null=True,
        on_delete=models.PROTECT,
        related_name="+",
        db_index=False,
        help_text="Who sent the comment to review; empty where the policy or an author did.",
    )
    created_at = models.DateTimeField(default=timezone.now)
    due_at = models.DateTimeField()
    status = models.CharField(max_length=9, choices=Status, default=Status.OPEN)
    decided_at = models.DateTimeField(null=True)
    lease_by = models.ForeignKey(User, null=True, on_delete=models.SET_NULL, related_name="+", db_index=False)
    lease_until = models.DateTimeField(null=True)
    version = models.PositiveIntegerField(default=1, help_text="Goes up with each change of lease or status.")

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
                name="moderation_lease_is_whole",
                violation_error_message="A lease names a moderator and an end, and only an open item "
                "has one.",
            ),
            models.CheckConstraint(
                condition=Q(sampling_chance__gt=0, sampling_chance__lte=1),
                name="moderation_sampling_chance",
                violation_error_message="The sampling chance is above 0 and at most 1.",
            ),
            models.CheckConstraint(
                condition=Q(kind="learn", lesson__in=["uncertainty", "disagreement"])
                | (~Q(kind="learn") & Q(lesson="")),
                name="moderation_lesson",
                violation_error_message="An item for active learning, and no other, names the reason "
                "for which it was selected.",
            ),
            models.UniqueConstraint(
                fields=["submission"],
                condition=Q(kind="learn"),
                name="moderation_one_lesson_per_comment",
                violation_error_message="This comment has been selected for active learning already.",
            ),
        ]
        indexes = [
            models.Index(fields=["-priority", "-id"], condition=OPEN, name="moderation_queue"),
            models.Index(fields=["lane", "-priority", "-id"], condition=OPEN, name="moderation_queue_lane"),
            models.Index(
                fields=["community", "-priority", "-id"], condition=OPEN, name="moderation_queue_community"
            ),
            models.Index(
                fields=["community", "lane", "-priority", "-id"],
                condition=OPEN,
                name="moderation_queue_comm_lane",
            ),
            models.Index(fields=["label", "-priority", "-id"], condition=OPEN, name="moderation_queue_label"),
            models.Index(fields=["label", "score"], condition=OPEN, name="moderation_queue_score"),
            models.Index(fields=["lane", "created_at"], condition=OPEN, name="moderation_queue_oldest"),
            models.Index(fields=["due_at"], condition=OPEN, name="moderation_queue_due"),
            models.Index(fields=["lane", "due_at"], condition=OPEN, name="moderation_queue_lane_due"),
            models.Index(fields=["cluster"], condition=OPEN, name="moderation_queue_cluster"),
            models.Index(fields=["sketch_a"], condition=OPEN, name="moderation_queue_sketch_a"),
            models.Index(fields=["sketch_b"], condition=OPEN, name="moderation_queue_sketch_b"),
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
        """Whether scores and earlier verdicts are to be hidden."""
        return self.kind == self.Kind.SECOND

    @property
    def is_leased(self) -> bool:
        """Whether somebody holds it at this moment."""
        return self.lease_until is not None and self.lease_until > timezone.now()

    @property
    def is_overdue(self) -> bool:
        """Whether it should have been decided by this moment."""
        return self.status == self.Status.OPEN and self.due_at < timezone.now()

    @property
    def why_first(self) -> str:
        """One line that says why the item is in the queue and where it stands."""
        return self.why_first_for(None)

    def why_first_for(self, user: User | None) -> str:
        """Return `why_first` in words for the user, who may be the one who escalated it or asked for it."""
        parts = []
        if self.lane == Lane.ESCALATED:
            mine = user and QueueItem.objects.filter(pk=self.pk).escalated_by(user).exists()
            parts.append(f"escalated by {'you' if mine else 'a colleague'}")
        if self.requested_by_id:
            mine = user and self.requested_by_id == user.pk
            parts.append(f"sent to review by {'you' if mine else 'a colleague'}")
        match self.kind:
            case self.Kind.APPEAL:
                parts.append("the author appeals")
            case self.Kind.SECOND:
                parts.append("second review, blind")
            case self.Kind.AUDIT:
                parts.append(f"random audit (1 in {round(1 / self.sampling_chance):,})")
            case self.Kind.LEARN:
                parts.append(f"training sample: {self.get_lesson_display()}")
            case self.Kind.EXAMPLE:
                parts.append("example comment")
        if not self.is_blind:
            parts.append(self.assessment)
            if self.severity >= SEVERE:
                parts.append("high severity")
            if self.uncertainty >= 0.8:
                parts.append("close to a threshold")
            if self.history > 0:
                parts.append("its author has strikes")
        if self.is_overdue:
            parts.append("overdue")
        line = " · ".join(parts)
        return f"{line[0].upper()}{line[1:]}"

    @property
    def assessment(self) -> str:
        """What the model says: the item's label with its probability, or that no label is likely."""
        if self.is_unlikely:
            label, score = max(self.prediction.probabilities.items(), key=lambda pair: pair[1])
            share = "under 1%" if score < 0.01 else f"{score:.0%}"
            return f"no label is likely (highest: {label.replace('_', ' ')} {share})"
        return (
            f"{'likely' if self.score >= 0.5 else 'possibly'} {self.get_label_display()} ({self.score:.0%})"
        )

    @property
    def is_unlikely(self) -> bool:
        """Whether no label is a reason to look at the item: all scores are low, and no rule was met."""
        return not self.submission.reasons and max(self.prediction.probabilities.values()) < UNLIKELY

    def rule(self) -> "PolicyRule | None":
        """Return the rule of the item's label, else the first: the API's default reason for a rejection."""
        rules = list(self.policy.rules.all())
        return next((rule for rule in rules if rule.label == self.label), rules[0] if rules else None)

    def similar(self) -> "models.QuerySet[QueueItem]":
        """Return the other open items of the same cluster and kind."""
        return (
            QueueItem.objects.open()
            .filter(cluster=self.cluster, community=self.community, kind=self.kind)
            .exclude(pk=self.pk)
        )

    def last_decision(self) -> "Decision | None":
        """Return the newest human decision on the item, reversals included."""
        return self.decisions.select_related("by").order_by("-pk").first()


class Skip(AppendOnly):
    """A moderator passed an item on."""

    item = models.ForeignKey(QueueItem, on_delete=models.PROTECT, related_name="+")
    by = models.ForeignKey(User, on_delete=models.PROTECT, related_name="+")
    reason = models.CharField(max_length=200, blank=True)
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ("-pk",)

    def __str__(self) -> str:
        return f"{self.item} skipped"


class DecisionQuerySet(AppendOnlyQuerySet):
    def effective(self) -> "DecisionQuerySet":
        """Return the decisions that are neither reversals nor reversed."""
        return self.filter(reverses=None, reversal=None)

    def human(self) -> "DecisionQuerySet":
        """Return what moderators decided."""
        return self.filter(automatic=False)

    def with_state(self) -> "DecisionQuerySet":
        """Add `open_item`, where the comment waits, and `superseded_by`, the action decided later."""
        items = QueueItem.objects.open().filter(submission=OuterRef("submission"))
        later = (
            Decision.objects.filter(submission=OuterRef("submission"), pk__gt=OuterRef("pk"), reversal=None)
            .filter(action__in=(Decision.Action.APPROVE, Decision.Action.REJECT))
            .exclude(item__kind=QueueItem.Kind.SECOND)
            .order_by("-pk")
        )
        return self.annotate(
            open_item=Subquery(items.exclude(kind=QueueItem.Kind.SECOND).order_by("pk").values("pk")[:1]),
            superseded_by=Subquery(later.values("action")[:1]),
        )


class Decision(AppendOnly):
    """What was decided of a comment, by whom and on what grounds. An undo is a further row."""

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
        help_text="The decision it takes back.",
    )
    corrected_mask = models.PositiveSmallIntegerField(
        null=True, help_text="The labels that the moderator says are true."
    )
    rule = models.ForeignKey(
        PolicyRule, null=True, on_delete=models.PROTECT, related_name="+", db_index=False
    )
    note = models.TextField(blank=True, max_length=2_000, help_text="Private, never sent.")
    model_version = models.ForeignKey("registry.ModelVersion", on_delete=models.PROTECT, related_name="+")
    policy = models.ForeignKey(Policy, on_delete=models.PROTECT, related_name="+")
    seconds = models.FloatField(null=True, help_text="From claim to decision.")
    automatic = models.BooleanField(default=False)
    by = models.ForeignKey(User, null=True, on_delete=models.PROTECT, related_name="+", db_index=False)
    client = models.ForeignKey(
        "accounts.APIKey",
        null=True,
        on_delete=models.PROTECT,
        related_name="+",
        help_text="The key it came through.",
    )
    job = models.ForeignKey(
        "BulkJob", null=True, on_delete=models.PROTECT, related_name="decisions", db_index=False
    )
    applied_from = models.ForeignKey(
        "self",
        null=True,
        on_delete=models.PROTECT,
        related_name="applied",
        help_text="The decision that was applied to this similar comment as well.",
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
                name="moderation_an_item_is_decided_once",
                violation_error_message="This version of the item has been decided already.",
            ),
            models.CheckConstraint(
                condition=Q(automatic=True, by__isnull=True, item__isnull=True)
                | Q(automatic=False, by__isnull=False, item__isnull=False, item_version__isnull=False),
                name="moderation_decided_by_somebody",
                violation_error_message="A decision is either automatic or made by a user on an item.",
            ),
            models.CheckConstraint(
                condition=Q(action="reverse", reverses__isnull=False)
                | (~Q(action="reverse") & Q(reverses__isnull=True)),
                name="moderation_reversal_names_its_decision",
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
        """What happened, as a verb: `approved`."""
        # Keys are strings; an action that another release stored has its stored name.
        return _PAST_TENSE.get(self.action, self.action)  # type: ignore[call-overload]

    @property
    def noun(self) -> str:
        """What happened, as a noun: `approval`."""
        return _NOUNS.get(self.action, self.action)  # type: ignore[call-overload]

    @property
    def actor(self) -> str:
        """Who decided: the user's name, or “policy”."""
        return self.by.get_username() if self.by else "policy"

    @property
    def reason(self) -> str:
        """What the author is told."""
        return self.rule.reason if self.rule else ""

    @property
    def labels(self) -> dict[str, bool] | None:
        """The labels that the moderator ticked, or None where the moderator ticked none."""
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
    def get_queryset(self) -> DecisionQuerySet:
        """Return what the policy decided without a person looking."""
        return super().get_queryset().filter(automatic=True)


class AutomaticDecision(Decision):
    """A decision that the policy made without a person looking, as the admin lists it."""

    objects = AutomaticDecisionManager()  # type: ignore[misc]

    class Meta:
        proxy = True
        # The permission to see decisions covers these: the same rows, so no permissions of their own.
        default_permissions = ()
        verbose_name = "automatic decision"


class StrikeQuerySet(models.QuerySet["Strike"]):
    def active(self, now: datetime | None = None) -> "StrikeQuerySet":
        """Return the strikes that have neither expired nor been lifted."""
        return self.filter(lifted_at=None, expires_at__gt=now or timezone.now())

    def points(self) -> int:
        """Return the sum of the strikes' points."""
        return self.aggregate(sum=models.Sum("points"))["sum"] or 0


class Strike(models.Model):
    """What a rejection cost its author."""

    author = models.ForeignKey(Author, on_delete=models.PROTECT, related_name="strikes", db_index=False)
    decision = models.OneToOneField(Decision, on_delete=models.PROTECT, related_name="+")
    points = models.PositiveSmallIntegerField()
    expires_at = models.DateTimeField()
    lifted_at = models.DateTimeField(null=True, help_text="When the decision was taken back.")

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
    """An author objects to a decision."""

    class Status(models.TextChoices):
        OPEN = "open", "Open"
        UPHELD = "upheld", "Upheld: the decision stands"
        OVERTURNED = "overturned", "Overturned"

    decision = models.OneToOneField(Decision, on_delete=models.PROTECT, related_name="appeal")
    item = models.OneToOneField(QueueItem, on_delete=models.PROTECT, related_name="appeal")
    text = models.TextField(max_length=5_000, blank=True, help_text="What the author says.")
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


class Delivery(models.Model):
    """A webhook that is to be sent, or was: the outbox."""

    class Event(models.TextChoices):
        DECIDED = "decision.made", "A moderator decided"
        REVERSED = "decision.reversed", "A decision was taken back"
        APPEAL = "appeal.resolved", "An appeal was resolved"

    class Status(models.TextChoices):
        PENDING = "pending", "Waiting to be sent"
        SENDING = "sending", "Being sent"
        DELIVERED = "delivered", "Delivered"
        CANCELLED = "cancelled", "Cancelled by an undo"
        FAILED = "failed", "Failed"

    UNFINISHED = (Status.PENDING, Status.SENDING)

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    decision = models.ForeignKey(Decision, on_delete=models.PROTECT, related_name="deliveries")
    client = models.ForeignKey("accounts.APIKey", null=True, on_delete=models.PROTECT, related_name="+")
    endpoint = models.ForeignKey(Endpoint, on_delete=models.PROTECT, related_name="+", db_index=False)
    event = models.CharField(max_length=20, choices=Event)
    url = models.URLField("URL", max_length=500)
    payload: Any = models.JSONField()
    status = models.CharField(max_length=9, choices=Status, default=Status.PENDING)
    attempts = models.PositiveSmallIntegerField(default=0)
    send_after = models.DateTimeField(
        help_text="Of one being sent: when it is tried again if the sender died."
    )
    retry_until = models.DateTimeField(help_text="An attempt that fails after this moment is the last one.")
    response_status = models.PositiveSmallIntegerField(null=True)
    error = models.CharField(max_length=300, blank=True)
    created_at = models.DateTimeField(default=timezone.now)
    delivered_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ("-id",)
        verbose_name_plural = "deliveries"
        permissions = [("resend_delivery", "Can send deliveries again")]
        indexes = [
            models.Index(
                fields=["send_after"],
                condition=Q(status__in=["pending", "sending"]),
                name="moderation_outbox",
            ),
            models.Index(fields=["status", "-id"], name="moderation_deliveries"),
            models.Index(
                fields=["endpoint", "id"],
                condition=Q(status__in=["pending", "sending"]),
                name="moderation_endpoint_outbox",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.event} {self.status}"

    @property
    def state(self) -> str:
        """The status in words; one that is waiting after a failure is being retried."""
        if self.status == self.Status.PENDING and self.attempts:
            return f"Being retried, {self.attempts} attempt{'s' if self.attempts > 1 else ''} failed"
        return self.get_status_display()


class BulkJob(models.Model):
    """Many items decided alike: chosen by a filter, confirmed by count, each with its own decision."""

    class Status(models.TextChoices):
        DRAFT = "draft", "Waits to be confirmed"
        QUEUED = "queued", "Queued"
        RUNNING = "running", "Running"
        DONE = "done", "Done"
        CANCELLED = "cancelled", "Cancelled"
        UNDOING = "undoing", "Being undone"
        UNDONE = "undone", "Undone"

    filter: Any = models.JSONField(help_text="Which items: see `actions.BulkFilter`.")
    action = models.CharField(max_length=8, choices=Decision.Action)
    rule = models.ForeignKey(PolicyRule, null=True, on_delete=models.PROTECT, related_name="+")
    note = models.TextField(blank=True, max_length=2_000)
    count = models.PositiveIntegerField(help_text="How many items the filter found.")
    last_item = models.BigIntegerField(help_text="No item after this one is touched.")
    done = models.PositiveIntegerField(default=0)
    skipped = models.PositiveIntegerField(default=0, help_text="Held or decided by somebody else meanwhile.")
    cursor = models.BigIntegerField(default=0, help_text="The last item that was looked at.")
    status = models.CharField(max_length=9, choices=Status, default=Status.DRAFT)
    created_at = models.DateTimeField(default=timezone.now)
    created_by = models.ForeignKey(User, on_delete=models.PROTECT, related_name="+")
    confirmed_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)
    cancelled_by = models.ForeignKey(User, null=True, on_delete=models.PROTECT, related_name="+")
    undone = models.PositiveIntegerField(default=0, help_text="How many of its decisions were undone.")
    not_undone: Any = models.JSONField(
        default=list, help_text="Items whose decision could not be undone, each with the reason."
    )
    undo_cursor = models.BigIntegerField(default=0, help_text="The last decision that the undo looked at.")
    undone_by = models.ForeignKey(User, null=True, on_delete=models.PROTECT, related_name="+")

    class Meta:
        ordering = ("-pk",)

    def __str__(self) -> str:
        return f"{self.action} {self.count}: {self.status}"

    @property
    def is_active(self) -> bool:
        """Whether a worker is to go on with the job."""
        return self.status in (self.Status.QUEUED, self.Status.RUNNING, self.Status.UNDOING)

    @property
    def can_undo(self) -> bool:
        """Whether the job has ended and left decisions that can be undone."""
        return self.status in (self.Status.DONE, self.Status.CANCELLED) and self.done > 0

    @property
    def progress(self) -> float:
        """The part that is done, from 0 to 1."""
        return min((self.done + self.skipped) / self.count, 1.0) if self.count else 1.0


class Preference(models.Model):
    """How a moderator wants the console to be."""

    user = models.OneToOneField(User, primary_key=True, on_delete=models.CASCADE, related_name="+")
    masked = models.BooleanField(default=True, help_text="Hide comments until asked for.")
    greyscale = models.BooleanField(default=False)
    keys = models.BooleanField("Keyboard shortcuts", default=True)
    severe_budget = models.PositiveSmallIntegerField(
        default=40, help_text="After how many severe comments a shift to suggest a pause; 0: never."
    )

    def __str__(self) -> str:
        return f"preferences of {self.user}"

    @classmethod
    def of(cls, user: User) -> "Preference":
        """Return the user's preferences, the defaults where none were stored."""
        if "preference" not in user.__dict__:  # a request asks several times
            user.__dict__["preference"] = cls.objects.filter(user_id=user.pk).first() or cls(user_id=user.pk)
        return user.__dict__["preference"]
