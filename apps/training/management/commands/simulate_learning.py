"""`manage.py simulate_learning`: simulate active learning."""

from pathlib import Path
from typing import Any

import numpy as np
from django.conf import settings
from django.core.management.base import CommandError, CommandParser
from tqdm import tqdm

from apps.core.management import ProjectCommand, number_from
from apps.training import jigsaw, report, simulation


class Command(ProjectCommand):
    help = """Simulate active learning and compare it with random selection.

A simulated moderator starts with 2,000 labels and labels 500 comments per round for ten rounds, once those
that active learning selects (see queue_for_labeling), once random ones. After each round the first stage of
the model is trained, and its mean PR-AUC is measured on held-out comments, weighted to the natural rate of
the Jigsaw data. The output is both curves, and how many labels active learning needs for the final result of
random selection."""
    examples = """  manage.py simulate_learning train.csv.gz
  manage.py simulate_learning train.csv.gz --seeds 5 --plot learning.svg"""
    expected_errors = (OSError,)

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "path", type=Path, help="A CSV file with the columns of the Jigsaw data, also as .gz or .zip."
        )
        parser.add_argument(
            "--start", type=number_from(1, 1_000_000), default=2_000, help="Initial labels (default: 2000)."
        )
        parser.add_argument(
            "--per-round",
            type=number_from(1, 1_000_000),
            default=500,
            help="Labels per round (default: 500).",
        )
        parser.add_argument(
            "--rounds", type=number_from(1, 1_000), default=10, help="Number of rounds (default: 10)."
        )
        parser.add_argument(
            "--seeds", type=number_from(1, 1_000), default=3, help="Number of repetitions (default: 3)."
        )
        parser.add_argument("--plot", type=Path, help="Write a plot of the curves to this SVG file.")

    def handle(self, *args: Any, **options: Any) -> None:
        plan = simulation.Plan(options["start"], options["per_round"], options["rounds"], options["seeds"])
        rows = list(
            jigsaw.read_comments(options["path"], jigsaw.ImportReport(), max_bytes=settings.MAX_COMMENT_BYTES)
        )
        comments = simulation.Comments(
            [row.text for row in rows], np.array([row.labels for row in rows], np.int8)
        )
        with tqdm(total=2 * plan.seeds * len(plan.labels), unit="round", disable=None) as bar:

            def progress(strategy: str, seed: int, pr_auc: float) -> None:
                bar.set_description(f"{strategy}, seed {seed}: {pr_auc:.3f}")
                bar.update()

            try:
                outcome = simulation.simulate(comments, plan, progress)
            except ValueError as error:
                raise CommandError(str(error)) from None
        curves = {"active learning": outcome.active, "random selection": outcome.random}
        self.stdout.write(f"{'labels':>8}{'active':>10}{'random':>10}   mean PR-AUC of {plan.seeds} seeds")
        means = (curve.mean(axis=0) for curve in curves.values())
        for labels, active, random in zip(plan.labels, *means, strict=True):
            self.stdout.write(f"{labels:>8,}{active:>10.4f}{random:>10.4f}")
        needed = outcome.labels_needed()
        if needed is None:
            self.stdout.write("Active learning does not reach the final result of random selection.")
        else:
            last = plan.labels[-1]
            added = (needed - plan.start) / (last - plan.start)
            self.stdout.write(
                f"Active learning needs {needed:,.0f} labels for the result of random selection with "
                f"{last:,}: {needed / last:.0%} of the labels, {added:.0%} of "
                "those added to the initial ones."
            )
        if options["plot"]:
            report.plot_learning(options["plot"], plan.labels, curves, needed)
