"""The paths of `/api/v1/`."""

from csp.constants import SELF
from csp.decorators import csp_update
from django.urls import path
from drf_spectacular.views import SpectacularSwaggerSplitView

from apps.api.v1.views import moderation, predictions, webhooks
from apps.api.v1.views.schema import SchemaView

app_name = "v1"

# Swagger UI has icons in data: URLs, and drf-spectacular's template has one inline style, with this hash.
DOCS_POLICY = {
    "img-src": [SELF, "data:"],
    "style-src": [SELF, "'sha256-MMpT0iDxyjALd9PdfepImGX3DBfJPXZ4IlDWdPAgtn0='"],
}

urlpatterns = [
    path("predict", predictions.PredictView.as_view(), name="predict"),
    path("predict_proba", predictions.PredictProbaView.as_view(), name="predict_proba"),
    path("predictions/<uuid:pk>", predictions.PredictionView.as_view(), name="prediction"),
    path("feedback", predictions.FeedbackView.as_view(), name="feedback"),
    path("example", predictions.ExampleView.as_view(), name="example"),
    path("models", predictions.ModelsView.as_view(), name="models"),
    path("models/current", predictions.CurrentModelView.as_view(), name="current_model"),
    path("stats", predictions.StatsView.as_view(), name="stats"),
    path("moderate", moderation.ModerateView.as_view(), name="moderate"),
    path("moderation/queue", moderation.QueueListView.as_view(), name="queue"),
    path("moderation/queue/claim", moderation.ClaimNextView.as_view(), name="claim_next"),
    path("moderation/queue/<int:pk>", moderation.QueueItemView.as_view(), name="queue_item"),
    path("moderation/queue/<int:pk>/claim", moderation.ClaimView.as_view(), name="claim"),
    path("moderation/queue/<int:pk>/decide", moderation.DecideView.as_view(), name="decide"),
    path("moderation/queue/<int:pk>/release", moderation.ReleaseView.as_view(), name="release"),
    path("moderation/decisions/<int:pk>/undo", moderation.UndoView.as_view(), name="undo"),
    path("moderation/stats", moderation.ModerationStatsView.as_view(), name="moderation_stats"),
    path("appeals", moderation.AppealsView.as_view(), name="appeals"),
    path("webhooks/keys", webhooks.SigningKeysView.as_view(), name="webhook_keys"),
    path("webhooks/keys/<slug:key_id>", webhooks.SigningKeyView.as_view(), name="webhook_key"),
    path("webhooks/test", webhooks.TestWebhookView.as_view(), name="webhook_test"),
    path("schema", SchemaView.as_view(authentication_classes=[], throttle_classes=[]), name="schema"),
    path(
        "docs",
        csp_update(DOCS_POLICY)(
            SpectacularSwaggerSplitView.as_view(
                url_name="v1:schema", authentication_classes=[], throttle_classes=[]
            )
        ),
        name="docs",
    ),
]
