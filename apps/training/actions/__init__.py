"""Writes of this app: data sets, training runs, evaluation, shadow scores, canary and promotion."""

from apps.training.actions.datasets import build_dataset, import_dataset
from apps.training.actions.evaluation import (
    enqueue_gates,
    evaluate_version,
    find_unmeasured_version,
    measure_gates,
)
from apps.training.actions.rollout import check_canary, promote, start_canary
from apps.training.actions.runs import (
    cancel_run,
    create_run,
    enqueue_build,
    enqueue_run,
    recover_runs,
    request_run,
    retrain,
    retrain_if_due,
)
from apps.training.actions.shadow import request_labels, score_in_shadow
from apps.training.actions.training import train

__all__ = [
    "build_dataset",
    "cancel_run",
    "check_canary",
    "create_run",
    "enqueue_build",
    "enqueue_gates",
    "enqueue_run",
    "evaluate_version",
    "find_unmeasured_version",
    "import_dataset",
    "measure_gates",
    "promote",
    "recover_runs",
    "request_labels",
    "request_run",
    "retrain",
    "retrain_if_due",
    "score_in_shadow",
    "start_canary",
    "train",
]
