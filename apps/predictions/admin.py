"""Predictions and feedback in the admin: evidence, read-only."""

from django.contrib import admin
from django.core.paginator import Paginator
from django.utils.functional import cached_property

from apps.accounts.admin import ReadOnlyAdmin
from apps.predictions.models import Feedback, Prediction


class UncountedPaginator(Paginator):
    """Pages of a table too large to count: offers the first hundred pages at most."""

    @cached_property
    def count(self) -> int:
        ids = self.object_list.order_by().values("pk")[: self.per_page * 100]  # type: ignore[union-attr]
        return ids.count()


@admin.register(Prediction)
class PredictionAdmin(ReadOnlyAdmin):
    list_display = (
        "id",
        "created_at",
        "source",
        "community",
        "is_toxic",
        "toxic",
        "model_version",
        "latency_us",
    )
    list_filter = ("source",)
    list_select_related = ("model_version",)
    list_per_page = 50
    paginator = UncountedPaginator
    search_fields = ("id__exact", "external_id__exact")
    search_help_text = "The prediction's id, or the platform's own, in full."

    @admin.display(boolean=True, description="toxic?")
    def is_toxic(self, prediction: Prediction) -> bool:
        return prediction.is_toxic


@admin.register(Feedback)
class FeedbackAdmin(ReadOnlyAdmin):
    list_display = ("created_at", "prediction", "is_right", "true_labels", "remark")
    list_filter = ("is_right",)
    list_per_page = 50
    paginator = UncountedPaginator
