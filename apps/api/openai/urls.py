"""The paths of the OpenAI-compatible API. A client's `base_url` ends with `/v1`."""

from django.urls import path, re_path

from apps.api.openai import views

urlpatterns = [
    path("v1/moderations", views.ModerationsView.as_view()),
    re_path(r"^v1/", views.UnknownPathView.as_view()),
]
