"""The paths of the Perspective API. They start at the root of the site because its clients expect that."""

from django.urls import path, re_path

from apps.api.perspective import batch, views

urlpatterns = [
    path("v1alpha1/comments:analyze", views.analyze),
    path("v1alpha1/comments:suggestscore", views.suggestscore),
    path("$discovery/rest", views.discovery),
    path("discovery/v1/apis/commentanalyzer/v1alpha1/rest", views.discovery),
    path("batch", batch.batch),
    re_path(r"^v1alpha1/", views.unknown_path),
]
