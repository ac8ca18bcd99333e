"""URLs of the dashboard."""

from django.urls import path

from apps.monitoring import views

app_name = "monitoring"
urlpatterns = [
    path("", views.dashboard, name="dashboard"),
    path("<slug:panel>.csv", views.download, name="csv"),
]
