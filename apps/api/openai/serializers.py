"""The request and the response of OpenAI's moderation API."""

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
)
from apps.api.openai.categories import CATEGORIES
from apps.api.openai.errors import UnsupportedInputError

_PART = {
    "type": "object",
    "required": ["type", "text"],
    "properties": {"type": {"type": "string", "enum": ["text"]}, "text": {"type": "string"}},
}


class PartField(serializers.Field):
    """A part of an input: the text of an object with the type `text`."""

    default_error_messages = {"invalid": "A part must be an object with the members `type` and `text`."}

    def to_internal_value(self, data: Any) -> str:
        if not isinstance(data, dict) or not isinstance(data.get("type"), str):
            self.fail("invalid")
        if data["type"] != "text":
            raise UnsupportedInputError
        return CommentField().run_validation(data.get("text"))


@extend_schema_field(
    {
        "oneOf": [
            {"type": "string"},
            {"type": "array", "items": {"type": "string"}, "minItems": 1},
            {"type": "array", "items": _PART, "minItems": 1},
        ]
    }
)
class InputField(serializers.Field):
    """A text, a list of texts, or a list of parts. The validated value is the list of comments to score.

    The parts of a list are one comment, a part a line.
    """

    default_error_messages = {"invalid": "This must be a string, a list of strings or a list of parts."}
    _text = CommentField()
    _texts = CommentsField(min_length=1, max_length=settings.MAX_BATCH)
    _parts = BoundedListField(child=PartField(), min_length=1, max_length=settings.MAX_BATCH)

    def to_internal_value(self, data: Any) -> list[str]:
        if isinstance(data, str):
            return [self._text.run_validation(data)]
        if not isinstance(data, list):
            self.fail("invalid")
        if data and isinstance(data[0], dict):
            return [self._text.run_validation("\n".join(self._parts.run_validation(data)))]
        return self._texts.run_validation(data)


class ModerationRequest(StrictSerializer):
    """What to moderate. The model is ignored: the champion scores each request."""

    input = InputField(help_text="A text, a list of texts, or a list of text parts of one text.")
    model = StringField(required=False, max_length=200, allow_blank=True, allow_null=True)
    do_not_store = StrictBooleanField(default=False, help_text="Store the scores but not the text.")


def _by_category(schema: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "required": list(CATEGORIES),
        "properties": dict.fromkeys(CATEGORIES, schema),
    }


@extend_schema_field(_by_category({"type": "boolean"}))
class CategoriesField(serializers.DictField):
    """Booleans by category."""


@extend_schema_field(_by_category({"type": "number", "minimum": 0, "maximum": 1}))
class CategoryScoresField(serializers.DictField):
    """Scores by category."""


@extend_schema_field(_by_category({"type": "array", "items": {"type": "string", "enum": ["text"]}}))
class AppliedInputTypesField(serializers.DictField):
    """The kinds of input that were scored, by category."""


class ModerationResult(serializers.Serializer):
    """The result for one text."""

    flagged = serializers.BooleanField(help_text="Whether any category applies.")
    categories = CategoriesField()
    category_scores = CategoryScoresField()
    category_applied_input_types = AppliedInputTypesField()


class ModerationResponse(serializers.Serializer):
    """The results in the order of the texts."""

    id = serializers.CharField(help_text="`modr-` and the ID of the first prediction.")
    model = serializers.CharField(help_text="`toxicmod-` and the number of the model version.")
    results = ModerationResult(many=True)


class ErrorDetail(serializers.Serializer):
    """What is wrong with the request."""

    message = serializers.CharField()
    type = serializers.CharField()
    param = serializers.CharField(allow_null=True)
    code = serializers.CharField(allow_null=True)


class ErrorResponse(serializers.Serializer):
    """An error in OpenAI's format."""

    error = ErrorDetail()
