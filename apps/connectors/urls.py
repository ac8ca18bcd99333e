"""The paths to which connected platforms send comments."""

from django.urls import path

from apps.connectors import views

app_name = "connectors"

urlpatterns = [path("<uuid:pk>", views.ReceiveView.as_view(), name="receive")]
