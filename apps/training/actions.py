"""What is done with data sets and training runs."""

import logging
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from django.conf import settings
from django.db import DatabaseError, IntegrityError, connection, transaction
from django.db.models import F, Max
from django.utils import timezone

from apps.classifier.artifact import Artifact
from apps.classifier.evaluation import evaluate
from apps.classifier.labels import LABELS
from apps.classifier.scorer import Scorer
from apps.core.text import pluralize
from apps.registry import actions as registry
from apps.registry import tracking
from apps.registry.exceptions import TrackingError
from apps.registry.models import Alias, ModelVersion
from apps.training import datasets, gates, jigsaw, life, sources
from apps.training.datasets import Rows
from apps.training.models import Dataset, GateReport, TrainingRun
from apps.training.runs import LEARNED, BusyError, TrainingError, queue_run, send_run
from apps.training.sources import SourceError

logger = logging.getLogger(__name__)

Progress = Callable[[str, float], None]
JIGSAW_LICENCE = "labels CC0; comment text from Wikipedia, CC BY-SA 3.0"
OWN_LICENCE = "comments written and judged on this site"


HEARTBEAT_SECONDS = 5.0


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
            raise SourceError(
                f"{pluralize(len(problems), 'row is', 'rows are')} wrong, nothing was imported. {wrong}"
            )
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
    fresh = life.statements(last.created_at, labeled=True).count()
    days = settings.TRAIN_AFTER_DAYS
    is_many = 0 < settings.TRAIN_AFTER_LABELS <= fresh
    is_late = bool(days and fresh) and last.created_at <= timezone.now() - timedelta(days=days)
    if not is_many and not is_late:
        return None
    return _learn(base)


def learn(*, because: str) -> TrainingRun | None:
    """Build a data set of what was said until now and queue a run, for a reason that asks for a run once.

    Returns:
        The queued run, or None where the reason has had its run, or no data set was imported.

    Raises:
        SourceError, TrainingError: as in `learn_when_due`.
    """
    base = Dataset.objects.filter(is_built=False).newest()
    if base is None or TrainingRun.objects.filter(trigger=because[:150]).exists():
        return None
    return _learn(base, because[:150])


def _learn(base: Dataset, trigger: str = "") -> TrainingRun | None:
    dataset, _ = build_dataset(name=LEARNED, base=base)
    try:
        with transaction.atomic():
            run = queue_run(dataset=dataset)
            run.trigger = trigger or f"new labels: {dataset}"
            run.save(update_fields=["trigger"])
    except IntegrityError:
        return None
    send_run(run)
    return run


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


@contextmanager
def _sigterm_raises() -> Iterator[None]:
    """Let SIGTERM raise SystemExit where its default action would end the process silently."""
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _requeue(run: TrainingRun) -> None:
    """Put a run that was stopped back in the queue, from where the next worker that starts takes it."""
    if threading.current_thread() is threading.main_thread():
        # The process is about to end. A second signal must not end it before the run is stored.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
    TrainingRun.objects.filter(pk=run.pk, status=TrainingRun.Status.RUNNING).update(
        status=TrainingRun.Status.QUEUED,
        step="interrupted",
        share=0,
        heartbeat_at=None,
        interruptions=F("interruptions") + 1,
    )
    logger.warning("Run %d was interrupted and waits to be started again", run.pk)


def train(*, run: TrainingRun, progress: Progress | None = None) -> TrainingRun:
    """Carry out a queued run: evaluate on held-out rows, fit on all, record in MLflow, register a challenger.

    One run is trained at a time, whichever processes ask. A run that is cancelled, or given up because its
    worker had fallen silent, registers nothing.

    The references `plain` and `strong` are evaluated and recorded only. A run that isn't queued any more is
    left alone, so that a task delivered twice trains once. Whatever fails is kept in the run's `error`. A
    stop of the process (SIGINT, SIGTERM) is no failure: the run goes back to the queue.

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
        with _sigterm_raises(), _heartbeat(run):
            _train(run, step)
        if progress:
            progress("done", 1.0)
    except LostError:
        run.refresh_from_db()
    except (KeyboardInterrupt, SystemExit):
        _requeue(run)
        run.refresh_from_db()
        raise
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
    # Loaded on first use: scikit-learn and matplotlib take 150 MB, which only a training needs.
    from apps.classifier.training import TwoLevelModel
    from apps.training import report

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
    if isinstance(evaluated, TwoLevelModel):
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
        artifact, card, worst = None, "", {}
        if isinstance(evaluated, TwoLevelModel):
            final, run.seconds = _fit(run, rows, step, 0.55, 0.95)
            assert isinstance(final, TwoLevelModel)
            artifact = final.artifact(**facts, metrics=run.metrics)
            scorer = Scorer.load(artifact)
            worst = report.write_groups(folder, scorer)
            card = report.card(run, scorer, len(learn), len(held_out), worst)
            (folder / "MODEL_CARD.md").write_text(card)
            report.write_top_features(folder, scorer, rows)
        run.peak_memory_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        step("recording in MLflow", 0.96)
        logged = _log(run, folder, artifact, started, len(learn), len(held_out), worst)

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
    from apps.classifier.config import TrainingConfig
    from apps.classifier.training import fit

    what = f"fit on {len(rows):,} rows"
    start = time.perf_counter()
    fitted = fit(
        rows.texts,
        rows.labels,
        TrainingConfig(recipe=run.recipe, seed=run.seed),
        sample_weight=rows.weights,
        progress=lambda stage, share: step(f"{what}: {stage}", begin + (end - begin) * share),
    )
    return fitted, time.perf_counter() - start


def _log(
    run: TrainingRun,
    folder: Path,
    artifact: Artifact | None,
    started: datetime,
    learned: int,
    held_out: int,
    worst: dict[str, tuple[str, float]],
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
            metrics=run.metrics
            | {"training_seconds": run.seconds, "peak_memory_mb": run.peak_memory_mb}
            | {"worst_group": {f"{measure}_auc": auc for measure, (_, auc) in worst.items()}},
            data=tracking.DataUsed(str(run.dataset), run.dataset.sha256, run.dataset.source),
            report=folder,
            artifact=artifact,
            started=started,
            tags={"mlflow.source.git.commit": run.git_commit} if run.git_commit else {},
        )
    except TrackingError as error:
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


def measure_gates(*, version: ModelVersion) -> GateReport:
    """Judge a version at every gate, against the champion and on the data set imported last; keep the report.

    Raises:
        ArtifactError: a stored artifact is damaged.
        SourceError: the data set's file is damaged.
    """
    champion, dataset = ModelVersion.objects.with_alias(Alias.CHAMPION), Dataset.objects.newest()
    return GateReport.objects.create(
        version=version,
        champion=champion,
        dataset=dataset,
        gates=gates.verdicts(version, champion, dataset),
    )


def unmeasured() -> ModelVersion | None:
    """Return the model of the last successful run where it was never measured at its gates."""
    run = TrainingRun.objects.filter(status=TrainingRun.Status.SUCCEEDED).order_by("-pk").first()
    if run is None or run.version is None or GateReport.objects.filter(version=run.version).exists():
        return None
    return run.version
