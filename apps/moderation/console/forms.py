"""The console's forms: they read what a page sends and leave the judgement to the actions."""

from collections.abc import Iterable
from typing import Any, cast

from django import forms
from django.core.validators import validate_comma_separated_integer_list

from apps.moderation.actions import BulkFilter
from apps.moderation.errors import ModerationError
from apps.moderation.models import (
    LABEL_CHOICES,
    Decision,
    Policy,
    PolicyRule,
    Preference,
    Queue,
    QueueItem,
)


class Sound(forms.Form):
    """A form whose mistakes can be handed to the door."""

    def refusal(self) -> ModerationError:
        """Return the first mistake of each field as one message."""
        found = [
            f"{messages[0]}" if name == "__all__" else f"{name.replace('_', ' ').capitalize()}: {messages[0]}"
            for name, messages in self.errors.items()
        ]
        return ModerationError(" ".join(found))


class RotateForm(Sound):
    """For how long the old signing secret stays valid; without it, as long as usual."""

    overlap_hours = forms.IntegerField(min_value=0, max_value=720, required=False)


class TestWebhookForm(Sound):
    """Where a test webhook goes."""

    url = forms.URLField(max_length=500, assume_scheme="https")


class IdsField(forms.CharField):
    """Numbers of items, separated by commas, as a list."""

    default_validators = [validate_comma_separated_integer_list]

    def clean(self, value: Any) -> list[int]:
        text = super().clean(value)
        return [int(number) for number in text.split(",")] if text else []


class NextForm(Sound):
    """What the script says of the tab that wants the next item, or that shows one."""

    tab = forms.CharField(max_length=40)
    besides = IdsField(max_length=2_000, required=False)
    begins = forms.BooleanField(required=False)


class ReleaseForm(Sound):
    """Which lease and which offers end when an item's page is left."""

    tab = forms.CharField(max_length=40, required=False)
    version = forms.IntegerField(min_value=1, required=False)
    ahead = forms.IntegerField(min_value=1, required=False)


class DecideForm(Sound):
    """One verdict on one item, and on the similar ones that were shown."""

    action = forms.ChoiceField(choices=[("approve", ""), ("reject", ""), ("escalate", "")])
    version = forms.IntegerField(min_value=1)
    labels = forms.MultipleChoiceField(choices=LABEL_CHOICES, required=False)
    none = forms.BooleanField(required=False)
    rule = forms.ModelChoiceField(queryset=PolicyRule.objects.none(), required=False)
    note = forms.CharField(max_length=2_000, required=False)
    seconds = forms.FloatField(min_value=0, max_value=86_400, required=False)
    similar = IdsField(max_length=4_000, required=False)

    def __init__(self, *args: Any, item: QueueItem, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["rule"].queryset = item.policy.rules.all()  # type: ignore[attr-defined]

    def clean(self) -> dict[str, Any]:
        data = super().clean() or {}
        if data.get("none") and data.get("labels"):
            raise forms.ValidationError("Tick labels or “None of these”, not both.")
        return data

    def verdict(self) -> dict[str, Any]:
        """Return the arguments of `actions.decide`. Only labels that the moderator ticked are labels."""
        data = self.cleaned_data
        labels = data["labels"] or ([] if data["none"] else None)
        return {
            "version": data["version"],
            "action": Decision.Action(data["action"]),
            "labels": None if data["action"] == "escalate" else labels,
            "rule": data["rule"] if data["action"] == "reject" else None,
            "note": data["note"],
            "seconds": data["seconds"],
        }


class BulkForm(Sound):
    """Which open items, as `actions.BulkFilter`. Nothing is chosen in advance."""

    label = forms.ChoiceField(choices=[("", "Choose a label"), *LABEL_CHOICES])
    score_from = forms.FloatField(min_value=0, max_value=1, required=False)
    score_to = forms.FloatField(min_value=0, max_value=1, required=False)
    queue = forms.ChoiceField(choices=[("", "Any"), *Queue.choices], required=False)
    community = forms.ChoiceField(required=False)
    cluster = forms.IntegerField(required=False, widget=forms.HiddenInput)

    def __init__(self, *args: Any, communities: Iterable[str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        names = [(name, name) for name in communities if name]
        self.fields["community"].choices = [("", "Any"), *names]  # type: ignore[attr-defined]

    def clean(self) -> dict[str, Any]:
        data = super().clean() or {}
        low, high = data.get("score_from"), data.get("score_to")
        if low is not None and high is not None and low >= high:
            raise forms.ValidationError("The range is empty: its end must be higher than its begin.")
        return data

    def filter(self) -> BulkFilter:
        """Return what was filled in."""
        filled = {name: value for name, value in self.cleaned_data.items() if value not in ("", None)}
        return cast("BulkFilter", filled)

    @property
    def is_complete(self) -> bool:
        """Whether a range of scores was chosen, or one cluster of similar comments."""
        chosen = self.cleaned_data
        has_range = chosen.get("score_from") is not None and chosen.get("score_to") is not None
        return has_range or chosen.get("cluster") is not None


class BulkActionForm(Sound):
    """What to do with them."""

    action = forms.ChoiceField(
        choices=[("approve", "Approve"), ("reject", "Reject")],
        error_messages={"required": "Choose Approve or Reject."},
    )
    rule = forms.ModelChoiceField(queryset=PolicyRule.objects.none(), required=False)
    note = forms.CharField(max_length=2_000, required=False)

    def __init__(self, *args: Any, rules: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["rule"].queryset = rules  # type: ignore[attr-defined]


class PreferenceForm(forms.ModelForm):
    """A moderator's own."""

    class Meta:
        model = Preference
        fields = ("masked", "greyscale", "keys", "exposure_limit")


class PolicyForm(forms.ModelForm):
    """A policy's shares and times."""

    class Meta:
        model = Policy
        fields = (
            "audit_share",
            "reject_audit_share",
            "second_review_share",
            "due_minutes",
            "urgent_due_minutes",
            "strike_days",
        )


class RuleForm(forms.ModelForm):
    """One rule; its thresholds are probabilities."""

    class Meta:
        model = PolicyRule
        fields = (
            "label",
            "title",
            "review_from",
            "reject_from",
            "reason",
            "guideline",
            "strikes",
            "category",
        )
        widgets = {
            "label": forms.HiddenInput,
            "guideline": forms.Textarea(attrs={"rows": 2}),
            **{
                name: forms.NumberInput(attrs={"min": 0, "max": 1, "step": 0.01})
                for name in ("review_from", "reject_from")
            },
        }


RuleFormSet = forms.formset_factory(RuleForm, extra=1, can_delete=True)
