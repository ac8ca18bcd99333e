"""What visitors fill in."""

from typing import Any

from django import forms
from django.conf import settings
from django.core.exceptions import ValidationError

from apps.classifier.labels import LABELS
from apps.pages.results import MEANINGS, NAMES

NONE = "none"


class CommentForm(forms.Form):
    """A comment to try."""

    text = forms.CharField(
        label="A comment",
        strip=False,
        error_messages={"required": "Write a comment first, or take an example."},
        widget=forms.Textarea(
            attrs={"rows": 7, "dir": "auto", "placeholder": "Type or paste a comment…", "spellcheck": "false"}
        ),
    )
    store = forms.BooleanField(label="Store my text", required=False)

    def clean_text(self) -> str:
        """Return the comment with one character for a line break; forms send two."""
        text = self.cleaned_data["text"].replace("\r\n", "\n")
        if not text.strip():
            raise ValidationError("Write a comment first, or take an example.")
        size = len(text.encode("utf-8", "surrogatepass"))
        if size > settings.MAX_COMMENT_BYTES:
            raise ValidationError(
                f"Please shorten it: it has {size:,} bytes, and {settings.MAX_COMMENT_BYTES:,} are allowed."
            )
        return text


class FeedbackForm(forms.Form):
    """Whether a result was right."""

    is_right = forms.TypedChoiceField(
        label="Is this result right?",
        choices=[("1", "Yes, it is right"), ("0", "No, it is wrong")],
        coerce=lambda value: value == "1",
        widget=forms.RadioSelect,
        error_messages={"required": "Choose one: is the result right or wrong?"},
    )
    labels = forms.MultipleChoiceField(
        label="Which labels are true? (if you like)",
        choices=[
            *((label, f"{NAMES[label]}: {MEANINGS[label]}") for label in LABELS),
            (NONE, "None of them"),
        ],
        widget=forms.CheckboxSelectMultiple,
        required=False,
    )
    remark = forms.CharField(
        label="A remark (if you like)",
        max_length=2_000,
        required=False,
        widget=forms.Textarea(attrs={"rows": 3, "dir": "auto"}),
    )

    def clean(self) -> dict[str, Any]:
        data = self.cleaned_data
        labels = data.get("labels") or []
        if NONE in labels and len(labels) > 1:
            raise ValidationError("“None of them” and a label can't both be true.")
        data["true_labels"] = [label for label in labels if label != NONE] if labels else None
        return data


class AppealForm(forms.Form):
    """Why a decision was wrong, in its author's words."""

    text = forms.CharField(
        label="Why should it be looked at again?",
        max_length=5_000,
        required=False,
        widget=forms.Textarea(attrs={"rows": 6, "dir": "auto"}),
    )
