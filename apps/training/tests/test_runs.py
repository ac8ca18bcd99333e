"""One run at a time: the lock, cancelling, and what becomes of runs whose worker was lost."""

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
from apps.predictions import actions as predictions
from apps.predictions.models import Prediction
from apps.registry.models import ModelVersion
from apps.training import actions, runs, tasks
from apps.training.models import Dataset, Gate, TrainingRun

pytestmark = [pytest.mark.django_db, pytest.mark.database]
Status = TrainingRun.Status


@pytest.fixture
def engineer(person: Callable[..., User]) -> User:
    return person("eve", "engineer")


@pytest.fixture(autouse=True)
def sent(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The runs that were sent to a worker."""
    numbers: list[int] = []
    for module in (actions, runs):
        monkeypatch.setattr(module, "send_run", lambda run: numbers.append(run.pk))
    return numbers


def test_the_database_holds_one_running_run(dataset: Dataset) -> None:
    first, second = (runs.queue_run(dataset=dataset) for _ in range(2))
    TrainingRun.objects.filter(pk=first.pk).update(status=Status.RUNNING)
    with pytest.raises(IntegrityError), transaction.atomic():
        TrainingRun.objects.filter(pk=second.pk).update(status=Status.RUNNING)
    with pytest.raises(runs.BusyError, match="another run is being trained"):
        actions.train(run=second)
    second.refresh_from_db()
    assert second.status == Status.QUEUED


def test_a_silent_run_has_failed_and_is_tried_once_more(dataset: Dataset, sent: list[int]) -> None:
    run = runs.queue_run(dataset=dataset, seed=5)
    alive = timezone.now() - timedelta(seconds=20)
    TrainingRun.objects.filter(pk=run.pk).update(status=Status.RUNNING, heartbeat_at=alive, share=0.4)
    assert runs.tend_runs() is None
    for _ in range(2):
        TrainingRun.objects.filter(status=Status.QUEUED).update(status=Status.RUNNING)
        TrainingRun.objects.filter(status=Status.RUNNING).update(heartbeat_at=alive - timedelta(minutes=1))
        runs.tend_runs()
        runs.tend_runs()
    assert TrainingRun.objects.filter(status=Status.FAILED, error__contains="worker was lost").count() == 2
    retry = TrainingRun.objects.get(retry_of=run)
    assert (retry.seed, retry.share) == (5, 0)
    assert TrainingRun.objects.count() == 2
    assert set(sent) == {retry.pk}


@pytest.mark.parametrize("at", ["a step", "the end"])
def test_a_cancelled_run_registers_nothing(
    dataset: Dataset, engineer: User, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    run = runs.queue_run(dataset=dataset, by=engineer)

    def log(*args: Any) -> Any:
        if at == "the end":
            assert runs.cancel_run(run=run, by=engineer)
        return actions.tracking.Logged("")

    def progress(step: str, share: float) -> None:
        if at == "a step":
            assert runs.cancel_run(run=run, by=engineer)

    monkeypatch.setattr(actions, "_log", log)
    before = ModelVersion.objects.count()
    assert actions.train(run=run, progress=progress).status == Status.CANCELLED
    assert run.error == "Cancelled by eve."
    assert ModelVersion.objects.count() == before
    assert not runs.cancel_run(run=run, by=engineer)


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), SystemExit(-241)])
def test_an_interrupted_run_is_queued_again(
    dataset: Dataset, sent: list[int], monkeypatch: pytest.MonkeyPatch, stop: BaseException
) -> None:
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    run = runs.queue_run(dataset=dataset)

    def progress(step: str, share: float) -> None:
        raise stop

    try:
        for count in (1, 2, 3):
            with pytest.raises(type(stop)):
                actions.train(run=run, progress=progress)
            run.refresh_from_db()
            assert (run.status, run.step, run.error) == (Status.QUEUED, "interrupted", "")
            assert (run.interruptions, run.share, run.finished_at) == (count, 0, None)
            assert runs.tend_runs() == run
    finally:
        for number, handler in zip((signal.SIGINT, signal.SIGTERM), handlers, strict=True):
            signal.signal(number, handler)
    assert sent == [run.pk] * 3
    monkeypatch.setattr(actions, "_log", lambda *args: actions.tracking.Logged(""))
    assert actions.train(run=run).status == Status.SUCCEEDED


def test_moderators_neither_start_nor_cancel_runs(dataset: Dataset, ann: User) -> None:
    with pytest.raises(PermissionDenied):
        runs.queue_run(dataset=dataset, by=ann)
    with pytest.raises(PermissionDenied):
        runs.cancel_run(run=runs.queue_run(dataset=dataset), by=ann)


def test_long_work_has_a_queue_of_its_own() -> None:
    routes = project.CELERY_TASK_ROUTES
    assert {route["queue"] for route in routes.values()} == {"training", "webhooks"}
    assert set(current_app.amqp.queues) == {"default", "training", "webhooks"}
    limit = 7_000
    assert project.CELERY_BROKER_TRANSPORT_OPTIONS["visibility_timeout"] > limit


def test_enough_new_labels_ask_for_one_run(dataset: Dataset, sent: list[int], settings: Any) -> None:
    settings.TRAIN_AFTER_LABELS, settings.TRAIN_AFTER_DAYS = 3, 0
    for number in range(3):
        assert actions.learn_when_due() is None
        text = f"you are a stupid idiot number {number}"
        (prediction,), _ = predictions.score(texts=[text], source=Prediction.Source.API)
        predictions.give_feedback(prediction=prediction, is_right=False, true_labels=[])
    run = actions.learn_when_due()
    assert run is not None
    assert sent == [run.pk]
    assert (run.dataset.name, run.dataset.rows, run.trigger) == (
        "decisions",
        403,
        "new labels: decisions v1",
    )
    # Another scheduler that had counted before the data set was made.
    Dataset.objects.filter(pk=run.dataset_id).update(is_built=False, created_at=dataset.created_at)
    TrainingRun.objects.filter(pk=run.pk).update(status=Status.FAILED)
    Dataset.objects.filter(pk=run.dataset_id).update(is_built=True)
    assert actions.learn_when_due() is None
    assert TrainingRun.objects.count() == 1


def test_a_schedule_asks_only_where_something_was_said(dataset: Dataset, settings: Any) -> None:
    settings.TRAIN_AFTER_LABELS, settings.TRAIN_AFTER_DAYS = 0, 7
    Dataset.objects.update(created_at=timezone.now() - timedelta(days=8))
    assert actions.learn_when_due() is None
    (prediction,), _ = predictions.score(texts=["a nice idiot of a dog"], source=Prediction.Source.API)
    predictions.give_feedback(prediction=prediction, is_right=False, true_labels=[])
    assert actions.learn_when_due() is not None
    assert actions.learn_when_due() is None
    Dataset.objects.filter(pk=dataset.pk).update(is_built=True)
    assert actions.learn_when_due() is None


def test_an_alert_asks_for_one_run(
    dataset: Dataset, sent: list[int], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    messages: list[tuple[Any, ...]] = []
    monkeypatch.setattr(runs, "send", lambda *message, **options: messages.append(message))
    runs.ask_for_run(because="alert 12")
    assert messages == [("learn", "alert 12")]
    tasks.learn("alert 12")
    assert "nothing to learn from" in caplog.text
    (prediction,), _ = predictions.score(texts=["you walnut"], source=Prediction.Source.API)
    predictions.give_feedback(prediction=prediction, is_right=False, true_labels=["toxic"])
    for _ in range(2):
        tasks.learn("alert 12")
    run = TrainingRun.objects.get()
    assert (run.trigger, run.dataset.rows) == ("alert 12", 401)
    assert sent == [run.pk]


def test_a_model_whose_measuring_was_lost_is_measured_by_the_schedule(
    dataset: Dataset, champion: ModelVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[ModelVersion] = []

    def verdicts(version: ModelVersion, *args: Any) -> list[Gate]:
        measured.append(version)
        return []

    monkeypatch.setattr(actions.gates, "verdicts", verdicts)
    tasks.learn_when_due()
    assert measured == []
    run = runs.queue_run(dataset=dataset)
    TrainingRun.objects.filter(pk=run.pk).update(status=Status.SUCCEEDED, version=champion)
    for _ in range(2):
        tasks.learn_when_due()
        assert measured == [champion]
