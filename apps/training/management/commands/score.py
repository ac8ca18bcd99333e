"""Score a file of comments."""

from pathlib import Path
from typing import Any

from django.core.management.base import CommandParser

from apps.classifier.scorer import Scorer
from apps.core.management import ProjectCommand
from apps.registry.management.base import VERSION_HELP, find_version
from apps.training import scoring
from apps.training.sources import SourceError


class Command(ProjectCommand):
    help = """Score a file of comments, of any size, in constant memory and on all cores.

A .csv (also .csv.gz, .zip) is read by column, anything else as one comment a line. For each
comment, in order: its id (the column `id`, else the number of the row, from 1), six probabilities,
and the labels whose threshold is reached. The text is not repeated, and
nothing is stored as a prediction."""
    examples = """  manage.py score comments.csv --output scores.csv
  manage.py score comments.csv.gz --column body --format jsonl --output scores.jsonl
  manage.py score comments.txt --model challenger > scores.csv"""
    expected_errors = (SourceError, scoring.ScoringError)
    requires_system_checks = ()  # they load every page of the site

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("file", type=Path, help="A CSV file, or a text file with one comment a line.")
        parser.add_argument("--output", type=Path, help="Where to (default: standard output).")
        parser.add_argument(
            "--format", choices=scoring.FORMATS, help="Default: the output's ending, else csv."
        )
        parser.add_argument(
            "--column", help="The CSV's column of texts (default: comment_text, text or comment)."
        )
        parser.add_argument("--model", default="champion", help=VERSION_HELP)
        parser.add_argument("--threads", type=int, help="How many threads score (default: one a core).")

    def handle(self, *args: Any, **options: Any) -> None:
        version = find_version(options["model"])
        scorer = Scorer.load(version.modelartifact.artifact(), expected_sha256=version.sha256)
        output = options["output"]
        jsonl = output is not None and output.suffix in (".jsonl", ".ndjson")
        count = scoring.score_file(
            scorer=scorer,
            path=options["file"],
            output=output,
            form=options["format"] or ("jsonl" if jsonl else "csv"),
            column=options["column"],
            threads=options["threads"],
        )
        if output:
            self.stdout.write(f"Scored {count:,} comments with {version}: {output}")
