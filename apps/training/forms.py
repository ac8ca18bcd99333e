"""Forms of the training pages in the admin."""

from django import forms

from apps.classifier.config import RECIPES
from apps.registry.models import MAX_SHARE
from apps.training.models import Dataset


class RunForm(forms.Form):
    """The settings of a training run."""

    dataset = forms.ModelChoiceField(Dataset.objects.all(), empty_label=None, label="Data set")
    recipe = forms.ChoiceField(
        choices=[(name, name) for name in RECIPES],
        help_text="two_level trains a model version. The baselines are only evaluated, for comparison.",
    )
    seed = forms.IntegerField(min_value=0, max_value=2**31 - 1, initial=0)


class ReasonForm(forms.Form):
    """The reason for a change of the served models."""

    reason = forms.CharField(max_length=2_000, widget=forms.TextInput(attrs={"size": 60}))


class RolloutForm(ReasonForm):
    """The settings of a canary or a promotion."""

    share = forms.FloatField(
        min_value=0.1,
        max_value=100 * MAX_SHARE,
        initial=5,
        label="Canary share (%)",
        help_text="Of the requests. A promotion takes all of them at once.",
    )
    force = forms.BooleanField(
        required=False, label="Override failed gates", help_text="Recorded with your name and the reason."
    )
