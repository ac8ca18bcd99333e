"""Train a model."""

from typing import Any

from django.core.management.base import CommandError, CommandParser
from tqdm import tqdm

from apps.classifier.config import RECIPES
from apps.classifier.evaluation import format_metrics
from apps.registry.management.base import ModelCommand
from apps.training import actions, runs
from apps.training.models import Dataset
from apps.training.runs import TrainingError
from apps.training.sources import SourceError


class Command(ModelCommand):
    help = """Train a model on an imported data set and register it as challenger.

A tenth of the rows is held out (stratified, the same for every run); the model is fitted and
calibrated on the rest and evaluated, then fitted again on all rows. Figures, plots, the most telling
words and the model card go to MLflow; the model goes into the registry. Nothing is promoted: that is
`promote_model`.

The recipes `tfidf_baseline` and `tfidf_char_baseline` are recorded in MLflow for comparison only."""
    examples = """  manage.py train_model --dataset jigsaw
  manage.py train_model --dataset jigsaw:2 --seed 7
  manage.py train_model --dataset jigsaw --recipe tfidf_char_baseline
  mlflow ui --backend-store-uri sqlite:///.data/mlflow.sqlite3        to look at the runs"""
    expected_errors = (SourceError, TrainingError)

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--dataset", required=True, help="The data set: name, or name:version for an older one."
        )
        parser.add_argument(
            "--recipe", choices=RECIPES, default=RECIPES[0], help="What to fit (default: two_level)."
        )
        parser.add_argument(
            "--seed", type=int, default=0, help="Of everything random in the fit (default: 0)."
        )

    def handle(self, *args: Any, **options: Any) -> None:
        dataset = Dataset.objects.named(options["dataset"])
        if dataset is None:
            known = ", ".join(map(str, Dataset.objects.all()[:20])) or "none: run import_dataset"
            raise CommandError(f"There is no data set {options['dataset']} (there are: {known}).")
        run = runs.queue_run(dataset=dataset, recipe=options["recipe"], seed=options["seed"])
        with tqdm(total=100, bar_format="{l_bar}{bar}| {elapsed}", disable=None) as bar:

            def progress(step: str, share: float) -> None:
                bar.set_description(step)
                bar.update(100 * share - bar.n)

            try:
                actions.train(run=run, progress=progress)
            except (KeyboardInterrupt, SystemExit):
                raise CommandError(
                    f"Interrupted. Run {run.pk} is queued again: a worker starts it, or cancel it in the "
                    "admin under Training runs."
                ) from None
        if run.status != run.Status.SUCCEEDED:
            raise CommandError(f"{run} was not trained: {run.error or run.get_status_display()}")
        self.stdout.write(format_metrics(run.metrics))
        self.stdout.write(f"Fitted in {run.seconds:.0f} s, peak memory {run.peak_memory_mb:,.0f} MB.")
        if not run.mlflow_run_id:
            self.warn(
                "MLflow was not told: it could not be reached. The model is kept; MLflow learns of it later."
            )
        if run.version is None:
            self.stdout.write("A reference: recorded for comparison, not registered.")
            return
        self.stdout.write(f"Registered as {run.version}, the challenger.")
        self.stdout.write(f'Next: manage.py promote_model {run.version} --reason "…"')
        self.sync_tracking()
