"""`manage.py bench_pages`: measure load time and size of the public pages."""

import tempfile
from pathlib import Path
from typing import Any

from django.core.management import BaseCommand, CommandError

from toxicmod.benchmarks import pages as bench
from toxicmod.testing.browser import chromium
from toxicmod.testing.site import site


class Command(BaseCommand):
    help = "Measure the public pages in headless Chromium against a real gunicorn and print a table."

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            with (
                tempfile.TemporaryDirectory() as folder,
                chromium() as browser,
                site(Path(folder)) as (url, _),
            ):
                self.stdout.write(bench.table(browser, url))
        except RuntimeError as error:
            raise CommandError(str(error)) from error
