"""`manage.py train_model`: train a model."""

from typing import Any

from django.core.management.base import CommandError, CommandParser
from tqdm import tqdm

from apps.classifier.config import RECIPES
from apps.classifier.evaluation import format_metrics
from apps.core.management import get_operator, number_from
from apps.registry.management.base import ModelCommand
from apps.training import actions
from apps.training.management.base import DATASET_HELP, find_dataset


class Command(ModelCommand):
    help = """Train a model on an imported data set and register it as challenger.

A tenth of the rows is held out (stratified, the same for every run). A model is trained and calibrated on
the rest and evaluated, then the final model is trained on all rows. Metrics, plots, top features and the
model card are recorded in MLflow; the model is stored in the registry. `promote_model` promotes it.

The recipes `tfidf_baseline` and `tfidf_char_baseline` are recorded in MLflow for comparison only."""
    examples = """  manage.py train_model --dataset jigsaw
  manage.py train_model --dataset jigsaw:2 --seed 7
  manage.py train_model --dataset jigsaw --recipe tfidf_char_baseline
  mlflow ui --backend-store-uri sqlite:///.data/mlflow.sqlite3        to see the runs"""

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--dataset", required=True, help=DATASET_HELP)
        parser.add_argument(
            "--recipe", choices=RECIPES, default=RECIPES[0], help="The recipe (default: two_level)."
        )
        parser.add_argument(
            "--seed",
            type=number_from(0, 2**31 - 1),
            default=0,
            help="The seed of all random numbers (default: 0).",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        run = actions.create_run(
            actor=get_operator(),
            dataset=find_dataset(options["dataset"]),
            recipe=options["recipe"],
            seed=options["seed"],
        )
        with tqdm(total=100, bar_format="{l_bar}{bar}| {elapsed}", disable=None) as bar:

            def progress(step: str, fraction: float) -> None:
                bar.set_description(step)
                bar.update(100 * fraction - bar.n)

            try:
                actions.train(run=run, progress=progress)
            except (KeyboardInterrupt, SystemExit):
                raise CommandError(
                    f"Interrupted. Run {run.pk} is queued again, and a worker will start it. You can "
                    "cancel it in the admin under Training runs."
                ) from None
        if run.status != run.Status.SUCCEEDED:
            raise CommandError(f"{run} was not trained: {run.error or run.get_status_display()}")
        self.stdout.write(format_metrics(run.metrics))
        self.stdout.write(f"Trained in {run.seconds:.0f} s, peak memory {run.peak_memory_mb:,.0f} MB.")
        if not run.mlflow_run_id:
            self.warn("MLflow can't be reached. The model is stored and will be recorded in MLflow later.")
        if run.version is None:
            self.stdout.write("A baseline is recorded for comparison and not registered.")
            return
        self.stdout.write(f"Registered as {run.version}, the challenger.")
        self.stdout.write(f'Next: manage.py promote_model {run.version} --reason "…"')
        self.sync_tracking()
