"""What is done with data sets and training runs."""

import logging
import os
import re
import resource
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from celery import current_app
from django.conf import settings
from django.core.exceptions import PermissionDenied
from django.db import DatabaseError, IntegrityError, connection, transaction
from django.db.models import Max
from django.utils import timezone
from kombu.exceptions import OperationalError

from apps.accounts.models import User
from apps.classifier.artifact import Artifact
from apps.classifier.evaluation import evaluate
from apps.classifier.labels import LABELS
from apps.classifier.scorer import Scorer
from apps.classifier.training import RECIPES, Fitted, fit
from apps.registry import actions as registry
from apps.registry import tracking
from apps.registry.models import ModelVersion, Promotion
from apps.training import datasets, gates, jigsaw, life, report, sources
from apps.training.datasets import Rows
from apps.training.models import Dataset, TrainingRun
from apps.training.sources import SourceError

logger = logging.getLogger(__name__)

Progress = Callable[[str, float], None]
JIGSAW_LICENCE = "labels CC0; comment text from Wikipedia, CC BY-SA 3.0"
OWN_LICENCE = "comments written and judged on this site"


HEARTBEAT_SECONDS = 5.0
SILENT = timedelta(seconds=45)
LEARNED = "decisions"  # the name of data sets that are built unasked
RUN_PERMISSION = "training.add_trainingrun"


class TrainingError(Exception):
    """Something that training refuses; the message says what to do."""


class BusyError(TrainingError):
    """Another run is being trained: this one keeps waiting."""


class GateError(registry.RegistryError):
    """A version fails its gates; `gates` are all of them."""

    def __init__(self, message: str, verdicts: list[gates.Gate]) -> None:
        super().__init__(message)
        self.gates = verdicts


class LostError(TrainingError):
    """The run was cancelled, or given up because its worker had fallen silent."""


def import_dataset(
    *, source: str, name: str, natural_rate: float | None = None, licence: str = "", strict: bool = False
) -> tuple[Dataset, bool]:
    """Read labelled comments, keep the sound rows as a new version of the named data set.

    Args:
        source: see `sources.fetched`.
        natural_rate: the share of labelled rows where these come from, if they were enriched.
        strict: refuse the file if any row is wrong, instead of leaving such rows out.

    Returns:
        The data set, and whether it is new: the same rows under the same name are stored once.

    Raises:
        SourceError: the source can't be had or read, or holds no sound row, or a wrong one under `strict`.
        TrainingError: the name or the rate is wrong.
    """
    _check_name(name)
    if natural_rate is not None and not 0 < natural_rate < 1:
        raise TrainingError("The natural rate is a share between 0 and 1.")
    problems = jigsaw.Problems()
    with sources.fetched(source) as path:
        rows = jigsaw.read_rows(path, problems, max_bytes=settings.MAX_COMMENT_BYTES)
        stored = datasets.write(rows, settings.DATA_DIR / "datasets")
    try:
        wrong = "; ".join(jigsaw.sentences(problems.found))
        if problems and strict:
            raise SourceError(f"{len(problems)} rows are wrong, nothing was imported. {wrong}")
        if not stored.rows:
            raise SourceError(f"{sources.public_name(source)} holds no sound row. {wrong}".strip())
        datasets.share(stored)
        return _record(stored, problems, sources.public_name(source), name, natural_rate, licence)
    finally:
        stored.path.unlink(missing_ok=True)


def build_dataset(
    *, name: str, base: Dataset | None = None, since: datetime | None = None
) -> tuple[Dataset, bool]:
    """Keep what moderators and users said of comments as a new version of the named data set.

    The rule for whose word becomes a row is that of `life.rows`. With a base, its rows come along and what is
    held out stays what is held out from the base; without one, a tenth is held out as from any data set.
    Clean rows count so that the share of labelled ones stays the base's, however enriched the added rows are.

    Args:
        base: an imported data set.
        since: use only what was said from then on.

    Returns:
        The data set, and whether it is new: the same rows under the same name are stored once.

    Raises:
        SourceError: the base's file is missing or damaged.
        TrainingError: there is nothing to learn from, or the name or the base is wrong.
    """
    _check_name(name)
    if base and base.is_built:
        raise TrainingError(f"{base} was built itself: give the imported data set as base.")
    problems, counts = jigsaw.Problems(), Counter[str]()
    rows = life.rows(base=base, since=since, problems=problems, counts=counts)
    stored = datasets.write(rows, settings.DATA_DIR / "datasets")
    try:
        if not stored.rows:
            why = "; ".join(jigsaw.sentences(problems.found)) or "nobody spoke of a comment that was stored"
            raise TrainingError(
                f"There is nothing to learn from ({why}): decide items in the console, send feedback, or go "
                "back further with --since."
            )
        source = ", ".join(f"{origin}: {count}" for origin, count in sorted(counts.items()))
        if since:
            source += f"; since {since.isoformat()}"
        rate = base and (base.natural_rate or base.labelled / base.rows)
        rate = rate if rate and rate < 1 else None
        licence = f"{base.licence}; added: " if base and base.licence else ""
        datasets.share(stored)
        return _record(stored, problems, source, name, rate, f"{licence}{OWN_LICENCE}", is_built=True)
    finally:
        stored.path.unlink(missing_ok=True)


