"""The requests and results of `/api/v1/` for moderation and appeals."""

from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from apps.api.fields import (
    AddressField,
    CommentField,
    StrictBooleanField,
    StrictSerializer,
    StringField,
    TrueLabelsField,
)
from apps.api.v1.serializers.predictions import OUTCOME_HELP, LabelsField, ProbabilitiesField
from apps.classifier.labels import LABELS
from apps.core.models import MAX_BIG_INTEGER, MAX_INTEGER
from apps.moderation import selectors
from apps.moderation.models import Appeal, Decision, Queue, QueueItem, Submission
from apps.webhooks.exceptions import InvalidEndpointError
from apps.webhooks.transport import check_url


class ContextRequest(StrictSerializer):
    """The conversation that the comment is part of."""

    default_error_messages = {"invalid": "This must be a JSON object."}

    title = StringField(
        max_length=300, required=False, allow_blank=True, help_text="The title of the thread or article."
    )
    parent = CommentField(required=False, help_text="The comment that this one replies to.")
    url = AddressField(max_length=500, required=False, help_text="The address of the comment.")


class ModerateRequest(StrictSerializer):
    text = CommentField(help_text="The comment, at most 20,480 bytes of UTF-8.")
    community = StringField(default="", max_length=100, allow_blank=True)
    author = StringField(default="", max_length=200, allow_blank=True, help_text="Your id of the author.")
    external_id = StringField(
        default="",
        max_length=200,
        allow_blank=True,
        help_text="Your id of the comment. A second request with the same id and text gets the first result; "
        "with another text it is a revision of the comment.",
    )
    context = ContextRequest(required=False)
    callback_url = AddressField(
        default="",
        max_length=500,
        allow_blank=True,
        help_text="The URL, on the public internet, that gets a webhook when a moderator decides. It is "
        "signed if your API key has a signing secret.",
    )

    def validate_callback_url(self, url: str) -> str:
        """Reject a URL to which no webhook can be sent."""
        try:
            if url:
                check_url(url)
        except InvalidEndpointError as error:
            raise serializers.ValidationError(str(error)) from error
        return url


class ReasonResult(serializers.Serializer):
    label = serializers.CharField(help_text="Empty if the model does not score the comment's language.")
    title = serializers.CharField()
    reason = serializers.CharField(help_text="The explanation for the author.")
    probability = serializers.FloatField()
    threshold = serializers.FloatField(help_text="The policy's threshold, not the model's.")


class ModerateResult(serializers.Serializer):
    id = serializers.UUIDField(help_text="The id of the prediction.")
    outcome = serializers.ChoiceField(choices=Submission.Outcome.choices, help_text=OUTCOME_HELP)
    confidence = serializers.FloatField(help_text="The calibrated probability that supports the outcome.")
    reasons = ReasonResult(many=True)
    revision = serializers.IntegerField(help_text="1, or more after the comment was edited.")
    queue_id = serializers.IntegerField(
        allow_null=True, help_text="The id of the queue item, if a moderator reviews it."
    )
    appeal_token = serializers.CharField(
        required=False, help_text="For a rejection: the token for an appeal."
    )
    probabilities = ProbabilitiesField()
    model_version = serializers.IntegerField()
    policy_version = serializers.IntegerField()


class QueueQuery(StrictSerializer):
    status = serializers.ChoiceField(choices=QueueItem.Status.choices, default=QueueItem.Status.OPEN)
    queue = serializers.ChoiceField(choices=Queue.choices, required=False)
    label = serializers.ChoiceField(choices=LABELS, required=False)
    community = StringField(max_length=100, required=False, allow_blank=True)
    mine = serializers.BooleanField(default=False, help_text="Only items that the moderator holds.")
    cursor = StringField(required=False)


