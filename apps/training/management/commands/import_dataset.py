"""`manage.py import_dataset`: import labelled comments."""

from typing import Any

from django.core.management.base import CommandError, CommandParser

from apps.core.management import number_from
from apps.training import actions, jigsaw
from apps.training.management.base import DatasetCommand


class Command(DatasetCommand):
    help = """Import labelled comments as a data set to train on.

The source is a CSV file with the columns id, comment_text, toxic, severe_toxic, obscene, threat,
insult and identity_hate, labels 0 or 1; plain, .gz or .zip; UTF-8. Invalid rows are left out,
counted and listed by line. Importing the same rows again changes nothing."""
    examples = """  manage.py import_dataset comments.csv.gz --name ours
  manage.py import_dataset https://example.org/comments.zip --name ours --strict
  manage.py import_dataset s3://bucket/comments.csv --name ours       AWS's usual credentials
  manage.py import_dataset --source jigsaw --name jigsaw              the public data, about 224,000 comments;
                                      from Kaggle where KAGGLE_USERNAME and KAGGLE_KEY are set
  manage.py import_dataset sample.csv --name sample --natural-rate 0.102
                                      a sample in which toxic comments are over-represented"""

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("source", nargs="?", help="A path, an http(s) URL, s3://bucket/key, or jigsaw.")
        parser.add_argument("--source", dest="named", choices=["jigsaw"], help="The public Jigsaw data.")
        parser.add_argument(
            "--name", required=True, help="The data set's name; a second import is its version 2."
        )
        parser.add_argument(
            "--natural-rate",
            type=number_from(0.0, 1.0),
            help="The rate of labelled comments in the traffic, if the data is enriched: thresholds, "
            "calibration and precision are then valid for this rate (0.102 for Wikipedia).",
        )
        parser.add_argument(
            "--licence", default="", help="The data's licence, for the cards of models trained on it."
        )
        parser.add_argument("--strict", action="store_true", help="Import nothing if any row is invalid.")

    def handle(self, *args: Any, **options: Any) -> None:
        source = options["named"] or options["source"]
        if not source or (options["named"] and options["source"]):
            raise CommandError("Name one source: a path, a URL, or --source jigsaw.")
        dataset, is_new = actions.import_dataset(
            source=source,
            name=options["name"],
            natural_rate=options["natural_rate"],
            licence=options["licence"],
            strict=options["strict"],
        )
        if not is_new:
            self.stdout.write(f"{dataset} has the same rows: nothing was changed.")
            return
        if dataset.report:
            left_out = sum(problem["rows"] for problem in dataset.report.values())
            self.warn(f"{left_out} rows were left out:")
            for sentence in jigsaw.format_report(dataset.report):
                self.warn(f"  {sentence}")
        self.write_summary("Imported", dataset)
        self.stdout.write(f"Next: manage.py train_model --dataset {dataset.name}")
