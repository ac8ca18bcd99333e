"""Forms of the console. They parse requests; the actions check rules and permissions."""

from collections.abc import Iterable
from typing import Any, cast

from django import forms
from django.core.exceptions import NON_FIELD_ERRORS
from django.core.validators import validate_comma_separated_integer_list

from apps.core.models import MAX_BIG_INTEGER, MAX_INTEGER
from apps.core.text import name_community
from apps.moderation.actions import BulkFilter
from apps.moderation.exceptions import ModerationError
from apps.moderation.models import (
    LABEL_CHOICES,
    Decision,
    Policy,
    PolicyRule,
    Preference,
    Queue,
    QueueItem,
)


def describe_error(form: forms.BaseForm, name: str, message: str) -> str:
    """Return an error message with the label of its field."""
    return message if name == NON_FIELD_ERRORS else f"{form[name].label}: {message}"


class MessageForm(forms.Form):
    """A form whose validation errors can be raised as one `ModerationError`."""

    def to_error(self) -> ModerationError:
        """Return the first validation error of each field as one exception."""
        errors = [describe_error(self, name, str(messages[0])) for name, messages in self.errors.items()]
        return ModerationError(" ".join(errors))


class CommunityField(forms.ChoiceField):
    """A choice of a community; its value is the community's name, or None without a choice.

    The values of the choices have a prefix, so that the empty name differs from no choice.
    """

    def __init__(self, *, communities: Iterable[str] = (), empty_label: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.empty_label = empty_label
        self.set_communities(communities)

    def set_communities(self, communities: Iterable[str]) -> None:
        """Offer these communities."""
        choices = [(f"={name}", name_community(name)) for name in communities]
        self.choices = [("", self.empty_label), *choices]

    def validate(self, value: Any) -> None:
        if value and not self.valid_value(value):
            raise forms.ValidationError(f"There is no community “{value.removeprefix('=')}”.")
        super().validate(value)

    def clean(self, value: Any) -> str | None:
        choice = super().clean(value)
        return choice.removeprefix("=") if choice else None


class RotateForm(forms.Form):
    """Rotation of a signing secret. Empty overlap: `apps.webhooks.actions.DEFAULT_OVERLAP`."""

    overlap_hours = forms.IntegerField(min_value=0, max_value=720, required=False)


class TestWebhookForm(forms.Form):
    """URL to which a test webhook is sent."""

    url = forms.URLField(label="URL", max_length=500, assume_scheme="https")


class IdListField(forms.CharField):
    """Ids of items, separated by commas, as a list of integers."""

    default_validators = [validate_comma_separated_integer_list]

    def clean(self, value: Any) -> list[int]:
        text = super().clean(value)
        return [int(number) for number in text.split(",")] if text else []


class NextItemForm(MessageForm):
    """Request for the next item by a browser tab, which excludes the items that it shows or is deciding."""

    tab = forms.CharField(max_length=40)
    exclude = IdListField(max_length=2_000, required=False)


class PresenceForm(MessageForm):
    """Message of a browser tab that shows an item; `is_first` once, when it begins to show it."""

    tab = forms.CharField(max_length=40)
    is_first = forms.BooleanField(required=False)


class ReleaseForm(MessageForm):
    """Message of a browser tab that leaves an item: the version of its lease, and the prefetched item."""

    tab = forms.CharField(max_length=40, required=False)
    version = forms.IntegerField(min_value=1, max_value=MAX_INTEGER, required=False)
    prefetched = forms.IntegerField(min_value=1, max_value=MAX_BIG_INTEGER, required=False)


class DecideForm(MessageForm):
    """A decision on an item. An approval or rejection includes the similar items that were shown with it."""

    action = forms.ChoiceField(choices=[("approve", ""), ("reject", ""), ("escalate", "")])
    version = forms.IntegerField(min_value=1, max_value=MAX_INTEGER)
    labels = forms.MultipleChoiceField(choices=LABEL_CHOICES, required=False)
    none = forms.BooleanField(required=False)
    rule = forms.ModelChoiceField(queryset=PolicyRule.objects.none(), required=False)
    note = forms.CharField(max_length=2_000, required=False)
    seconds = forms.FloatField(min_value=0, max_value=86_400, required=False)
    similar = IdListField(max_length=4_000, required=False)

    def __init__(self, *args: Any, item: QueueItem, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["rule"].queryset = item.policy.rules.all()  # type: ignore[attr-defined]

    def clean(self) -> dict[str, Any]:
        data = super().clean() or {}
        if data.get("none") and data.get("labels"):
            raise forms.ValidationError("Tick labels or “None of these”, not both.")
        if data.get("action") == "escalate":
            data["similar"] = []
        return data

    def decision_arguments(self) -> dict[str, Any]:
        """Return keyword arguments of `actions.decide`. Its labels are those that the moderator ticked."""
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


class BulkForm(forms.Form):
    """Filter of open items for a bulk decision. No value is preselected."""

    label = forms.ChoiceField(choices=[("", "Choose a label"), *LABEL_CHOICES])
    score_from = forms.FloatField(min_value=0, max_value=1, required=False)
    score_to = forms.FloatField(min_value=0, max_value=1, required=False)
    queue = forms.ChoiceField(
        choices=[
            ("", "Any"),
            # Bulk jobs include neither appeals nor blind second reviews, see `select_items`.
            *(choice for choice in Queue.choices if choice[0] not in (Queue.APPEAL, Queue.SECOND)),
        ],
        required=False,
    )
    community = CommunityField(empty_label="Any", required=False)
    cluster = forms.IntegerField(
        min_value=-MAX_BIG_INTEGER, max_value=MAX_BIG_INTEGER, required=False, widget=forms.HiddenInput
    )

    def __init__(self, *args: Any, communities: Iterable[str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["community"].set_communities(communities)  # type: ignore[attr-defined]

    def clean(self) -> dict[str, Any]:
        data = super().clean() or {}
        low, high = data.get("score_from"), data.get("score_to")
        if low is not None and high is not None and low >= high:
            raise forms.ValidationError("The range is empty: “to” must be higher than “from”.")
        return data

    def filter(self) -> BulkFilter:
        """Return the fields that have a value."""
        values = {
            name: value
            for name, value in self.cleaned_data.items()
            # The empty name of a community stands for comments without one.
            if value is not None and (value != "" or name == "community")
        }
        return cast("BulkFilter", values)

    @property
    def is_complete(self) -> bool:
        """Whether a range of scores or a cluster of similar comments is selected."""
        data = self.cleaned_data
        has_range = data.get("score_from") is not None and data.get("score_to") is not None
        return has_range or data.get("cluster") is not None


class BulkActionForm(forms.Form):
    """Decision to apply to the selected items."""

    action = forms.ChoiceField(
        choices=[("approve", "Approve"), ("reject", "Reject")],
        widget=forms.RadioSelect,
        error_messages={"required": "Choose Approve or Reject."},
    )
    rule = forms.ModelChoiceField(
        queryset=PolicyRule.objects.none(), required=False, empty_label="Choose a reason"
    )
    note = forms.CharField(max_length=2_000, required=False)

    def __init__(self, *args: Any, rules: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["rule"].queryset = rules  # type: ignore[attr-defined]


class PreferenceForm(forms.ModelForm):
    """A moderator's preferences."""

    class Meta:
        model = Preference
        fields = ("masked", "greyscale", "keys", "exposure_limit")
        labels = {"masked": "Hide comments", "exposure_limit": "Exposure limit"}
        help_texts = {
            "masked": "Show the text of a comment only when you press Space.",
            "exposure_limit": "Suggest a break after this many severe comments in a shift; 0: never.",
        }


class PolicyForm(forms.ModelForm):
    """Sampling rates and deadlines of a policy."""

    class Meta:
        model = Policy
        fields = (
            "audit_share",
            "reject_audit_share",
            "second_review_share",
            "review_other_languages",
            "due_minutes",
            "urgent_due_minutes",
            "strike_days",
        )
        labels = {
            "audit_share": "Audits of approvals",
            "reject_audit_share": "Audits of automatic rejections",
            "second_review_share": "Blind second reviews",
            "review_other_languages": "Review other languages",
            "due_minutes": "Review within (minutes)",
            "urgent_due_minutes": "Review urgent comments within (minutes)",
            "strike_days": "Strikes expire after (days)",
        }
        help_texts = {
            "audit_share": "Fraction of automatically approved comments that a moderator checks.",
            "reject_audit_share": "Fraction of automatically rejected comments that a moderator checks.",
            "second_review_share": "Fraction of decisions that a second moderator repeats independently.",
            "review_other_languages": "Hold comments for review whose language the model does not score.",
            "due_minutes": "",
            "urgent_due_minutes": "",
            "strike_days": "",
        }


MAX_RULES = 50


class RuleForm(forms.ModelForm):
    """A rule of a policy. Its thresholds are probabilities."""

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


class BaseRuleFormSet(forms.BaseFormSet):
    """The rules of a policy."""

    default_error_messages = forms.BaseFormSet.default_error_messages | {
        "too_many_forms": "A policy has at most %(num)d rules."
    }


RuleFormSet = forms.formset_factory(
    RuleForm,
    BaseRuleFormSet,
    extra=1,
    can_delete=True,
    max_num=MAX_RULES,
    validate_max=True,
    absolute_max=MAX_RULES,
)
