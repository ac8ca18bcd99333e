"""URLs of the public pages."""

from django.urls import path

from apps.pages import views

app_name = "pages"

urlpatterns = [
    path("", views.home, name="home"),
    path("live", views.live, name="live"),
    path("example", views.example, name="example"),
    path("r/<uuid:pk>", views.result, name="result"),
    path("r/<uuid:pk>/feedback", views.feedback, name="feedback"),
    path("favicon.ico", views.favicon, name="favicon"),
    path("appeal/<str:token>", views.appeal, name="appeal"),
    path("model", views.model, name="model"),
    path("model/v<int:number>", views.model, name="model_version"),
]
