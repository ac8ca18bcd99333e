"""Compare a site's past Perspective scores with ours."""

import os
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError, CommandParser
from tqdm import tqdm

from apps.api.perspective import comparison
from apps.api.perspective.upstream import Upstream
from apps.core.management import ProjectCommand
from apps.registry import serving
from apps.registry.exceptions import NoModelError


class Command(ProjectCommand):
    help = """Score comments that Perspective has scored, and say how the scores compare.

FILE is CSV with a header or JSONL: the comment's text, and past scores in columns named like the
attributes (TOXICITY, INSULT, …), or a saved answer of Perspective's (attributeScores). Rows without
scores are sent to Perspective where PERSPECTIVE_API_KEY is in the environment, marked do-not-store.

For each attribute: Spearman's rank correlation, and the threshold that flags as many comments here
as the site's threshold does there. A plot shows every pair. Nothing is stored as a prediction."""
    examples = """  manage.py compare_perspective past-scores.csv --threshold 0.8
  PERSPECTIVE_API_KEY=… manage.py compare_perspective comments.csv --per-second 1 --save scores.jsonl"""
    expected_errors = (comparison.ComparisonError, NoModelError)

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("file", type=Path, help="CSV (with a header) or JSONL.")
        parser.add_argument("--threshold", type=float, default=0.7, help="The site's threshold (0.7).")
        parser.add_argument("--text-column", help="The column of the text (default: text, comment_text, …).")
        parser.add_argument("--plot", type=Path, help="Where the plot goes (default: beside FILE, .png).")
        parser.add_argument(
            "--url", default="https://commentanalyzer.googleapis.com", help="Where Perspective answers."
        )
        parser.add_argument("--per-second", type=float, default=1.0, help="Calls a second to it (1).")
        parser.add_argument("--save", type=Path, help="Append its answers to this JSONL file.")

    def handle(self, *args: Any, **options: Any) -> None:
        path, threshold = options["file"], options["threshold"]
        if not 0 < threshold <= 1:
            raise CommandError("The threshold is a score: above 0, at most 1.")
        if options["per_second"] <= 0:
            raise CommandError("Calls a second must be more than 0.")
        served = serving.current()
        rows = comparison.read(path, options["text_column"])
        key = os.environ.get("PERSPECTIVE_API_KEY", "")
        upstream = Upstream(options["url"], key, options["per_second"], self.warn) if key else None
        if upstream:
            rows = upstream.rows(rows, options["save"])
        scored = comparison.score_rows(rows, served.scorer)
        comparisons = comparison.compare(tqdm(scored, unit=" comments", disable=None), threshold)
        if upstream and upstream.refused:
            self.warn(f"{upstream.refused:,} comments were refused by {options['url']} and left out.")
        if not comparisons:
            raise CommandError(
                f"{path} has no scores: name columns like the attributes (TOXICITY, INSULT, …), "
                "or set PERSPECTIVE_API_KEY to have the comments scored."
            )
        self.stdout.write(
            f"{'attribute':28} {'comments':>9} {'correlation':>11} {'flagged':>8} {'threshold':>9} "
            f"{'flags':>7} {'agree':>7}"
        )
        for one in comparisons:
            self.stdout.write(
                f"{one.attribute:28} {len(one.theirs):9,} {one.correlation:11.3f} {one.their_rate:8.2%} "
                f"{one.suggested:9.4f} {one.our_rate:7.2%} {one.agreement:7.2%}"
            )
        plot = options["plot"] or path.with_suffix(".png")
        comparison.plot(comparisons, plot)
        self.stdout.write(
            f"Threshold: with model v{served.number}, it flags as many as {threshold:g} did. Plot: {plot}"
        )
