"""Create, enqueue, cancel and recover training runs, and decide when to retrain."""

import logging
from datetime import timedelta

from django.conf import settings
from django.db import IntegrityError, transaction
from django.utils import timezone

from apps.accounts.permissions import Actor, require, user_or_none
from apps.classifier.config import RECIPES
from apps.core.enqueue import enqueue
from apps.core.permissions import SYSTEM
from apps.training import labels, tasks
from apps.training.actions.datasets import build_dataset
from apps.training.exceptions import TrainingError
from apps.training.models import Dataset, TrainingRun

logger = logging.getLogger(__name__)

HEARTBEAT_TIMEOUT = timedelta(seconds=45)
AUTOMATIC_DATASET = "decisions"  # the name of data sets that are built without a request
RUN_PERMISSION, BUILD_PERMISSION = "training.add_trainingrun", "training.add_dataset"


def create_run(*, actor: Actor, dataset: Dataset, recipe: str = RECIPES[0], seed: int = 0) -> TrainingRun:
    """Create a queued run.

    Raises:
        PermissionDeniedError: the actor may not start runs.
        TrainingError: the recipe is unknown or the seed is out of range.
    """
    require(actor, RUN_PERMISSION)
    if recipe not in RECIPES:
        raise TrainingError(f"There is no recipe {recipe}: choose from {', '.join(RECIPES)}.")
    if not 0 <= seed < 2**31:
        raise TrainingError("The seed is a whole number from 0 to 2147483647.")
    return TrainingRun.objects.create(
        dataset=dataset, recipe=recipe, seed=seed, created_by=user_or_none(actor)
    )


def enqueue_run(run: TrainingRun) -> None:
    """Have a worker train a queued run once the transaction has been committed.

    If the message is lost, or arrives while another run is trained, `recover_runs` sends it again.
    """
    enqueue(tasks.train_model, run.pk, expires=60)


def enqueue_build(*, actor: Actor, name: str, base: Dataset | None) -> None:
    """Have a worker build a data set, see `build_dataset`.

    Raises:
        PermissionDeniedError: the actor may not build data sets.
    """
    require(actor, BUILD_PERMISSION)
    enqueue(tasks.build_dataset, name, base and base.pk)


def request_run(*, trigger: str) -> None:
    """Have a worker retrain on the labels so far, see `retrain`. Alerts call it."""
    enqueue(tasks.retrain, trigger)


@transaction.atomic
def cancel_run(*, actor: Actor, run: TrainingRun) -> bool:
    """Cancel a queued or running run; its worker stops at the next step.

    Returns:
        Whether the run was queued or running.

    Raises:
        PermissionDeniedError: the actor may not start runs.
    """
    require(actor, RUN_PERMISSION)
    return bool(
        TrainingRun.objects.filter(pk=run.pk)
        .unfinished()
        .update(
            status=TrainingRun.Status.CANCELLED,
            error=f"Cancelled by {actor.get_username()}.",
            finished_at=timezone.now(),
        )
    )


def recover_runs() -> TrainingRun | None:
    """Mark runs without a heartbeat as failed, retry each once, and enqueue the oldest queued run.

    Several schedulers may call it at the same time: each change is made by one of them.

    Returns:
        The run that was enqueued, or None if one is running or none is queued.
    """
    deadline = timezone.now() - HEARTBEAT_TIMEOUT
    for lost_run in TrainingRun.objects.running().filter(heartbeat_at__lt=deadline):
        with transaction.atomic():
            if (
                not TrainingRun.objects.running()
                .filter(pk=lost_run.pk, heartbeat_at__lt=deadline)
                .update(
                    status=TrainingRun.Status.FAILED,
                    error="The worker was lost: killed, out of memory, or its machine went down.",
                    finished_at=timezone.now(),
                )
            ):
                continue
            logger.error("The worker of run %d was lost", lost_run.pk)
            if lost_run.retry_of_id is None:
                TrainingRun.objects.create(
                    dataset=lost_run.dataset,
                    recipe=lost_run.recipe,
                    seed=lost_run.seed,
                    created_by=lost_run.created_by,
                    retry_of=lost_run,
                )
    if TrainingRun.objects.running().exists():
        return None
    queued = TrainingRun.objects.filter(status=TrainingRun.Status.QUEUED).order_by("created_at", "pk").first()
    if queued:
        enqueue_run(queued)
    return queued


def retrain_if_due() -> TrainingRun | None:
    """Build a data set and create a run if there are enough new labels, or any and enough days have passed.

    `TRAIN_AFTER_LABELS` and `TRAIN_AFTER_DAYS` say what is enough; 0 disables either. Labels are new if they
    are newer than the last data set that a run was created for. The base is the newest imported data set.
    Without one nothing happens, because a model of decisions alone would be worse. Several schedulers may
    call it at the same time: one run is created.

    Returns:
        The queued run, or None.

    Raises:
        SourceError: the base's file is missing or damaged.
        TrainingError: there are no labels to learn from.
    """
    base = Dataset.objects.filter(is_built=False).newest()
    if base is None:
        return None
    last = Dataset.objects.filter(is_built=True, trainingrun__isnull=False).newest() or base
    new_labels = labels.label_events(last.created_at, labeled=True).count()
    days = settings.TRAIN_AFTER_DAYS
    has_enough_labels = 0 < settings.TRAIN_AFTER_LABELS <= new_labels
    is_overdue = bool(days and new_labels) and last.created_at <= timezone.now() - timedelta(days=days)
    if not has_enough_labels and not is_overdue:
        return None
    return _build_and_create_run(base)


def retrain(*, trigger: str) -> TrainingRun | None:
    """Build a data set of the labels so far and create a run, once for each trigger.

    Args:
        trigger: what requests the run, such as “alert 12: the flag rate drifts”.

    Returns:
        The queued run, or None if there was a run for the trigger or no data set was imported.

    Raises:
        SourceError, TrainingError: as in `retrain_if_due`.
    """
    base = Dataset.objects.filter(is_built=False).newest()
    if base is None or TrainingRun.objects.filter(trigger=trigger[:150]).exists():
        return None
    return _build_and_create_run(base, trigger[:150])


def _build_and_create_run(base: Dataset, trigger: str = "") -> TrainingRun | None:
    dataset, _ = build_dataset(name=AUTOMATIC_DATASET, base=base)
    try:
        with transaction.atomic():
            run = create_run(actor=SYSTEM, dataset=dataset)
            run.trigger = trigger or f"new labels: {dataset}"
            run.save(update_fields=["trigger"])
    except IntegrityError:
        return None
    enqueue_run(run)
    return run
