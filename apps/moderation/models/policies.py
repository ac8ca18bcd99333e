"""Policies and their rules."""

from typing import Any

from django.core.validators import MaxLengthValidator
from django.db import models
from django.db.models import F, Q
from django.utils import timezone

from apps.accounts.models import User
from apps.classifier.labels import LABELS
from apps.core.models import bounds

MAX_REASON = 2_000
_YEAR_MINUTES = 525_600
LABEL_CHOICES = [(label, label.replace("_", " ")) for label in LABELS]


class PolicyQuerySet(models.QuerySet["Policy"]):
    """Queries of policies by community and permission."""

    def active_for(self, community: str) -> "Policy | None":
        """Return the active policy of a community with its rules; by default the one of all communities."""
        policies = self.filter(status=Policy.Status.ACTIVE, community__in={community, ""})
        return policies.prefetch_related("rules").order_by("-community").first()

    def restricted_for(self, user: User) -> list[int]:
        """Return the ids of the policies whose `allowed_groups` exclude the user."""
        restricted = self.exclude(allowed_groups=[]).values_list("pk", "allowed_groups")
        if user.is_superuser or not restricted:
            return []
        names = set(user.groups.values_list("name", flat=True))
        return [pk for pk, groups in restricted if names.isdisjoint(groups)]


class Policy(models.Model):
    """One version of a community's rules. An activated version is never edited, only replaced."""

    class Status(models.TextChoices):
        DRAFT = "draft", "Draft"
        ACTIVE = "active", "Active"
        RETIRED = "retired", "Retired"

    community = models.CharField(
        max_length=100, blank=True, help_text="Empty: the default policy of all communities."
    )
    version = models.PositiveIntegerField()
    status = models.CharField(max_length=8, choices=Status, default=Status.DRAFT)
    audit_share = models.FloatField(
        default=0.01, help_text="Share of approved comments that are sampled for a moderator to check."
    )
    reject_audit_share = models.FloatField(
        default=0.01,
        help_text="Share of automatically rejected comments that are sampled for a moderator to check.",
    )
    second_review_share = models.FloatField(
        default=0.05,
        help_text="Share of human decisions that another moderator repeats without seeing the first one.",
    )
    review_other_languages = models.BooleanField(
        default=False,
        help_text="Whether a comment is held for review if it is certainly in a language that the model does "
        "not score.",
    )
    due_minutes = models.PositiveIntegerField(
        default=1_440,
        validators=bounds(1, _YEAR_MINUTES),
        help_text="Minutes within which an item is to be reviewed.",
    )
    urgent_due_minutes = models.PositiveIntegerField(
        default=60,
        validators=bounds(1, _YEAR_MINUTES),
        help_text="Minutes within which an urgent or escalated item is to be reviewed.",
    )
    strike_days = models.PositiveIntegerField(
        default=90, validators=bounds(1, 3_650), help_text="Days after which a strike expires."
    )
    allowed_groups: Any = models.JSONField(
        default=list,
        blank=True,
        help_text="Names of the groups that may decide; empty: everybody with the permission.",
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
            models.CheckConstraint(
                condition=Q(urgent_due_minutes__lte=F("due_minutes")),
                name="moderation_policy_urgent_is_earlier",
                violation_error_message="Urgent comments must be due no later than other comments.",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.community or 'default'} v{self.version}"

    def automatic_rules(self) -> "list[PolicyRule]":
        """Return the rules that remove comments automatically."""
        return [rule for rule in self.rules.all() if rule.reject_from is not None]


class PolicyRule(models.Model):
    """The thresholds and texts of a policy for one label.

    A rule without a label is a reason for rejection that only moderators apply.
    """

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
        help_text="Calibrated probability from which a comment is removed automatically; empty: never.",
    )
    review_from = models.FloatField(
        null=True,
        blank=True,
        help_text="Calibrated probability from which a comment is held for review; empty: never.",
    )
    reason = models.CharField(max_length=300, help_text="The explanation that the author gets.")
    guideline = models.TextField(
        blank=True, validators=[MaxLengthValidator(5_000)], help_text="Guideline for moderators."
    )
    strikes = models.PositiveSmallIntegerField(
        default=1, validators=bounds(0, 100), help_text="Strikes that the author gets for a rejection."
    )
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
