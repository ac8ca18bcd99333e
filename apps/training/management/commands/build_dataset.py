"""`manage.py build_dataset`: build a data set from decisions and feedback."""

from argparse import ArgumentTypeError
from datetime import datetime
from typing import Any

from django.core.management.base import CommandParser
from django.utils import timezone

from apps.training import actions, jigsaw, labels
from apps.training.management.base import DatasetCommand, find_dataset


def parse_day(value: str) -> datetime:
    """Return the beginning of a day in the site's time zone."""
    try:
        return timezone.make_aware(datetime.strptime(value, "%Y-%m-%d"))
    except ValueError:
        raise ArgumentTypeError(f"{value} is not a day: write it as 2026-01-31.") from None


class Command(DatasetCommand):
    help = f"""Build a data set from moderators' decisions, users' feedback and scores that Perspective
    clients suggest.

{labels.LABEL_POLICY}

With --base the held-out rows are those held out from the base, so that metrics of different builds are
comparable. The same records give the same data set, which is stored once."""
    examples = """  manage.py build_dataset --name ours --base jigsaw
  manage.py build_dataset --name ours --base jigsaw:1 --since 2026-01-31
  manage.py train_model --dataset ours                                then"""

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--name", required=True, help="The data set's name; a second build is its version 2."
        )
        parser.add_argument(
            "--base",
            metavar="DATASET",
            help="An imported data set whose rows are included: name, or name:version.",
        )
        parser.add_argument(
            "--since",
            type=parse_day,
            metavar="DATE",
            help="Use only decisions and feedback from this day on (YYYY-MM-DD).",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        base = find_dataset(options["base"]) if options["base"] else None
        dataset, is_new = actions.build_dataset(name=options["name"], base=base, since=options["since"])
        if not is_new:
            self.stdout.write(f"{dataset} has the same rows: nothing was changed.")
            return
        for sentence in jigsaw.format_report(dataset.report):
            self.warn(f"Left out: {sentence}")
        self.write_summary("Built", dataset)
        self.stdout.write(f"Rows by origin: {dataset.source}")
        self.stdout.write(f"Next: manage.py train_model --dataset {dataset.name}")
