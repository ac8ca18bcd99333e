"""System checks of monitoring."""

from typing import Any

from django.core.checks import CheckMessage, Error, register
from django_plotly_dash import access as dash_access

from apps.monitoring.permissions import dashboard_required


@register()
def check_dashboard_permission(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """Check that the dashboard's callbacks require its permission.

    django-plotly-dash serves them to everybody if it does not find the decorator that the settings name.
    """
    if dash_access.dash_view_decorator is dashboard_required:
        return []
    return [
        Error(
            "The dashboard's callbacks are open to everybody.",
            hint="Set PLOTLY_DASH['view_decorator'] to 'apps.monitoring.permissions.dashboard_required'.",
            id="monitoring.E001",
        )
    ]
