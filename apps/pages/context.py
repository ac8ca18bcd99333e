"""What every page may show."""

from django.conf import settings
from django.http import HttpRequest


def site(request: HttpRequest) -> dict[str, str]:
    """Return where MLflow's pages are, where it has any."""
    uri = settings.MLFLOW_TRACKING_URI
    return {"mlflow_url": uri if uri.startswith(("http://", "https://")) else ""}
