"""Tables of monitoring: hourly rollups, baselines for drift detection, scheduled tasks, alerts."""

from apps.monitoring.models.alerts import (
    SITE_METRICS,
    Alert,
    AlertRule,
    Notification,
    validate_addresses,
)
from apps.monitoring.models.baselines import Baseline, DomainCheck
from apps.monitoring.models.fields import ArrayField
from apps.monitoring.models.rollups import (
    CONFUSION_BINS,
    DECISION_TIME_EDGES,
    IDENTITY_GROUPS,
    LATENCY_EDGES,
    LENGTH_EDGES,
    SCORE_BINS,
    HourlyRollup,
    IncompleteHour,
    RequestMinute,
    RollupProgress,
)
from apps.monitoring.models.schedules import ScheduledTask

__all__ = [
    "CONFUSION_BINS",
    "DECISION_TIME_EDGES",
    "IDENTITY_GROUPS",
    "LATENCY_EDGES",
    "LENGTH_EDGES",
    "SCORE_BINS",
    "SITE_METRICS",
    "Alert",
    "AlertRule",
    "ArrayField",
    "Baseline",
    "DomainCheck",
    "HourlyRollup",
    "IncompleteHour",
    "Notification",
    "RequestMinute",
    "RollupProgress",
    "ScheduledTask",
    "validate_addresses",
]
