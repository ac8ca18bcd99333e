"""`manage.py bench_moderation`: measure the console's reads, actions and pages."""

from argparse import ArgumentParser
from typing import Any

from apps.core.management import ProjectCommand
from apps.moderation.models import QueueItem
from apps.predictions.models import Prediction
from toxicmod.benchmarks import moderation as bench


class Command(ProjectCommand):
    help = """Measure the console's reads, actions and pages with the rows of the database, and print a table.

Fill it with `manage.py seed_benchmark` first."""
    examples = "  manage.py bench_moderation\n  manage.py bench_moderation --runs 20"

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--runs", type=int, default=100)

    def handle(self, *args: Any, **options: Any) -> None:
        self.stdout.write(
            f"{Prediction.objects.count():,} predictions, {QueueItem.objects.count():,} queue items, "
            f"{QueueItem.objects.open().count():,} of them open"
        )
        self.stdout.write(bench.table(bench.measure(options["runs"])))
        self.stdout.write(bench.table(bench.measure_pages(options["runs"])))
