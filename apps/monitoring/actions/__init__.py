"""Writes to monitoring's tables, apart from request counts and the results of scheduled tasks."""

from apps.monitoring.actions.alerts import acknowledge, evaluate_rules, install_default_rules
from apps.monitoring.actions.baselines import compare_last_week, refresh_baselines
from apps.monitoring.actions.notifications import (
    due_notifications,
    send_due_notifications,
    send_notification,
    send_test_webhook,
)
from apps.monitoring.actions.rollups import roll_up

__all__ = [
    "acknowledge",
    "compare_last_week",
    "due_notifications",
    "evaluate_rules",
    "install_default_rules",
    "refresh_baselines",
    "roll_up",
    "send_due_notifications",
    "send_notification",
    "send_test_webhook",
]
