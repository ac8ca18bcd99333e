"""`manage.py roll_up`: count the hours that have changed."""

from argparse import ArgumentParser
from datetime import datetime
from typing import Any

from django.conf import settings
from tqdm import tqdm

from apps.core.management import ProjectCommand, parse_datetime
from apps.core.text import pluralize
from apps.monitoring import actions
from apps.monitoring.rollups.origins import ORIGINS


class Command(ProjectCommand):
    help = """Count the predictions, decisions and feedback of every hour that has changed since the last run.

The scheduler does this every five minutes. A second run changes nothing."""
    examples = (
        "  manage.py roll_up\n  manage.py roll_up --since 2026-11-01\n  manage.py roll_up --from dynamodb"
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--since",
            type=parse_datetime,
            help="Count all hours from this day or time on, whether they have changed or not. Hours older "
            "than eight days keep their stored errors; hours that have expired in DynamoDB are skipped.",
        )
        parser.add_argument(
            "--from",
            dest="origin",
            choices=ORIGINS,
            default=settings.ROLL_UP_FROM,
            help="Where predictions and feedback are read from. Default: ROLL_UP_FROM in the environment.",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        with tqdm(desc="Hours", unit="h", leave=False, disable=None) as bar:

            def report(hour: datetime, left: int) -> None:
                bar.total = bar.total or left
                bar.update()

            origin = ORIGINS[options["origin"]]()
            hours = actions.roll_up(origin=origin, since=options["since"], report=report)
        counted = f"{pluralize(hours, 'hour')} counted"
        self.stdout.write(counted if hours else "Another process is counting, so nothing was done")
