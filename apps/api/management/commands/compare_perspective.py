"""`manage.py compare_perspective`: compare past Perspective scores with the model's probabilities."""

import os
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError, CommandParser
from tqdm import tqdm

from apps.api.perspective import comparison
from apps.api.perspective.client import PerspectiveClient
from apps.core.management import ProjectCommand, number_from
from apps.registry import serving


class Command(ProjectCommand):
    help = """Score comments that Perspective has scored, and compare the scores.

FILE is CSV with a header or JSONL: the comment's text, and past scores in columns named like the
attributes (TOXICITY, INSULT, …), or a saved response of Perspective (attributeScores). If
PERSPECTIVE_API_KEY is in the environment, rows without scores are sent to Perspective with doNotStore.

The output has for each attribute Spearman's rank correlation, and the threshold at which the model
flags as many comments as Perspective does at the site's threshold. A plot shows the scores of each
comment. Nothing is stored as a prediction."""
    examples = """  manage.py compare_perspective past-scores.csv --threshold 0.8
  PERSPECTIVE_API_KEY=… manage.py compare_perspective comments.csv --per-second 1 --save scores.jsonl"""

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("file", type=Path, help="CSV (with a header) or JSONL.")
        parser.add_argument(
            "--threshold", type=number_from(0.0, 1.0), default=0.7, help="The site's threshold (0.7)."
        )
        parser.add_argument("--text-column", help="The column of the text (default: text, comment_text, …).")
        parser.add_argument(
            "--plot", type=Path, help="The file of the plot (default: FILE with the suffix .png)."
        )
        parser.add_argument(
            "--url", default="https://commentanalyzer.googleapis.com", help="The URL of the Perspective API."
        )
        parser.add_argument(
            "--per-second",
            type=number_from(0.001, 1_000.0),
            default=1.0,
            help="Requests per second to Perspective (1).",
        )
        parser.add_argument(
            "--save", type=Path, help="Append the responses of Perspective to this JSONL file."
        )

    def handle(self, *args: Any, **options: Any) -> None:
        path, threshold = options["file"], options["threshold"]
        if not 0 < threshold <= 1:
            raise CommandError("--threshold must be greater than 0 and at most 1.")
        if options["per_second"] <= 0:
            raise CommandError("--per-second must be greater than 0.")
        loaded_model = serving.current()
        rows = comparison.read(path, options["text_column"])
        key = os.environ.get("PERSPECTIVE_API_KEY", "")
        client = PerspectiveClient(options["url"], key, options["per_second"], self.warn) if key else None
        if client:
            rows = client.add_scores(rows, options["save"])
        scored = comparison.score_rows(rows, loaded_model.scorer)
        comparisons = comparison.compare(tqdm(scored, unit=" comments", disable=None), threshold)
        if client and client.rejected:
            self.warn(f"{client.rejected:,} comments were rejected by {options['url']} and are left out.")
        if not comparisons:
            raise CommandError(
                f"{path} has no scores. Name its columns like the attributes (TOXICITY, INSULT, …), "
                "or set PERSPECTIVE_API_KEY to request the scores from Perspective."
            )
        self.stdout.write(
            f"{'attribute':28} {'comments':>9} {'correlation':>11} {'flagged':>8} {'threshold':>9} "
            f"{'flags':>7} {'agree':>7}"
        )
        for item in comparisons:
            self.stdout.write(
                f"{item.attribute:28} {len(item.perspective):9,} {item.correlation:11.3f} "
                f"{item.perspective_rate:8.2%} {item.suggested:9.4f} {item.toxicmod_rate:7.2%} "
                f"{item.agreement:7.2%}"
            )
        plot = options["plot"] or path.with_suffix(".png")
        comparison.plot(comparisons, plot)
        self.stdout.write(
            f"At its threshold, model v{loaded_model.number} flags as many comments as Perspective at "
            f"{threshold:g}. Plot: {plot}"
        )
