"""The paths of the Perspective API, at the root, where its clients look for them."""

from django.urls import path, re_path

from apps.api.perspective import batch, views

urlpatterns = [
    path("v1alpha1/comments:analyze", views.analyze),
    path("v1alpha1/comments:suggestscore", views.suggestscore),
    path("$discovery/rest", views.discovery),
    path("discovery/v1/apis/commentanalyzer/v1alpha1/rest", views.discovery),
    path("batch", batch.batch),
    re_path(r"^v1alpha1/", views.nothing_here),
]
