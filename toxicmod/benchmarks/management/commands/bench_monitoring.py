"""`manage.py bench_monitoring`: measure rollups and dashboard with ten million predictions."""

import tempfile
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

import numpy as np
from django.conf import settings
from django.core.management import CommandError
from tqdm import tqdm

from apps.core.management import ProjectCommand
from toxicmod.benchmarks import monitoring as bench
from toxicmod.testing.browser import chromium
from toxicmod.testing.site import site


class Command(ProjectCommand):
    help = """Add predictions to a PostgreSQL, count them by the hour, and measure the dashboard.

Run `manage.py seed_benchmark` first, and never on a database that is in use: the rows are not removed."""
    examples = "  manage.py bench_monitoring\n  manage.py bench_monitoring --predictions 2000000"
    expected_errors = (bench.BenchError,)

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--predictions", type=int, default=10_000_000)
        parser.add_argument("--only", choices=("fill", "count", "look"), help="One step of the three.")

    def handle(self, *args: Any, **options: Any) -> None:
        steps = {"fill": self._fill, "count": self._count, "look": self._look}
        for name, step in steps.items():
            if options["only"] in (None, name):
                step(options["predictions"])

    def _fill(self, count: int) -> None:
        # A tenth first, to show that the time grows with the number of predictions and the memory does not.
        bench.require_fillable_database()
        first = bench.count_all()
        for _ in tqdm(bench.fill(count=count), desc="Days", total=bench.DAYS, leave=False, disable=None):
            pass
        self.stdout.write(bench.table([first]))

    def _count(self, count: int) -> None:
        self.stdout.write(bench.table([bench.count_all()]))
        self.stdout.write(f"Counting again, with nothing new: {bench.count_again():.1f} s")

    def _look(self, count: int) -> None:
        cookie = bench.sign_in()
        try:
            with (
                tempfile.TemporaryDirectory() as folder,
                site(Path(folder), SECRET_KEY=settings.SECRET_KEY) as (url, _),
            ):
                with chromium() as browser:
                    views = bench.time_first_view(browser, url, cookie)
                callbacks = bench.time_callbacks(url, cookie)
        except RuntimeError as error:
            raise CommandError(str(error)) from error
        self.stdout.write(
            f"First view in a browser, nothing cached: median {np.median(views):,.0f} ms of "
            f"{', '.join(f'{view:,.0f}' for view in views)} (budget {bench.FIRST_VIEW_MS:,.0f})"
        )
        self.stdout.write(bench.table(callbacks))
        self.stdout.write(f"Budget of a callback: {bench.CALLBACK_MS:,.0f} ms at the 95th percentile")
