"""Look after the mirror in DynamoDB."""

from argparse import ArgumentParser
from datetime import datetime
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError
from django.utils import timezone
from tqdm import tqdm

from apps.core.management import ProjectCommand, parse_datetime
from apps.moderation.mirrored import STREAMS
from apps.predictions import mirror, outbox


class Command(ProjectCommand):
    help = """Look after the mirror of predictions, feedback and decisions in DynamoDB: say how far it is
behind, send what was stored before it was turned on, or compare both sides.

Sending again changes nothing: what is there already stays as it is."""
    examples = """  manage.py mirror                                how many records wait, and how long
  manage.py mirror --backfill --since 2026-01-31   send what was stored since then, all by default
  manage.py mirror --verify --since 2026-01-31     count and hash both sides, hour by hour
  manage.py mirror --create-table                  where Terraform does not"""
    expected_errors = (mirror.MirrorError,)

    def add_arguments(self, parser: ArgumentParser) -> None:
        what = parser.add_mutually_exclusive_group().add_argument
        what("--backfill", action="store_true", help="Send what is stored here.")
        what("--verify", action="store_true", help="Compare both sides; exit code 1 if they differ.")
        what("--create-table", action="store_true", help="Make the table, its index and its TTL.")
        parser.add_argument(
            "--since",
            type=parse_datetime,
            help="From this day or moment on (default: all that has not expired).",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        if not settings.DYNAMODB_TABLE:
            raise CommandError("The mirror is off: set DYNAMODB_TABLE.")
        if options["create_table"]:
            mirror.create_table()
            self.stdout.write(f"Made the table {settings.DYNAMODB_TABLE}. Next: manage.py mirror --backfill")
        elif options["backfill"]:
            self._backfill(options["since"])
        elif options["verify"]:
            self._verify(options["since"])
        self._say_what_waits()

    def _backfill(self, since: datetime | None) -> None:
        mirror.tend(STREAMS)  # nothing may fall between what is sent here and what is sent from here on
        for stream in STREAMS:
            sent = 0
            with tqdm(desc=stream.kind, unit="record", disable=None) as bar:
                for count in mirror.backfill(stream, since):
                    sent += count
                    bar.update(count)
            self.stdout.write(f"Sent {sent} {stream.kind} records.")

    def _verify(self, since: datetime | None) -> None:
        until = timezone.now()
        hours = differing = records = 0
        for stream in STREAMS:
            for found in mirror.verify(stream, since, until):
                hours += 1
                records += found.database.count
                if not found.is_equal:
                    differing += 1
                    self.stdout.write(
                        f"{found.hour:%Y-%m-%d %H}h {found.kind}: database {found.database.count}, "
                        f"mirror {found.mirror.count}, hashes "
                        f"{found.database.digest >> 192:016x} and {found.mirror.digest >> 192:016x}"
                    )
        if differing:
            self._say_what_waits()
            raise CommandError(
                f"{differing} of {hours} hours differ. What is missing there: manage.py mirror --backfill."
            )
        self.stdout.write(f"Both sides are equal: {records} records in {hours} hours.")

    def _say_what_waits(self) -> None:
        behind = outbox.lag()
        oldest = f", the oldest for {behind.seconds:.0f} s" if behind.count else ""
        self.stdout.write(f"{behind.count} records wait to be sent{oldest}.")
