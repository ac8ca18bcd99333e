"""`manage.py seed_benchmark`: add predictions and queue items to a PostgreSQL for benchmarks."""

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from apps.core.management import ProjectCommand
from toxicmod.benchmarks import seeding


class Command(ProjectCommand):
    help = """Add predictions and queue items from real comments to a PostgreSQL, for benchmarks.

Never run it on a database that is in use: the rows look real and are not removed."""
    examples = """  manage.py seed_benchmark train.csv.gz
  manage.py seed_benchmark train.csv --predictions 50000 --items 5000"""
    expected_errors = (OSError,)

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("path", type=Path, help="A CSV file with a column comment_text, also as .gz.")
        parser.add_argument("--predictions", type=int, default=1_000_000)
        parser.add_argument("--items", type=int, default=200_000)

    def handle(self, *args: Any, **options: Any) -> None:
        seeding.seed(path=options["path"], predictions=options["predictions"], items=options["items"])
        seeding.analyse()
        self.stdout.write(
            f"Added {options['predictions']:,} predictions and {options['items']:,} queue items."
        )
