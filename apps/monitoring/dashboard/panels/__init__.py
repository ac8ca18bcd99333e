"""The dashboard's panels. Each reads rollups and returns an answer to its question, stats and plots."""

from collections.abc import Callable
from dataclasses import replace

from apps.monitoring import freshness
from apps.monitoring.dashboard.charts import Panel
from apps.monitoring.dashboard.panels.fairness import fairness_panel
from apps.monitoring.dashboard.panels.health import health_panel
from apps.monitoring.dashboard.panels.predictions import predictions_panel
from apps.monitoring.dashboard.panels.quality import quality_panel
from apps.monitoring.dashboard.panels.queue import queue_panel
from apps.monitoring.dashboard.panels.system import system_panel
from apps.monitoring.dashboard.panels.traffic import traffic_panel
from apps.monitoring.dashboard.queries import Filters

PANELS: dict[str, tuple[str, Callable[[Filters], Panel]]] = {
    "health": ("Health", health_panel),
    "traffic": ("Traffic", traffic_panel),
    "predictions": ("Predictions", predictions_panel),
    "quality": ("Quality", quality_panel),
    "queue": ("Queue", queue_panel),
    "fairness": ("Fairness", fairness_panel),
    "system": ("System", system_panel),
}
DEFAULT_PANEL = "health"


def build_panel(name: str, filters: Filters) -> Panel:
    """Return a panel with the freshness of its data."""
    panel = PANELS[name][1](filters)
    if panel.freshness:
        return panel
    return replace(panel, freshness=freshness.of_rollups(begin=filters.begin, end=filters.end))
