"""Context of every template."""

from django.conf import settings
from django.http import HttpRequest


def site(request: HttpRequest) -> dict[str, str]:
    """Return the URL of MLflow's user interface, or an empty string if the tracking store is local."""
    uri = settings.MLFLOW_TRACKING_URI
    return {"mlflow_url": uri if uri.startswith(("http://", "https://")) else ""}
