"""Strict fields and serializers: they convert no types and reject unknown members."""

from functools import cache
from typing import Any, Self

from django.conf import settings
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers
from rest_framework.validators import ProhibitSurrogateCharactersValidator

from apps.classifier.labels import LABELS


class StringField(serializers.CharField):
    """A JSON string without NUL and lone surrogates, which PostgreSQL can't store."""

    default_error_messages = {
        "not_a_string": "This must be a string.",
        "nul": "NUL characters are not allowed.",
        "surrogate": "This has half of a surrogate pair, which is not Unicode text.",
    }

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("trim_whitespace", False)
        super().__init__(**kwargs)
        # It repeats the check below character by character in Python: 1.6 ms for 20 KB (`timeit`), as long as
        # scoring.
        self.validators = [
            validator
            for validator in self.validators
            if not isinstance(validator, ProhibitSurrogateCharactersValidator)
        ]

    def to_internal_value(self, data: Any) -> str:
        if not isinstance(data, str):
            self.fail("not_a_string")
        if "\0" in data:
            self.fail("nul")
        try:
            data.encode()
        except UnicodeEncodeError:
            self.fail("surrogate")
        return super().to_internal_value(data)


class AddressField(StringField, serializers.URLField):
    """A URL."""


class CommentField(StringField):
    """A comment: not blank, at most MAX_COMMENT_BYTES bytes of UTF-8."""

    default_error_messages = {
        "blank": "The comment is empty.",
        "too_long": "The comment has {size} bytes, more than the {limit} that are allowed.",
    }

    def to_internal_value(self, data: Any) -> str:
        text = super().to_internal_value(data)
        if not text.strip():
            self.fail("blank")
        size = len(text) if text.isascii() else len(text.encode())
        if size > settings.MAX_COMMENT_BYTES:
            self.fail("too_long", size=size, limit=settings.MAX_COMMENT_BYTES)
        return text


class BoundedListField(serializers.ListField):
    """A list whose length is validated before its members, so that long lists cost little."""

    def __init__(self, *, max_length: int, **kwargs: Any) -> None:
        super().__init__(max_length=max_length, **kwargs)
        self.limit = max_length

    def to_internal_value(self, data: Any) -> list[Any]:
        if isinstance(data, list) and len(data) > self.limit:
            self.fail("max_length", max_length=self.limit)
        return super().to_internal_value(data)


class CommentsField(BoundedListField):
    """A list of comments."""

    child = CommentField()

    def run_child_validation(self, data: list[Any]) -> list[str]:
        """Validate all comments at once; validate them one by one only if one of them may be invalid.

        One by one, 100 comments take 1.2 ms (`timeit`), a quarter of their request in `manage.py
        bench_references`.
        """
        return data if _are_valid_comments(data) else super().run_child_validation(data)


def _are_valid_comments(data: list[Any]) -> bool:
    """Return True only if all items are valid comments; False may be wrong for long comments."""
    try:
        concatenated = "".join(data)
        concatenated.encode()
    except (TypeError, UnicodeEncodeError):
        return False
    max_length = settings.MAX_COMMENT_BYTES // 4  # a code point has at most four bytes
    return "\0" not in concatenated and all(text.strip() and len(text) <= max_length for text in data)


@extend_schema_field(OpenApiTypes.BOOL)
class StrictBooleanField(serializers.Field):
    """A JSON boolean; a string or a number is invalid."""

    default_error_messages = {"invalid": "This must be true or false."}

    def to_internal_value(self, data: Any) -> bool:
        if not isinstance(data, bool):
            self.fail("invalid")
        return data

    def to_representation(self, value: bool) -> bool:
        return value


class TrueLabelsField(serializers.DictField):
    """Booleans by label; the validated value is the list of the labels that are true."""

    child = StrictBooleanField()
    default_error_messages = {
        "unknown": "Unknown labels: {names}. Labels: {labels}.",
        "not_a_dict": "This must be a JSON object with true or false for each label.",
    }

    def to_internal_value(self, data: Any) -> list[str]:  # type: ignore[override]
        if isinstance(data, dict) and (unknown := sorted(set(data) - set(LABELS))):
            self.fail("unknown", names=", ".join(unknown), labels=", ".join(LABELS))
        return [label for label, flag in super().to_internal_value(data).items() if flag]


class StrictSerializer(serializers.Serializer):
    """Rejects members that are not fields, so that a misspelt option is never ignored."""

    default_error_messages = {"invalid": "The request must be a JSON object."}

    @classmethod
    @cache
    def _shared(cls) -> Self:
        return cls()

    @classmethod
    def validated(cls, data: Any) -> dict[str, Any]:
        """Return the validated data of a request.

        The serializer is shared, because making its fields takes 0.3 ms (`timeit`), longer than scoring.

        Raises:
            ValidationError: the data is invalid.
        """
        if data is None:
            cls(data=data).is_valid(raise_exception=True)
        return cls._shared().run_validation(data)

    def to_internal_value(self, data: Any) -> dict[str, Any]:
        if isinstance(data, dict) and (unknown := sorted(set(data) - set(self.fields))):
            known = ", ".join(self.fields)
            raise serializers.ValidationError(
                {name: [f"This field is unknown. Known fields: {known}."] for name in unknown}
            )
        return super().to_internal_value(data)
