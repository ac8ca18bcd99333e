"""`manage.py evaluate_model`: evaluate a model version on a data set."""

from typing import Any

from django.core.management.base import CommandParser

from apps.classifier.evaluation import format_metrics
from apps.core.management import ProjectCommand
from apps.registry.management.base import VERSION_HELP, find_version
from apps.training import actions
from apps.training.management.base import DATASET_HELP, find_dataset


class Command(ProjectCommand):
    help = """Evaluate a model version on a data set: ROC-AUC, PR-AUC, precision, recall and F1 at its
thresholds, Brier score and expected calibration error, per label and on average.

By default the evaluation model, which was not trained on the held-out rows, is evaluated on them. With
--all-rows the version itself is evaluated on every row, for data that it was not trained on."""
    examples = """  manage.py evaluate_model champion --dataset jigsaw
  manage.py evaluate_model v3 --dataset our-own-labels --all-rows"""

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("version", help=VERSION_HELP)
        parser.add_argument("--dataset", required=True, help=DATASET_HELP)
        parser.add_argument(
            "--all-rows", action="store_true", help="Evaluate the version itself, on every row."
        )

    def handle(self, *args: Any, **options: Any) -> None:
        version = find_version(options["version"])
        dataset = find_dataset(options["dataset"])
        metrics, rows = actions.evaluate_version(
            version=version, dataset=dataset, all_rows=options["all_rows"]
        )
        self.stdout.write(
            f"{version} on {rows:,} {'' if options['all_rows'] else 'held-out '}rows of {dataset}"
        )
        self.stdout.write(format_metrics(metrics))
