"""A simulated week of one site with all users and schedules, to find features that fail in combination.

At the end of each day, the tests compare each number on each page with the database, check that the logs have
no unexplained line above INFO, that every schedule has run, and that users see exactly what they may see.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from toxicmod.testing.clock import HAS_COMPILER
from toxicmod.tests.week.actors import receiver
from toxicmod.tests.week.scenario import DAYS, Week
from toxicmod.tests.week.site import week_site

pytestmark = [
    pytest.mark.week,
    pytest.mark.skipif(not HAS_COMPILER, reason="NOT TESTED: THE WEEK; there is no gcc to build its clock"),
]


@pytest.fixture(scope="module")
def week(chromium: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Week]:
    """The site, shared by all days."""
    folder: Path = tmp_path_factory.mktemp("week")
    with week_site(folder) as site, receiver(site) as hooks:
        yield Week(site, chromium, hooks)


@pytest.mark.parametrize("day", DAYS)
def test_day(week: Week, day: str) -> None:
    findings = week.run_day(day)
    assert not findings.wrong, "\n".join([f"{len(findings.wrong)} findings", *findings.wrong[:60]])
