"""What is done with training runs short of training: queued, sent to a worker, cancelled, tended."""

import logging
from datetime import timedelta
from typing import Any

from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.utils import timezone

from apps.accounts.models import User
from apps.classifier.config import RECIPES
from apps.core.enqueue import enqueue
from apps.training.models import Dataset, TrainingRun

logger = logging.getLogger(__name__)

SILENT = timedelta(seconds=45)
LEARNED = "decisions"  # the name of data sets that are built unasked
RUN_PERMISSION = "training.add_trainingrun"


class TrainingError(Exception):
    """Something that training refuses; the message says what to do."""


class BusyError(TrainingError):
    """Another run is being trained: this one keeps waiting."""


def queue_run(
    *, dataset: Dataset, recipe: str = RECIPES[0], seed: int = 0, by: User | None = None
) -> TrainingRun:
    """Write down that a recipe is to be trained.

    Raises:
        PermissionDenied: the user may not start runs.
        TrainingError: the recipe is unknown or the seed out of range.
    """
    if by and not by.has_perm(RUN_PERMISSION):
        raise PermissionDenied(f"{by.get_username()} may not start training runs.")
    if recipe not in RECIPES:
        raise TrainingError(f"There is no recipe {recipe}: choose from {', '.join(RECIPES)}.")
    if not 0 <= seed < 2**31:
        raise TrainingError("The seed is a whole number from 0 to 2147483647.")
    return TrainingRun.objects.create(dataset=dataset, recipe=recipe, seed=seed, created_by=by)


def send_run(run: TrainingRun) -> None:
    """Have a worker carry out a queued run once the transaction has been committed.

    A message that is lost, or comes while another run is trained, is sent again by `tend_runs`.
    """
    send("train_model", run.pk)


def send_build(*, name: str, base: Dataset | None, by: User) -> None:
    """Have a worker build a data set, see `build_dataset`.

    Raises:
        PermissionDenied: the user may not make data sets.
    """
    if not by.has_perm("training.add_dataset"):
        raise PermissionDenied(f"{by.get_username()} may not make data sets.")
    send("build_dataset", name, base and base.pk, expires=3600)


def ask_for_run(*, because: str) -> None:
    """Have a worker train on what was said until now: what an alert calls.

    Args:
        because: what asks, say “alert 12: the flag rate drifts”; the same words ask for one run only.
    """
    send("learn", because, expires=3_600)


def send(task: str, *args: Any, expires: int = 60) -> None:
    """Have a worker do a task of this app once the transaction has been committed."""
    enqueue(f"apps.training.tasks.{task}", *args, expires=expires)


@transaction.atomic
def cancel_run(*, run: TrainingRun, by: User) -> bool:
    """Cancel a run that waits or is being trained; its worker stops at the next step.

    Returns:
        Whether there was something to cancel.

    Raises:
        PermissionDenied: the user may not start runs, so may not stop them.
    """
    if not by.has_perm(RUN_PERMISSION):
        raise PermissionDenied(f"{by.get_username()} may not cancel training runs.")
    going = (TrainingRun.Status.QUEUED, TrainingRun.Status.RUNNING)
    return bool(
        TrainingRun.objects.filter(pk=run.pk, status__in=going).update(
            status=TrainingRun.Status.CANCELLED,
            error=f"Cancelled by {by.get_username()}.",
            finished_at=timezone.now(),
        )
    )


def tend_runs() -> TrainingRun | None:
    """Give up runs whose worker fell silent, each tried once more from the start, and send the next in line.

    Any number of schedulers may call it at once: each change is made by one of them.

    Returns:
        The run that was sent, or None where one is being trained or none waits.
    """
    silent = timezone.now() - SILENT
    for lost in TrainingRun.objects.filter(status=TrainingRun.Status.RUNNING, heartbeat_at__lt=silent):
        with transaction.atomic():
            if not TrainingRun.objects.filter(
                pk=lost.pk, status=TrainingRun.Status.RUNNING, heartbeat_at__lt=silent
            ).update(
                status=TrainingRun.Status.FAILED,
                error="The worker was lost: killed, out of memory, or its machine went down.",
                finished_at=timezone.now(),
            ):
                continue
            logger.error("The worker of run %d was lost", lost.pk)
            if lost.retry_of_id is None:
                TrainingRun.objects.create(
                    dataset=lost.dataset,
                    recipe=lost.recipe,
                    seed=lost.seed,
                    created_by=lost.created_by,
                    retry_of=lost,
                )
    if TrainingRun.objects.filter(status=TrainingRun.Status.RUNNING).exists():
        return None
    waiting = (
        TrainingRun.objects.filter(status=TrainingRun.Status.QUEUED).order_by("created_at", "pk").first()
    )
    if waiting:
        send_run(waiting)
    return waiting
