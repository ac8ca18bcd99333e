"""Report on the mirror in DynamoDB, fill it and compare it with the database."""

from argparse import ArgumentParser
from datetime import datetime
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError
from django.utils import timezone
from tqdm import tqdm

from apps.core.management import ProjectCommand, parse_datetime
from apps.mirror.models import ChangeLogEntry
from apps.mirror.replicated import REPLICATED_MODELS
from apps.mirror.sender import backfill
from apps.mirror.table import create_table
from apps.mirror.triggers import install_triggers
from apps.mirror.verify import verify


class Command(ProjectCommand):
    help = """Report the lag of the mirror of predictions, feedback and decisions in DynamoDB, copy records
that were stored before the mirror was turned on, or compare both sides.

Copying a record again changes nothing: a stored record remains as it is."""
    examples = """  manage.py mirror                                number and age of the pending records
  manage.py mirror --backfill --since 2026-01-31   copy what was stored since then, by default everything
  manage.py mirror --verify --since 2026-01-31     compare counts and checksums, hour by hour
  manage.py mirror --create-table                  if Terraform does not create the table"""

    def add_arguments(self, parser: ArgumentParser) -> None:
        group = parser.add_mutually_exclusive_group()
        group.add_argument("--backfill", action="store_true", help="Copy the stored records.")
        group.add_argument(
            "--verify", action="store_true", help="Compare both sides; exit code 1 if they differ."
        )
        group.add_argument(
            "--create-table", action="store_true", help="Create the table, its index and its TTL."
        )
        parser.add_argument(
            "--since",
            type=parse_datetime,
            help="Only records from this day or time on (default: all that have not expired).",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        if not settings.DYNAMODB_TABLE:
            raise CommandError("The mirror is off: set DYNAMODB_TABLE.")
        if options["create_table"]:
            create_table()
            self.stdout.write(
                f"Created the table {settings.DYNAMODB_TABLE}. Next: manage.py mirror --backfill"
            )
        elif options["backfill"]:
            self._backfill(options["since"])
        elif options["verify"]:
            self._verify(options["since"])
        self._write_lag()

    def _backfill(self, since: datetime | None) -> None:
        install_triggers()  # before copying, so that no record is stored in between
        for replicated in REPLICATED_MODELS:
            copied = 0
            with tqdm(desc=replicated.kind, unit="record", disable=None) as bar:
                for count in backfill(replicated, since):
                    copied += count
                    bar.update(count)
            self.stdout.write(f"Copied {copied} {replicated.kind} records.")

    def _verify(self, since: datetime | None) -> None:
        until = timezone.now()
        hours = different = records = 0
        for replicated in REPLICATED_MODELS:
            for comparison in verify(replicated, since, until):
                hours += 1
                records += comparison.database.count
                if not comparison.is_equal:
                    different += 1
                    database, mirror = comparison.database, comparison.mirror
                    self.stdout.write(
                        f"{comparison.hour:%Y-%m-%d %H}h {comparison.kind}: database {database.count}, "
                        f"mirror {mirror.count}, checksums "
                        f"{database.digest >> 192:016x} and {mirror.digest >> 192:016x}"
                    )
        if different:
            self._write_lag()
            raise CommandError(
                f"{different} of {hours} hours differ. Copy missing records with manage.py mirror --backfill."
            )
        self.stdout.write(f"Both sides are equal: {records} records in {hours} hours.")

    def _write_lag(self) -> None:
        replication_lag = ChangeLogEntry.objects.replication_lag()
        oldest = f", the oldest for {replication_lag.seconds:.0f} s" if replication_lag.count else ""
        self.stdout.write(f"{replication_lag.count} records are pending{oldest}.")