def _check_name(name: str) -> None:
    if not re.fullmatch(r"[\w.-]{1,100}", name):
        raise TrainingError("A data set's name is made of letters, digits, dots, hyphens and underscores.")


@transaction.atomic
def _record(
    stored: datasets.Stored,
    problems: jigsaw.Problems,
    source: str,
    name: str,
    natural_rate: float | None,
    licence: str,
    is_built: bool = False,
) -> tuple[Dataset, bool]:
    known = Dataset.objects.filter(name=name, sha256=stored.sha256).first()
    if known:
        if known.natural_rate != natural_rate:
            raise TrainingError(
                f"These rows are {known}, at natural rate {known.natural_rate}: take another name."
            )
        stored.path.replace(known.path)
        return known, False
    last = Dataset.objects.filter(name=name).aggregate(last=Max("version"))["last"] or 0
    try:
        with transaction.atomic():
            dataset = Dataset.objects.create(
                name=name,
                version=last + 1,
                sha256=stored.sha256,
                source=source[:500],
                rows=stored.rows,
                labelled=stored.labelled,
                positives=stored.positives,
                natural_rate=natural_rate,
                licence=licence[:200] or (JIGSAW_LICENCE if source == "jigsaw" else ""),
                report=problems.found,
                is_built=is_built,
            )
    except IntegrityError:
        raise TrainingError(f"Another import into {name} ended at this moment: try again.") from None
    stored.path.replace(dataset.path)
    return dataset, True


