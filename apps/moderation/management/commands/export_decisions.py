"""Export decisions as CSV, to a file or to S3."""

import tempfile
from argparse import ArgumentParser
from datetime import timedelta
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError
from django.utils import timezone

from apps.core import object_storage
from apps.core.management import ProjectCommand, number_from
from apps.moderation import exports
from apps.moderation.models import Decision


class Command(ProjectCommand):
    help = """Export the decisions of the last days as CSV, with the same columns as the console's export.
The file contains no comments.

Without --output the file goes to the bucket S3_BUCKET, as exports/decisions-DATE.csv."""
    examples = """  manage.py export_decisions --output decisions.csv
  manage.py export_decisions --days 7 --automatic --output s3://bucket/decisions.csv
  manage.py export_decisions --days 1                 from cron, where S3_BUCKET is set"""

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--days", type=number_from(1, 36_500), default=30, help="The number of days (30)."
        )
        parser.add_argument("--automatic", action="store_true", help="Include automatic decisions.")
        parser.add_argument("--output", help="A path or s3://bucket/key.")

    def handle(self, *args: Any, **options: Any) -> None:
        output = options["output"]
        if not output:
            if not settings.S3_BUCKET:
                raise CommandError("Name a file with --output, or set S3_BUCKET.")
            output = f"s3://{settings.S3_BUCKET}/exports/decisions-{timezone.now():%Y-%m-%d}.csv"
        decisions = Decision.objects.filter(created_at__gte=timezone.now() - timedelta(days=options["days"]))
        if not options["automatic"]:
            decisions = decisions.human()
        related = ("by", "rule", "policy", "model_version", "submission__author")
        rows = decisions.select_related(*related).order_by("pk")
        lines = exports.decisions_csv(rows.iterator(chunk_size=2_000))
        if not output.startswith("s3://"):
            self._write(Path(output), lines)
        else:
            with tempfile.TemporaryDirectory(prefix="toxicmod-") as folder:
                path = Path(folder, "decisions.csv")
                self._write(path, lines)
                object_storage.upload(path, output)
        self.stdout.write(f"Exported {output}.")

    def _write(self, path: Path, lines: Any) -> None:
        try:
            with path.open("w", newline="") as file:
                file.writelines(lines)
        except OSError as error:
            raise CommandError(f"{path} can't be written: {error.strerror}.") from None
