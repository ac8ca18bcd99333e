"""The paths of `/api/v1/`."""

from django.urls import path
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerSplitView

from apps.api.v1 import views

app_name = "v1"

urlpatterns = [
    path("predict", views.PredictView.as_view(), name="predict"),
    path("predict_proba", views.PredictProbaView.as_view(), name="predict_proba"),
    path("predictions/<uuid:pk>", views.PredictionView.as_view(), name="prediction"),
    path("feedback", views.FeedbackView.as_view(), name="feedback"),
    path("example", views.ExampleView.as_view(), name="example"),
    path("models", views.ModelsView.as_view(), name="models"),
    path("models/current", views.CurrentModelView.as_view(), name="current_model"),
    path("stats", views.StatsView.as_view(), name="stats"),
    path("schema", SpectacularAPIView.as_view(authentication_classes=[], throttle_classes=[]), name="schema"),
    path(
        "docs",
        SpectacularSwaggerSplitView.as_view(
            url_name="v1:schema", authentication_classes=[], throttle_classes=[]
        ),
        name="docs",
    ),
]