class QueueItemResult(serializers.ModelSerializer):
    """A queue item.

    In a blind second review, the fields that could bias the moderator are null. The label and the score are
    null as well if the model does not score the comment's language.
    """

    queue = serializers.CharField()
    label = serializers.SerializerMethodField()
    score = serializers.SerializerMethodField()
    priority_explanation = serializers.SerializerMethodField()
    is_overdue = serializers.BooleanField()
    text = serializers.CharField(source="submission.text")
    context = serializers.DictField(source="submission.context")
    author = serializers.CharField(source="submission.author.ref", default=None, allow_null=True)
    external_id = serializers.CharField(source="submission.external_id")
    prediction_id = serializers.UUIDField(source="submission_id")
    probabilities = serializers.SerializerMethodField()
    lease = serializers.SerializerMethodField()

    class Meta:
        model = QueueItem
        fields = (
            "id",
            "version",
            "status",
            "kind",
            "queue",
            "label",
            "score",
            "priority_explanation",
            "community",
            "created_at",
            "due_at",
            "is_overdue",
            "lease",
            "text",
            "context",
            "author",
            "external_id",
            "prediction_id",
            "probabilities",
        )

    def get_priority_explanation(self, item: QueueItem) -> str:
        return item.explain_priority(self.context["user"])

    def get_label(self, item: QueueItem) -> str | None:
        return None if item.is_blind else item.label or None

    def get_score(self, item: QueueItem) -> float | None:
        return None if item.is_blind or not item.label else item.score

    def get_probabilities(self, item: QueueItem) -> dict[str, float] | None:
        return None if item.is_blind else item.prediction.probabilities

    def get_lease(self, item: QueueItem) -> dict[str, Any] | None:
        if not item.is_leased or item.lease_by is None:
            return None
        return {"by": item.lease_by.get_username(), "until": item.lease_until}


class RuleResult(serializers.Serializer):
    id = serializers.IntegerField()
    label = serializers.CharField()
    title = serializers.CharField()
    reason = serializers.CharField()
    guideline = serializers.CharField()


class QueueItemDetail(QueueItemResult):
    """A queue item with the data for a decision."""

    rules = RuleResult(source="policy.rules.all", many=True, help_text="The possible reasons of a rejection.")
    similar = serializers.SerializerMethodField(help_text="The number of similar open items.")
    author_strikes = serializers.SerializerMethodField(help_text="Null in a blind second review.")

    class Meta(QueueItemResult.Meta):
        fields = (*QueueItemResult.Meta.fields, "rules", "similar", "author_strikes")

    def get_similar(self, item: QueueItem) -> int:
        return item.similar().count()

    def get_author_strikes(self, item: QueueItem) -> int | None:
        if item.is_blind:
            return None
        author = item.submission.author
        return selectors.active_strikes(self.context["user"], author) if author else 0


class QueuePage(serializers.Serializer):
    next = serializers.URLField(allow_null=True)
    previous = serializers.URLField(allow_null=True)
    results = QueueItemResult(many=True)


class ClaimNextRequest(StrictSerializer):
    queue = serializers.ChoiceField(choices=Queue.choices, required=False)
    community = StringField(max_length=100, required=False, allow_blank=True)
    label = serializers.ChoiceField(choices=LABELS, required=False)


class DecideRequest(StrictSerializer):
    action = serializers.ChoiceField(choices=("approve", "reject", "escalate"))
    version = serializers.IntegerField(
        min_value=1, max_value=MAX_INTEGER, help_text="The version of the item that you have seen."
    )
    labels = TrueLabelsField(
        required=False,
        allow_null=True,
        help_text="Whether each label is true; labels that are left out are false. Without `labels`, a "
        "rejection gives the model nothing to learn.",
    )
    reason = serializers.IntegerField(
        min_value=0,
        max_value=MAX_BIG_INTEGER,
        required=False,
        help_text="The id of one of the item's rules; by default the rule of its label.",
    )
    note = StringField(
        default="",
        allow_blank=True,
        max_length=2_000,
        help_text="A note for moderators, which the history shows. It is never sent to the platform.",
    )
    seconds = serializers.FloatField(
        required=False, min_value=0, max_value=86_400, help_text="The duration of the review, at most a day."
    )
    similar = StrictBooleanField(
        default=False,
        help_text="Also approve or reject similar open items, at most 200. An escalation applies to the item "
        "only.",
    )


