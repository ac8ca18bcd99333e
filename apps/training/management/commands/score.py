"""`manage.py score`: score a file of comments."""

from pathlib import Path
from typing import Any

from django.core.management.base import CommandParser

from apps.core.management import ProjectCommand, number_from
from apps.registry.management.base import VERSION_HELP, find_version
from apps.training import scoring


class Command(ProjectCommand):
    help = """Score a file of comments, of any size, in constant memory and on all cores.

A .csv or .tsv (also .csv.gz, .zip) is read by column, any other file as one comment per line. The
separator and the encoding are found. The output has, for
each comment in order, its id (the column `id`, or the number of the row, from 1), six probabilities, and
the labels whose threshold is reached. It does not contain the text. No prediction is stored."""
    examples = """  manage.py score comments.csv --output scores.csv
  manage.py score comments.csv.gz --column body --format jsonl --output scores.jsonl
  manage.py score comments.txt --model challenger > scores.csv"""
    requires_system_checks = ()  # they import every view

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("file", type=Path, help="A CSV file, or a text file with one comment per line.")
        parser.add_argument("--output", type=Path, help="The output file (default: standard output).")
        parser.add_argument(
            "--format", choices=scoring.FORMATS, help="Default: by the suffix of the output, else csv."
        )
        parser.add_argument(
            "--column",
            help="The CSV's column of texts (default: comment_text, text, comment, …).",
        )
        parser.add_argument("--model", default="champion", help=VERSION_HELP)
        parser.add_argument(
            "--threads", type=number_from(1, 1_024), help="Number of scoring threads (default: one per core)."
        )

    def handle(self, *args: Any, **options: Any) -> None:
        version = find_version(options["model"])
        scorer = version.load_scorer()
        output = options["output"]
        is_jsonl = output is not None and output.suffix in (".jsonl", ".ndjson")
        count = scoring.score_file(
            scorer=scorer,
            path=options["file"],
            output=output,
            output_format=options["format"] or ("jsonl" if is_jsonl else "csv"),
            column=options["column"],
            threads=options["threads"],
        )
        if output:
            self.stdout.write(f"Scored {count:,} comments with {version}: {output}")
