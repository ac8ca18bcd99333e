"""Forms of the public pages."""

from typing import Any

from django import forms
from django.conf import settings
from django.core.exceptions import ValidationError

from apps.classifier.labels import LABELS
from apps.pages.results import MEANINGS, NAMES

NONE = "none"


class CommentForm(forms.Form):
    """A comment to check."""

    text = forms.CharField(
        label="Your comment",
        strip=False,
        error_messages={"required": "Write a comment first, or try an example."},
        widget=forms.Textarea(
            attrs={"rows": 7, "dir": "auto", "placeholder": "Type or paste a comment…", "spellcheck": "false"}
        ),
    )
    store = forms.BooleanField(label="Save my text", required=False)

    def clean_text(self) -> str:
        """Return the comment with a line feed as line break; browsers send CR LF."""
        text = self.cleaned_data["text"].replace("\r\n", "\n")
        if not text.strip():
            raise ValidationError("Write a comment first, or try an example.")
        size = len(text.encode("utf-8", "surrogatepass"))
        if size > settings.MAX_COMMENT_BYTES:
            raise ValidationError(
                f"Please shorten the comment: it has {size:,} bytes, "
                f"and the limit is {settings.MAX_COMMENT_BYTES:,}."
            )
        return text


class FeedbackForm(forms.Form):
    """A visitor's feedback on a result."""

    is_right = forms.TypedChoiceField(
        label="Is this result right?",
        choices=[("1", "Yes, it is right"), ("0", "No, it is wrong")],
        coerce=lambda value: value == "1",
        widget=forms.RadioSelect,
        error_messages={"required": "Choose one: is the result right or wrong?"},
    )
    labels = forms.MultipleChoiceField(
        label="Which labels apply? (optional)",
        choices=[
            *((label, f"{NAMES[label]}: {MEANINGS[label]}") for label in LABELS),
            (NONE, "None of these"),
        ],
        widget=forms.CheckboxSelectMultiple,
        required=False,
    )
    remark = forms.CharField(
        label="Comment (optional)",
        max_length=2_000,
        required=False,
        widget=forms.Textarea(attrs={"rows": 3, "dir": "auto"}),
    )

    def clean(self) -> dict[str, Any]:
        data = self.cleaned_data
        labels = data.get("labels") or []
        if NONE in labels and len(labels) > 1:
            raise ValidationError("Choose labels or “None of these”, not both.")
        data["true_labels"] = [label for label in labels if label != NONE] if labels else None
        return data


class AppealForm(forms.Form):
    """An author's appeal against a decision."""

    text = forms.CharField(
        label="Why should we review it again?",
        max_length=5_000,
        required=False,
        widget=forms.Textarea(attrs={"rows": 6, "dir": "auto"}),
    )
