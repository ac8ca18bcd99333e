"""Simulate what the loop's choice of comments to label is worth."""

from pathlib import Path
from typing import Any

import numpy as np
from django.conf import settings
from django.core.management.base import CommandError, CommandParser
from tqdm import tqdm

from apps.core.management import ProjectCommand
from apps.training import jigsaw, report, simulation
from apps.training.sources import SourceError


class Command(ProjectCommand):
    help = """Simulate what the loop's choice of comments to label is worth.

A simulated moderator starts from 2,000 labels and answers 500 comments a round for ten rounds, once those
that the loop asks about (see queue_for_labeling), once as many at random. After each round the base recipe's
first level is fitted and its mean PR-AUC measured on held-out comments, weighted to the natural rate of
the Jigsaw data. It prints the curves and how many labels the loop needs for what chance reaches."""
    examples = """  manage.py simulate_learning train.csv.gz
  manage.py simulate_learning train.csv.gz --seeds 5 --plot learning.svg"""
    expected_errors = (SourceError, OSError)

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "path", type=Path, help="A CSV file with the columns of the Jigsaw data, packed or not."
        )
        parser.add_argument("--start", type=int, default=2_000, help="Labels to start from (2000).")
        parser.add_argument("--per-round", type=int, default=500, help="Labels a round (500).")
        parser.add_argument("--rounds", type=int, default=10, help="How many rounds (10).")
        parser.add_argument("--seeds", type=int, default=3, help="How many repetitions (3).")
        parser.add_argument("--plot", type=Path, help="Draw the curves into this SVG file.")

    def handle(self, *args: Any, **options: Any) -> None:
        plan = simulation.Plan(options["start"], options["per_round"], options["rounds"], options["seeds"])
        rows = list(
            jigsaw.read_rows(options["path"], jigsaw.Problems(), max_bytes=settings.MAX_COMMENT_BYTES)
        )
        comments = simulation.Comments(
            [row.text for row in rows], np.array([row.labels for row in rows], np.int8)
        )
        with tqdm(total=2 * plan.seeds * len(plan.labels), unit="round", disable=None) as bar:

            def progress(way: str, seed: int, found: float) -> None:
                bar.set_description(f"{way}, seed {seed}: {found:.3f}")
                bar.update()

            try:
                outcome = simulation.simulate(comments, plan, progress)
            except ValueError as error:
                raise CommandError(str(error)) from None
        curves = {"the loop's choice": outcome.loop, "random choice": outcome.chance}
        self.stdout.write(f"{'labels':>8}{'loop':>10}{'random':>10}   mean PR-AUC of {plan.seeds} seeds")
        for labels, loop, chance in zip(plan.labels, *(c.mean(axis=0) for c in curves.values()), strict=True):
            self.stdout.write(f"{labels:>8,}{loop:>10.4f}{chance:>10.4f}")
        needed = outcome.needed()
        if needed is None:
            self.stdout.write("The loop does not reach what random choice ends with.")
        else:
            last = plan.labels[-1]
            added = (needed - plan.start) / (last - plan.start)
            self.stdout.write(
                f"What random choice reaches with {last:,} labels the loop reaches with {needed:,.0f}: "
                f"{needed / last:.0%} of the labels, {added:.0%} of those beyond the start."
            )
        if options["plot"]:
            report.plot_learning(options["plot"], plan.labels, curves, needed)
