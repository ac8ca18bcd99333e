"""The requests and results of `/api/v1/` for predictions, feedback and models."""

from typing import Any

from django.conf import settings
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from apps.api.fields import (
    BoundedListField,
    CommentField,
    CommentsField,
    StrictBooleanField,
    StrictSerializer,
    StringField,
    TrueLabelsField,
)
from apps.classifier.labels import LABELS
from apps.predictions.models import Prediction
from apps.registry.models import ModelVersion

_BY_LABEL = {"type": "object", "required": list(LABELS), "additionalProperties": False}


# There are two thresholds for each label, so each description has to name the one that it means.
LABELS_HELP = (
    "The labels whose probability reaches the threshold of the model version that scored the comment (see "
    "`thresholds` in `/api/v1/models`). Use them to sort, count and compare comments. They are no decision: "
    "to publish, hold or remove a comment, use the `outcome` of `/api/v1/moderate`, which your policy sets."
)
IS_TOXIC_HELP = (
    "Whether any of `labels` is true, at the model's thresholds. This is no decision: see the `outcome` of "
    "`/api/v1/moderate`."
)
OUTCOME_HELP = (
    "What should happen to the comment by the community's policy, which has its own thresholds, mostly "
    "higher than the model's. Publish, hold or remove a comment by this, not by `labels` or `is_toxic`."
)


@extend_schema_field({**_BY_LABEL, "properties": {label: {"type": "boolean"} for label in LABELS}})
class LabelsField(serializers.DictField):
    """Six booleans by label."""


@extend_schema_field(
    {
        **_BY_LABEL,
        "properties": {label: {"type": "number", "minimum": 0, "maximum": 1} for label in LABELS},
    }
)
class ProbabilitiesField(serializers.DictField):
    """Six calibrated probabilities by label."""


class PredictRequest(StrictSerializer):
    """One comment or several, and options."""

    text = CommentField(required=False, help_text="The comment, at most 20,480 bytes of UTF-8.")
    texts = CommentsField(required=False, min_length=1, max_length=settings.MAX_BATCH)
    do_not_store = StrictBooleanField(default=False, help_text="Store the scores but not the text.")
    external_id = StringField(
        default="", max_length=200, allow_blank=True, help_text="Your id of the comment."
    )
    external_ids = BoundedListField(
        child=StringField(max_length=200, allow_blank=True),
        max_length=settings.MAX_BATCH,
        required=False,
        help_text="Your ids of the comments, in the order of `texts`.",
    )
    community = StringField(default="", max_length=100, allow_blank=True)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if ("text" in attrs) == ("texts" in attrs):
            raise serializers.ValidationError({"text": ["Send either `text` or `texts`."]})
        if "text" in attrs:
            if "external_ids" in attrs:
                raise serializers.ValidationError(
                    {"external_ids": ["Send `external_id` with a single text."]}
                )
            attrs["external_ids"] = [attrs["external_id"]]
        else:
            if attrs["external_id"]:
                raise serializers.ValidationError({"external_id": ["Send `external_ids` with `texts`."]})
            ids = attrs.setdefault("external_ids", [])
            if ids and len(ids) != len(attrs["texts"]):
                raise serializers.ValidationError({"external_ids": ["Send one id for each text."]})
        return attrs


class PredictProbaRequest(PredictRequest):
    explain = StrictBooleanField(
        default=False,
        help_text="Add the contribution of each part of the text; for at most 10 comments per request.",
    )

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        attrs = super().validate(attrs)
        if attrs["explain"] and len(attrs.get("texts", [])) > settings.MAX_EXPLAINED:
            message = f"A request can explain at most {settings.MAX_EXPLAINED} comments."
            raise serializers.ValidationError({"explain": [message]})
        return attrs


class LabelsResult(serializers.Serializer):
    """The labels of one comment."""

    id = serializers.UUIDField()
    labels = LabelsField(help_text=LABELS_HELP)
    is_toxic = serializers.BooleanField(help_text=IS_TOXIC_HELP)
    model_version = serializers.IntegerField()


