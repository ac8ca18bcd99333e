"""The dashboard: panels that read hourly rollups, their charts, and the Dash application that shows them."""

from apps.monitoring.dashboard.panels import DEFAULT_PANEL, PANELS, build_panel
from apps.monitoring.dashboard.queries import DEFAULT_WINDOW, WINDOWS, Filters

__all__ = ["DEFAULT_PANEL", "DEFAULT_WINDOW", "PANELS", "WINDOWS", "Filters", "build_panel"]