class DecisionResult(serializers.ModelSerializer):
    item = serializers.IntegerField(source="item_id")
    item_version = serializers.SerializerMethodField()
    item_status = serializers.SerializerMethodField()
    labels = LabelsField(allow_null=True, help_text="The labels that are true according to the moderator.")
    reason = serializers.CharField()
    by = serializers.CharField(source="actor")
    decided = serializers.SerializerMethodField(
        help_text="The number of items that were decided or undone, with similar ones."
    )

    class Meta:
        model = Decision
        fields = (
            "id",
            "item",
            "item_version",
            "item_status",
            "action",
            "labels",
            "reason",
            "by",
            "created_at",
            "decided",
        )

    def get_item_version(self, decision: Decision) -> int:
        return self.context["item"].version

    def get_item_status(self, decision: Decision) -> str:
        return self.context["item"].status

    def get_decided(self, decision: Decision) -> int:
        return self.context.get("decided", 1)


class UndoRequest(StrictSerializer):
    similar = StrictBooleanField(
        default=False, help_text="Also undo the decisions on similar items that were made with it."
    )


class NotUndoneResult(serializers.Serializer):
    item = serializers.IntegerField()
    reason = serializers.CharField()


class UndoResult(DecisionResult):
    reverses = serializers.IntegerField(source="reverses_id", help_text="The decision that was undone.")
    not_undone = serializers.SerializerMethodField(
        help_text="Similar items whose decisions could not be undone."
    )

    class Meta(DecisionResult.Meta):
        fields = (*DecisionResult.Meta.fields, "reverses", "not_undone")

    @extend_schema_field(NotUndoneResult(many=True))
    def get_not_undone(self, decision: Decision) -> list[dict[str, Any]]:
        return self.context["not_undone"]


class ViewCountResult(serializers.Serializer):
    view = serializers.CharField()
    count = serializers.IntegerField(help_text="Open items, counted up to 1,000; 1,001 means more.")
    available = serializers.IntegerField(
        help_text="The number of these items that the moderator can claim now."
    )
    overdue = serializers.IntegerField()
    oldest = serializers.DateTimeField(allow_null=True)


class AppealCountsResult(serializers.Serializer):
    open = serializers.IntegerField()
    upheld = serializers.IntegerField()
    overturned = serializers.IntegerField()


class ModeratorStatisticsResult(serializers.Serializer):
    decisions = serializers.IntegerField()
    actions = serializers.DictField(child=serializers.IntegerField())
    mean_seconds = serializers.FloatField(allow_null=True)
    appealed = serializers.IntegerField()
    overturned = serializers.IntegerField()
    overturn_rate = serializers.FloatField(allow_null=True)


class ModerationStatsResult(serializers.Serializer):
    """The queue, the appeals of the last 90 days, and the moderator's last 30 days."""

    views = ViewCountResult(many=True)
    appeals = AppealCountsResult()
    moderator = ModeratorStatisticsResult()


class AppealRequest(StrictSerializer):
    token = StringField(required=False, max_length=500, help_text="The `appeal_token` of the rejection.")
    decision_id = serializers.IntegerField(
        min_value=0,
        max_value=MAX_BIG_INTEGER,
        required=False,
        help_text="Instead of `token`: the id of a decision on your comment.",
    )
    text = StringField(default="", allow_blank=True, max_length=5_000, help_text="The author's reasons.")

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if ("token" in attrs) == ("decision_id" in attrs):
            raise serializers.ValidationError({"token": ["Send either `token` or `decision_id`."]})
        return attrs


class AppealResult(serializers.ModelSerializer):
    decision_id = serializers.IntegerField()
    queue_id = serializers.IntegerField(source="item_id")

    class Meta:
        model = Appeal
        fields = ("id", "decision_id", "queue_id", "status", "created_at")
