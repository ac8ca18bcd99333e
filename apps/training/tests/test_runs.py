"""The lock of training, cancellation, recovery of runs and automatic retraining."""

import signal
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from celery import current_app
from django.conf import settings as project
from django.core.exceptions import PermissionDenied
from django.db import IntegrityError, transaction
from django.utils import timezone

from apps.accounts.models import User
from apps.core.permissions import SYSTEM
from apps.predictions import actions as predictions
from apps.predictions.models import Prediction
from apps.registry import tracking
from apps.registry.gates import Gate
from apps.registry.models import ModelVersion
from apps.training import actions, gates, tasks
from apps.training.actions import runs, training
from apps.training.exceptions import TrainingBusyError
from apps.training.models import Dataset, TrainingRun

pytestmark = [pytest.mark.django_db, pytest.mark.database]
Status = TrainingRun.Status


@pytest.fixture
def engineer(person: Callable[..., User]) -> User:
    return person("eve", "engineer")


@pytest.fixture(autouse=True)
def enqueued(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The ids of the runs that are enqueued."""
    ids: list[int] = []
    monkeypatch.setattr(runs, "enqueue_run", lambda run: ids.append(run.pk))
    return ids


def test_train_while_another_run_is_running(dataset: Dataset) -> None:
    first, second = (actions.create_run(actor=SYSTEM, dataset=dataset) for _ in range(2))
    TrainingRun.objects.filter(pk=first.pk).update(status=Status.RUNNING)
    with pytest.raises(IntegrityError), transaction.atomic():
        TrainingRun.objects.filter(pk=second.pk).update(status=Status.RUNNING)
    with pytest.raises(TrainingBusyError, match="another run is being trained"):
        actions.train(run=second)
    second.refresh_from_db()
    assert second.status == Status.QUEUED


def test_recover_runs_retries_lost_run_once(dataset: Dataset, enqueued: list[int]) -> None:
    run = actions.create_run(actor=SYSTEM, dataset=dataset, seed=5)
    alive = timezone.now() - timedelta(seconds=20)
    TrainingRun.objects.filter(pk=run.pk).update(status=Status.RUNNING, heartbeat_at=alive, progress=0.4)
    assert actions.recover_runs() is None
    for _ in range(2):
        TrainingRun.objects.filter(status=Status.QUEUED).update(status=Status.RUNNING)
        TrainingRun.objects.filter(status=Status.RUNNING).update(heartbeat_at=alive - timedelta(minutes=1))
        actions.recover_runs()
        actions.recover_runs()
    assert TrainingRun.objects.filter(status=Status.FAILED, error__contains="worker was lost").count() == 2
    retry = TrainingRun.objects.get(retry_of=run)
    assert (retry.seed, retry.progress) == (5, 0)
    assert TrainingRun.objects.count() == 2
    assert set(enqueued) == {retry.pk}


@pytest.mark.parametrize("at", ["a step", "the end"])
def test_train_cancelled_run_registers_nothing(
    dataset: Dataset, engineer: User, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    run = actions.create_run(actor=engineer, dataset=dataset)

    def log(*args: Any) -> Any:
        if at == "the end":
            assert actions.cancel_run(actor=engineer, run=run)
        return tracking.LoggedRun("")

    def progress(step: str, fraction: float) -> None:
        if at == "a step":
            assert actions.cancel_run(actor=engineer, run=run)

    monkeypatch.setattr(training, "_log_to_mlflow", log)
    before = ModelVersion.objects.count()
    assert actions.train(run=run, progress=progress).status == Status.CANCELLED
    assert run.error == "Cancelled by eve."
    assert ModelVersion.objects.count() == before
    assert not actions.cancel_run(actor=engineer, run=run)


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), SystemExit(-241)])
def test_train_interrupted_run_is_queued_again(
    dataset: Dataset, enqueued: list[int], monkeypatch: pytest.MonkeyPatch, stop: BaseException
) -> None:
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    run = actions.create_run(actor=SYSTEM, dataset=dataset)

    def progress(step: str, fraction: float) -> None:
        raise stop

    try:
        for count in (1, 2, 3):
            with pytest.raises(type(stop)):
                actions.train(run=run, progress=progress)
            run.refresh_from_db()
            assert (run.status, run.step, run.error) == (Status.QUEUED, "interrupted", "")
            assert (run.interruptions, run.progress, run.finished_at) == (count, 0, None)
            assert actions.recover_runs() == run
    finally:
        for number, handler in zip((signal.SIGINT, signal.SIGTERM), handlers, strict=True):
            signal.signal(number, handler)
    assert enqueued == [run.pk] * 3
    monkeypatch.setattr(training, "_log_to_mlflow", lambda *args: tracking.LoggedRun(""))
    assert actions.train(run=run).status == Status.SUCCEEDED


def _exit_as_billiard_does(number: int, frame: object) -> None:
    raise SystemExit(-(256 - number))


@pytest.mark.usefixtures("enqueued")
@pytest.mark.parametrize("handler", [signal.SIG_DFL, _exit_as_billiard_does])
def test_sigterm_ends_training_although_a_library_swallows_the_exception(
    dataset: Dataset, handler: Any
) -> None:
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    run = actions.create_run(actor=SYSTEM, dataset=dataset)
    swallowed = []

    def progress(step: str, fraction: float) -> None:
        if not swallowed:
            try:
                signal.raise_signal(signal.SIGTERM)
            except SystemExit:
                swallowed.append(step)

    signal.signal(signal.SIGTERM, handler)
    try:
        with pytest.raises(SystemExit):
            actions.train(run=run, progress=progress)
    finally:
        for number, earlier in zip((signal.SIGINT, signal.SIGTERM), handlers, strict=True):
            signal.signal(number, earlier)
    assert swallowed
    assert (run.status, run.step) == (Status.QUEUED, "interrupted")


def test_create_and_cancel_run_require_permission(dataset: Dataset, ann: User) -> None:
    with pytest.raises(PermissionDenied):
        actions.create_run(actor=ann, dataset=dataset)
    with pytest.raises(PermissionDenied):
        actions.cancel_run(actor=ann, run=actions.create_run(actor=SYSTEM, dataset=dataset))


def test_long_tasks_have_their_own_queues() -> None:
    routes = project.CELERY_TASK_ROUTES
    assert {route["queue"] for route in routes.values()} == {"training", "webhooks"}
    assert set(current_app.amqp.queues) == {"default", "training", "webhooks"}
    limit = 7_000
    assert project.CELERY_BROKER_TRANSPORT_OPTIONS["visibility_timeout"] > limit


def test_retrain_if_due_enough_labels_creates_one_run(
    dataset: Dataset, enqueued: list[int], settings: Any
) -> None:
    settings.TRAIN_AFTER_LABELS, settings.TRAIN_AFTER_DAYS = 3, 0
    for number in range(3):
        assert actions.retrain_if_due() is None
        text = f"you are a stupid idiot number {number}"
        (prediction,), _ = predictions.score(texts=[text], source=Prediction.Source.API)
        for labels in (["toxic"], [], []):  # counts once: the newest replaces the others
            predictions.give_feedback(prediction=prediction, is_right=False, true_labels=labels)
    run = actions.retrain_if_due()
    assert run is not None
    assert enqueued == [run.pk]
    assert (run.dataset.name, run.dataset.rows, run.trigger) == (
        "decisions",
        403,
        "new labels: decisions v1",
    )
    # Another scheduler counted the labels before the data set was built.
    Dataset.objects.filter(pk=run.dataset_id).update(is_built=False, created_at=dataset.created_at)
    TrainingRun.objects.filter(pk=run.pk).update(status=Status.FAILED)
    Dataset.objects.filter(pk=run.dataset_id).update(is_built=True)
    assert actions.retrain_if_due() is None
    assert TrainingRun.objects.count() == 1


def test_retrain_if_due_overdue_needs_a_label(dataset: Dataset, settings: Any) -> None:
    settings.TRAIN_AFTER_LABELS, settings.TRAIN_AFTER_DAYS = 0, 7
    Dataset.objects.update(created_at=timezone.now() - timedelta(days=8))
    assert actions.retrain_if_due() is None
    (prediction,), _ = predictions.score(texts=["a nice idiot of a dog"], source=Prediction.Source.API)
    predictions.give_feedback(prediction=prediction, is_right=False, true_labels=[])
    assert actions.retrain_if_due() is not None
    assert actions.retrain_if_due() is None
    Dataset.objects.filter(pk=dataset.pk).update(is_built=True)
    assert actions.retrain_if_due() is None


def test_retrain_creates_one_run_for_each_trigger(
    dataset: Dataset, enqueued: list[int], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    messages: list[tuple[Any, ...]] = []
    monkeypatch.setattr(runs, "enqueue", lambda *message, **options: messages.append(message))
    actions.request_run(trigger="alert 12")
    assert messages == [(tasks.retrain, "alert 12")]
    tasks.retrain("alert 12")
    assert "no labels to learn from" in caplog.text
    (prediction,), _ = predictions.score(texts=["you walnut"], source=Prediction.Source.API)
    predictions.give_feedback(prediction=prediction, is_right=False, true_labels=["toxic"])
    for _ in range(2):
        tasks.retrain("alert 12")
    run = TrainingRun.objects.get()
    assert (run.trigger, run.dataset.rows) == ("alert 12", 401)
    assert enqueued == [run.pk]


def test_retrain_if_due_measures_lost_gates(
    dataset: Dataset, champion: ModelVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[ModelVersion] = []

    def run_gates(version: ModelVersion, *args: Any) -> list[Gate]:
        measured.append(version)
        return []

    monkeypatch.setattr(gates, "run_gates", run_gates)
    tasks.retrain_if_due()
    assert measured == []
    run = actions.create_run(actor=SYSTEM, dataset=dataset)
    TrainingRun.objects.filter(pk=run.pk).update(status=Status.SUCCEEDED, version=champion)
    for _ in range(2):
        tasks.retrain_if_due()
        assert measured == [champion]


def test_feedback_without_labels_is_no_new_label(
    dataset: Dataset, enqueued: list[int], settings: Any
) -> None:
    settings.TRAIN_AFTER_LABELS, settings.TRAIN_AFTER_DAYS = 3, 1
    for number in range(3):
        (prediction,), _ = predictions.score(texts=[f"idiot {number}"], source=Prediction.Source.PAGE)
        predictions.give_feedback(prediction=prediction, is_right=False)
    assert actions.retrain_if_due() is None


def test_data_set_without_a_run_leaves_labels_new(
    dataset: Dataset, enqueued: list[int], settings: Any
) -> None:
    settings.TRAIN_AFTER_LABELS, settings.TRAIN_AFTER_DAYS = 3, 0
    for number in range(4):
        (prediction,), _ = predictions.score(texts=[f"idiot number {number}"], source=Prediction.Source.API)
        predictions.give_feedback(prediction=prediction, is_right=False, true_labels=["toxic"])
        if number == 1:
            actions.build_dataset(name="look", base=None)
    assert actions.retrain_if_due() is not None
    assert actions.retrain_if_due() is None