def queue_run(
    *, dataset: Dataset, recipe: str = "base", seed: int = 0, by: User | None = None
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

    _send("train_model", run.pk)


def send_build(*, name: str, base: Dataset | None, by: User) -> None:
    """Have a worker build a data set, see `build_dataset`.

    Raises:
        PermissionDenied: the user may not make data sets.
    """
    if not by.has_perm("training.add_dataset"):
        raise PermissionDenied(f"{by.get_username()} may not make data sets.")
    _send("build_dataset", name, base and base.pk, expires=3600)


def _send(task: str, *args: Any, expires: int = 60) -> None:
    def send() -> None:
        try:
            current_app.send_task(f"apps.training.tasks.{task}", args=args, expires=expires)
        except (OperationalError, OSError) as error:
            logger.warning("The broker can't be reached, %s waits: %s", task, error.__class__.__name__)

    transaction.on_commit(send, robust=True)


def learn_when_due() -> TrainingRun | None:
    """Build a data set and queue a run once enough was said since the last one, or enough days have passed.

    Enough is `TRAIN_AFTER_LABELS` statements of moderators and users, or one and `TRAIN_AFTER_DAYS` days; 0
    turns either off. The imported data set that is newest is the base; without one nothing happens, for
    decisions alone would teach a worse model. Any number of schedulers may call it at once: a data set is
    trained on unasked once.

    Returns:
        The queued run, or None.

    Raises:
        SourceError: the base's file is missing or damaged.
        TrainingError: nothing that was said can be learned from.
    """
    base = Dataset.objects.filter(is_built=False).newest()
    if base is None:
        return None
    last = Dataset.objects.filter(is_built=True).newest() or base
    fresh = life.statements(last.created_at).count()
    days = settings.TRAIN_AFTER_DAYS
    is_many = 0 < settings.TRAIN_AFTER_LABELS <= fresh
    is_late = bool(days and fresh) and last.created_at <= timezone.now() - timedelta(days=days)
    if not is_many and not is_late:
        return None
    dataset, _ = build_dataset(name=LEARNED, base=base)
    try:
        with transaction.atomic():
            run = queue_run(dataset=dataset)
            run.trigger = f"new labels: {dataset}"
            run.save(update_fields=["trigger"])
    except IntegrityError:
        return None
    send_run(run)
    return run


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


def _begin(run: TrainingRun) -> bool:
    """Take the lock for a queued run; False where it isn't queued any more.

    Raises:
        BusyError: another run has the lock.
    """
    try:
        with transaction.atomic():
            taken = TrainingRun.objects.filter(pk=run.pk, status=TrainingRun.Status.QUEUED).update(
                status=TrainingRun.Status.RUNNING, heartbeat_at=timezone.now()
            )
    except IntegrityError:
        raise BusyError(f"{run} waits: another run is being trained.") from None
    run.refresh_from_db()
    return bool(taken)


@contextmanager
def _heartbeat(run: TrainingRun) -> Iterator[None]:
    """Say every few seconds that the run's worker is alive, from a thread: a fit is silent for minutes."""
    stop = threading.Event()

    def beat() -> None:
        try:
            while not stop.wait(HEARTBEAT_SECONDS):
                try:
                    TrainingRun.objects.filter(pk=run.pk, status=TrainingRun.Status.RUNNING).update(
                        heartbeat_at=timezone.now()
                    )
                except DatabaseError as error:
                    logger.warning("Run %d could not say it lives: %s", run.pk, error.__class__.__name__)
                    connection.close()
        finally:
            connection.close()

    threading.Thread(target=beat, name=f"heartbeat of run {run.pk}", daemon=True).start()
    try:
        yield
    finally:
        stop.set()


def train(*, run: TrainingRun, progress: Progress | None = None) -> TrainingRun:
    """Carry out a queued run: evaluate on held-out rows, fit on all, record in MLflow, register a challenger.

    One run is trained at a time, whichever processes ask. A run that is cancelled, or given up because its
    worker had fallen silent, registers nothing.

    The references `plain` and `strong` are evaluated and recorded only. A run that isn't queued any more is
    left alone, so that a task delivered twice trains once. Whatever fails is kept in the run's `error`.

    Args:
        progress: is told each step and the share done, 0 to 1.

    Raises:
        SourceError: the data set's file is missing or damaged.
        BusyError: another run is being trained; this one stays queued.
        TrainingError: the run can't be carried out with this data.
    """
    if not _begin(run):
        return run

    def step(name: str, share: float) -> None:
        if not TrainingRun.objects.filter(pk=run.pk, status=TrainingRun.Status.RUNNING).update(
            step=name[:100], share=share, heartbeat_at=timezone.now()
        ):
            raise LostError(f"Run {run.pk} was cancelled or given up.")
        if progress:
            progress(name, share)

    try:
        with _heartbeat(run):
            _train(run, step)
        if progress:
            progress("done", 1.0)
    except LostError:
        run.refresh_from_db()
    except BaseException as error:
        TrainingRun.objects.filter(pk=run.pk, status=TrainingRun.Status.RUNNING).update(
            status=TrainingRun.Status.FAILED,
            error=str(error) or error.__class__.__name__,
            finished_at=timezone.now(),
        )
        run.refresh_from_db()
        if isinstance(error, ValueError):
            raise TrainingError(f"{run} can't be trained: {error}.") from error
        raise
    return run


def _train(run: TrainingRun, step: Progress) -> None:
    started = datetime.now(UTC)
    dataset = run.dataset
    step("reading the rows", 0.0)
    rows = datasets.read(dataset.path, clean_weight=dataset.clean_weight)
    learn, held_out = (rows.take(part) for part in rows.parts())
    run.git_commit = git_commit()
    facts: dict[str, Any] = {
        "name": f"toxicmod {run.recipe}",
        "recipe": run.recipe,
        "dataset": str(dataset),
        "dataset_sha256": dataset.sha256,
        "git_commit": run.git_commit,
    }

    evaluated, run.seconds = _fit(run, learn, step, 0.05, 0.45)
    if isinstance(evaluated, Fitted):
        thresholds = evaluated.thresholds
        twin = evaluated.artifact(**facts, purpose="evaluation", metrics={})
        probabilities = Scorer.load(twin).score_many(held_out.texts)
    else:
        thresholds = np.full(len(LABELS), 0.5)
        probabilities = evaluated.predict_proba(held_out.texts)
    run.metrics = evaluate(held_out.labels, probabilities, thresholds, held_out.weights)

    with tempfile.TemporaryDirectory(prefix="toxicmod-") as name:
        folder = Path(name)
        step("plots", 0.5)
        report.write_plots(folder, held_out.labels, probabilities, held_out.weights)
        artifact, card = None, ""
        if isinstance(evaluated, Fitted):
            final, run.seconds = _fit(run, rows, step, 0.55, 0.95)
            assert isinstance(final, Fitted)
            artifact = final.artifact(**facts, metrics=run.metrics)
            scorer = Scorer.load(artifact)
            card = report.card(run, scorer, len(learn), len(held_out))
            (folder / "MODEL_CARD.md").write_text(card)
            report.write_telling_words(folder, scorer, rows)
        run.peak_memory_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        step("recording in MLflow", 0.96)
        logged = _log(run, folder, artifact, started, len(learn), len(held_out))

    with transaction.atomic():
        if not TrainingRun.objects.select_for_update().filter(pk=run.pk, status=TrainingRun.Status.RUNNING):
            raise LostError(f"Run {run.pk} was cancelled or given up.")
        if artifact:
            run.version = registry.register_version(
                artifact=artifact,
                evaluation=twin,
                recipe=run.recipe,
                metrics=run.metrics,
                card=card,
                mlflow_run_id=logged.run_id,
                mlflow_version=logged.model_version,
            )
        run.mlflow_run_id = logged.run_id
        run.status = TrainingRun.Status.SUCCEEDED
        run.step, run.share = "", 1.0
        run.finished_at = timezone.now()
        run.save()


def _fit(run: TrainingRun, rows: Rows, step: Progress, begin: float, end: float) -> tuple[Any, float]:
    """Fit on the rows, telling progress between two shares; returns the outcome and the seconds it took."""
    what = f"fit on {len(rows):,} rows"
    start = time.perf_counter()
    fitted = fit(
        rows.texts,
        rows.labels,
        recipe=run.recipe,
        seed=run.seed,
        sample_weight=rows.weights,
        progress=lambda stage, share: step(f"{what}: {stage}", begin + (end - begin) * share),
    )
    return fitted, time.perf_counter() - start


def _log(
    run: TrainingRun, folder: Path, artifact: Artifact | None, started: datetime, learned: int, held_out: int
) -> tracking.Logged:
    """Record the run in MLflow. An outage costs MLflow's record, never the model."""
    try:
        return tracking.log_run(
            name=str(run),
            params={
                "recipe": run.recipe,
                "seed": run.seed,
                "rows_learned_for_evaluation": learned,
                "rows_held_out": held_out,
                "natural_rate": run.dataset.natural_rate,
                "dataset": str(run.dataset),
                "dataset_sha256": run.dataset.sha256,
                "git_commit": run.git_commit,
            },
            metrics=run.metrics | {"training_seconds": run.seconds, "peak_memory_mb": run.peak_memory_mb},
            data=tracking.DataUsed(str(run.dataset), run.dataset.sha256, run.dataset.source),
            report=folder,
            artifact=artifact,
            started=started,
            tags={"mlflow.source.git.commit": run.git_commit} if run.git_commit else {},
        )
    except tracking.TrackingError as error:
        logger.warning("%s. The run and its model are kept here all the same.", error)
        return tracking.Logged("")


def git_commit() -> str:
    """Return the commit of the running code, from GIT_COMMIT or git; empty where neither knows."""
    if commit := os.environ.get("GIT_COMMIT"):
        return commit[:40]
    try:
        answer = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=settings.BASE_DIR, capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return answer.stdout.strip() if answer.returncode == 0 else ""


def gate_sentence(gate: Mapping[str, Any]) -> str:
    """Return a gate's verdict as one line."""
    figure, bound = ("none" if value is None else f"{value:.4g}" for value in (gate["figure"], gate["bound"]))
    between = " [{:.4g}, {:.4g}]".format(*gate["interval"]) if gate.get("interval") else ""
    return f"{gate['name']} {figure}{between} (bound {bound}) {'passed' if gate['passed'] else 'failed'}"


def judge(*, version: ModelVersion, dataset: Dataset, all_rows: bool = False) -> tuple[dict[str, Any], int]:
    """Evaluate a version on a data set; returns the figures by label and the number of rows.

    Args:
        all_rows: judge what is served on every row, for data it has not learned from; by default its twin is
            judged on the held-out rows.
    """
    rows = datasets.read(dataset.path, clean_weight=dataset.clean_weight)
    if all_rows:
        scorer = Scorer.load(version.modelartifact.artifact(), expected_sha256=version.sha256)
    else:
        rows = rows.take(rows.parts()[1])
        scorer = gates.twin(version)
    probabilities = gates.score_all(scorer, rows.texts)
    return evaluate(rows.labels, probabilities, scorer.thresholds, rows.weights), len(rows)


def promote(
    *, version: ModelVersion, reason: str, actor: str, by: User | None = None, force: bool = False
) -> Promotion:
    """Make a version champion if it passes its gates, or if it is forced; both are recorded.

    Raises:
        RegistryError: no reason, champion already, or a gate failed.
        ArtifactError: the version's artifact is damaged.
    """
    if not reason.strip():
        raise registry.RegistryError("Give a reason: it is kept with the promotion.")
    verdicts = gates.verdicts(version)
    failed = [gate_sentence(gate) for gate in verdicts if not gate["passed"]]
    if failed and not force:
        raise GateError(
            f"{version} fails its gates: {'; '.join(failed)}. If it must be, add --force and say why.",
            verdicts,
        )
    return registry.promote(
        version=version,
        reason=reason,
        actor=actor,
        by=by,
        gates=verdicts,
        forced=bool(failed),
    )
