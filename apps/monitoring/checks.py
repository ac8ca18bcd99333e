"""System checks: the dashboard's callbacks are open to nobody else."""

from typing import Any

from django.core.checks import CheckMessage, Error, register
from django_plotly_dash import access as dash_access

from apps.monitoring.access import guarded


@register()
def callbacks_are_guarded(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """django-plotly-dash serves its callbacks to anybody where it does not find its decorator."""
    if dash_access.dash_view_decorator is guarded:
        return []
    return [
        Error(
            "The dashboard's callbacks are open to anybody.",
            hint="Set PLOTLY_DASH['view_decorator'] to 'apps.monitoring.access.guarded'.",
            id="monitoring.E001",
        )
    ]
