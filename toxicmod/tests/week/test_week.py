"""A week in the life of one site: everybody at work, all schedules running, time moving on day by day.

Features that work alone fail when they meet. So at the end of each day every number on every page must be
the one that the database gives, no line above INFO may be unexplained, every schedule must have run, and
every record must be readable by those who may see it and by nobody else.
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
    pytest.mark.skipif(not HAS_COMPILER, reason="NO WEEK WAS LIVED: there is no gcc to build its clock"),
]


@pytest.fixture(scope="module")
def week(chromium: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Week]:
    """The one site of all days."""
    folder: Path = tmp_path_factory.mktemp("week")
    with week_site(folder) as site, receiver(site) as hooks:
        yield Week(site, chromium, hooks)


@pytest.mark.parametrize("day", DAYS)
def test_day(week: Week, day: str) -> None:
    found = week.live(day)
    assert not found.wrong, "\n".join([f"{len(found.wrong)} findings", *found.wrong[:60]])