class SpanResult(serializers.Serializer):
    begin = serializers.IntegerField(help_text="In Unicode code points of the text.")
    end = serializers.IntegerField(help_text="Exclusive.")
    contributions = serializers.DictField(
        child=serializers.FloatField(), help_text="Added to each label's linear score, in log-odds."
    )


class ExplanationResult(serializers.Serializer):
    """The logit of each probability is `intercept` plus the contributions of the spans plus `adjustment`."""

    intercept = serializers.DictField(child=serializers.FloatField())
    adjustment = serializers.DictField(
        child=serializers.FloatField(), help_text="The contribution of the second stage and the calibration."
    )
    logit = serializers.DictField(child=serializers.FloatField())
    spans = SpanResult(many=True)


class ProbabilitiesResult(LabelsResult):
    """The labels and probabilities of one comment."""

    probabilities = ProbabilitiesField()
    max_probability = serializers.FloatField()
    explanation = ExplanationResult(required=False)


class LabelsAnswer(LabelsResult):
    """The result for `text`; for `texts`, only `results`."""

    results = LabelsResult(many=True, required=False)


class ProbabilitiesAnswer(ProbabilitiesResult):
    """The result for `text`; for `texts`, only `results`."""

    results = ProbabilitiesResult(many=True, required=False)


class PredictionRecord(serializers.ModelSerializer):
    """A stored prediction."""

    labels = LabelsField(help_text=LABELS_HELP)
    is_toxic = serializers.BooleanField(help_text=IS_TOXIC_HELP)
    probabilities = ProbabilitiesField()
    max_probability = serializers.SerializerMethodField()
    model_version = serializers.IntegerField(source="model_version.number")

    class Meta:
        model = Prediction
        fields = (
            "id",
            "created_at",
            "source",
            "community",
            "external_id",
            "text",
            "text_hash",
            "labels",
            "is_toxic",
            "probabilities",
            "max_probability",
            "model_version",
            "latency_us",
            "was_read",
        )

    def get_max_probability(self, prediction: Prediction) -> float:
        return max(prediction.probabilities.values())


class FeedbackRequest(StrictSerializer):
    prediction_id = serializers.UUIDField()
    is_right = StrictBooleanField(help_text="Whether the prediction was right.")
    labels = TrueLabelsField(
        required=False,
        allow_null=True,
        help_text="Whether each label is true, as in a result; labels that are left out are false.",
    )
    remark = StringField(default="", allow_blank=True, max_length=2_000)


class FeedbackResult(serializers.Serializer):
    id = serializers.IntegerField()
    prediction_id = serializers.UUIDField()
    is_right = serializers.BooleanField()
    labels = LabelsField(
        source="true_labels", allow_null=True, help_text="The labels that are true according to the feedback."
    )
    remark = serializers.CharField()
    created_at = serializers.DateTimeField()


class ExampleResult(serializers.Serializer):
    text = serializers.CharField()
    source = serializers.CharField(help_text="Always `built-in`: the comment comes with toxicmod.")


class ModelResult(serializers.ModelSerializer):
    version = serializers.IntegerField(source="number")
    thresholds = ProbabilitiesField(
        help_text="The model's thresholds: at these probabilities, `labels` become true. The policy has its "
        "own thresholds, which determine the `outcome` of `/api/v1/moderate`."
    )

    class Meta:
        model = ModelVersion
        fields = ("version", "alias", "recipe", "sha256", "created_at", "thresholds", "metrics")


class StatsResult(serializers.Serializer):
    """Statistics of the current hour and the one before, as far as they are counted."""

    since = serializers.DateTimeField()
    predictions = serializers.IntegerField()
    toxic = serializers.IntegerField(help_text="Comments with at least one label at the model's thresholds.")
    mean_latency_us = serializers.IntegerField(allow_null=True)
    model_version = serializers.IntegerField()
    feedback = serializers.IntegerField()


class ProblemResult(serializers.Serializer):
    """RFC 9457 problem details."""

    type = serializers.CharField()
    title = serializers.CharField()
    status = serializers.IntegerField()
    detail = serializers.CharField()
    errors = serializers.ListField(
        child=serializers.DictField(child=serializers.CharField()),
        required=False,
        help_text="The `field` and `message` of each invalid field.",
    )
