"""Predictions and feedback in the admin: read-only."""

from django.contrib import admin

from apps.accounts.admin import CommunityAdmin
from apps.core.admin import LargeTablePaginator
from apps.predictions.models import Feedback, Prediction


@admin.register(Prediction)
class PredictionAdmin(CommunityAdmin):
    """Scored comments. A user sees the comments of the communities that the user has access to.

    Comments without a community, such as those of the public pages, need access to comments without a
    community.
    """

    community_field = "community"
    list_display = (
        "id",
        "created_at",
        "source",
        "community",
        "is_toxic",
        "toxic",
        "model_version",
        "latency_us",
        "was_read",
    )
    list_filter = ("source",)
    list_select_related = ("model_version",)
    list_per_page = 50
    paginator = LargeTablePaginator
    search_fields = ("id__exact", "external_id__exact")
    search_help_text = "The prediction's id, or the platform's own, in full."

    @admin.display(boolean=True, description="any label, at the model's thresholds")
    def is_toxic(self, prediction: Prediction) -> bool:
        return prediction.is_toxic


@admin.register(Feedback)
class FeedbackAdmin(CommunityAdmin):
    """Feedback. A user sees that on predictions that the user sees."""

    community_field = "prediction__community"
    list_select_related = ("prediction",)
    list_display = ("created_at", "prediction", "is_right", "stated_labels", "remark")
    list_filter = ("is_right",)
    list_per_page = 50
    paginator = LargeTablePaginator

    @admin.display(description="true labels")
    def stated_labels(self, feedback: Feedback) -> str | None:
        """Return the labels that apply, or None (shown as a dash) if the feedback states no labels."""
        labels = feedback.true_labels
        if labels is None:
            return None
        return ", ".join(label for label in labels if labels[label]) or f"none of {', '.join(labels)}"
