"""Count what has changed."""

from argparse import ArgumentParser
from datetime import datetime
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError
from django.utils import timezone
from django.utils.dateparse import parse_date, parse_datetime
from tqdm import tqdm

from apps.monitoring import origins, rollups
from apps.predictions.mirror import MirrorError
from apps.registry.management import base


def moment(text: str) -> datetime:
    """Return a date or a time as a time with a zone; raises ValueError for anything else."""
    day = parse_date(text)
    at = datetime.combine(day, datetime.min.time()) if day else parse_datetime(text)
    if at is None:
        raise ValueError(text)
    return at if timezone.is_aware(at) else timezone.make_aware(at)


class Command(base.Command):
    help = """Count the predictions, decisions and feedback of every hour that has changed since the last run.

The scheduler does this every five minutes. Running it again changes nothing."""
    examples = (
        "  manage.py roll_up\n  manage.py roll_up --since 2026-11-01\n  manage.py roll_up --from dynamodb"
    )
    refusals = (MirrorError, rollups.UnknownVersionError)

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--since", help="Count all hours from this date or time on, whether changed or not."
        )
        parser.add_argument(
            "--from",
            dest="origin",
            choices=origins.ORIGINS,
            default=settings.ROLL_UP_FROM,
            help="Where predictions and feedback are read. Default: ROLL_UP_FROM of the environment.",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            since = moment(options["since"]) if options["since"] else None
        except ValueError:
            raise CommandError("--since is a date or a time, like 2026-11-01 or 2026-11-01T12:00Z.") from None
        with tqdm(desc="Hours", unit="h", leave=False, disable=None) as bar:

            def report(hour: datetime, left: int) -> None:
                bar.total = bar.total or left
                bar.update()

            origin = origins.ORIGINS[options["origin"]]()
            hours = rollups.roll_up(origin=origin, since=since, report=report)
        self.stdout.write(
            f"{hours:,} hours counted" if hours else "Another run is at work: nothing to do here"
        )
