"""Strict fields and serializers: what is not exactly as documented is refused by name."""

from functools import cache
from typing import Any, Self

from django.conf import settings
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from apps.classifier.labels import LABELS


class StringField(serializers.CharField):
    """A string that the database can hold: a real JSON string without NUL or lone surrogates."""

    default_error_messages = {
        "not_a_string": "This must be a string.",
        "nul": "NUL characters are not allowed.",
        "surrogate": "This has half of a surrogate pair, which is not Unicode text.",
    }

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("trim_whitespace", False)
        super().__init__(**kwargs)
        # DRF's own checks for NUL and surrogates say less and cost more; ours run first.
        self.validators = [
            check for check in self.validators if type(check).__module__.startswith("django.core")
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


class CommentField(StringField):
    """A comment: not empty, at most 20,480 bytes of UTF-8."""

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
    """A list whose length is checked before its members are."""

    def __init__(self, *, max_length: int, **kwargs: Any) -> None:
        super().__init__(max_length=max_length, **kwargs)

    def to_internal_value(self, data: Any) -> list[Any]:
        if isinstance(data, list) and len(data) > self.max_length:
            self.fail("max_length", max_length=self.max_length)
        return super().to_internal_value(data)


class CommentsField(BoundedListField):
    """A list of comments."""

    child = CommentField()

    def run_child_validation(self, data: list[Any]) -> list[str]:
        """Ask once, where that does, instead of for each comment, which takes several times as long."""
        return data if _are_comments(data) else super().run_child_validation(data)


def _are_comments(data: list[Any]) -> bool:
    try:
        together = "".join(data)
        together.encode()
    except (TypeError, UnicodeEncodeError):
        return False
    short = settings.MAX_COMMENT_BYTES // 4  # code points that are never too long
    return "\0" not in together and all(text.strip() and len(text) <= short for text in data)


@extend_schema_field(OpenApiTypes.BOOL)
class StrictBooleanField(serializers.Field):
    """A JSON boolean, not a word or a number that looks like one."""

    default_error_messages = {"invalid": "This must be true or false."}

    def to_internal_value(self, data: Any) -> bool:
        if not isinstance(data, bool):
            self.fail("invalid")
        return data

    def to_representation(self, value: bool) -> bool:
        return value


class TrueLabelsField(serializers.DictField):
    """Booleans by label, read as the list of the labels that are true."""

    child = StrictBooleanField()
    default_error_messages = {"unknown": "Unknown: {names}. Labels: {labels}."}

    def to_internal_value(self, data: Any) -> list[str]:  # type: ignore[override]
        if isinstance(data, dict) and (unknown := sorted(set(data) - set(LABELS))):
            self.fail("unknown", names=", ".join(unknown), labels=", ".join(LABELS))
        return [label for label, flag in super().to_internal_value(data).items() if flag]


class StrictSerializer(serializers.Serializer):
    """Refuses members that are not fields, so that a misspelt option is never ignored."""

    @classmethod
    @cache
    def _shared(cls) -> Self:
        return cls()

    @classmethod
    def read(cls, data: Any) -> dict[str, Any]:
        """Return what `is_valid` leaves in `validated_data`, without making all fields anew for each request.

        Raises:
            ValidationError: the data is not as documented.
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
