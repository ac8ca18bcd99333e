"""The dashboard in headless Chromium: panels, filters and downloads."""

import csv
import io
from collections.abc import Callable
from datetime import timedelta

import pytest
from django.utils import timezone
from playwright.sync_api import expect

from apps.accounts.models import User
from apps.monitoring import schedules
from apps.monitoring.dashboard import PANELS
from apps.monitoring.models import IncompleteHour, RollupProgress
from apps.registry.models import ModelVersion
from toxicmod.testing.browser import APPEARANCES, Visit, overflow, screenshot, violations
from toxicmod.testing.factories import create_monitoring_records, create_rollups

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]

# Dash's radio buttons are in a list without a name (the group has one), and its focus target is hidden.
DASH = ("#panel", "#window", ".dash-dropdown-focus-target")


@pytest.mark.parametrize(("width", "theme"), APPEARANCES)
def test_panels_are_drawn(
    visit: Callable[..., Visit], champion: ModelVersion, width: int, theme: str
) -> None:
    create_rollups(champion)
    create_monitoring_records(champion)
    opened = visit("/monitoring/", user=User.objects.create_superuser("root"), width=width, theme=theme)
    page = opened.page
    for panel, (title, _) in PANELS.items():
        page.get_by_role("radio", name=title, exact=True).check()
        expect(page).to_have_url(f"{page.url.split('?')[0]}?panel={panel}&window=7d")
        expect(page.locator(f"a[href^='/monitoring/{panel}.csv']")).to_be_visible()
        plots = page.locator(".plots figure")
        for number in range(plots.count()):
            figure = plots.nth(number)
            if figure.locator(".empty").count() == 0:
                figure.scroll_into_view_if_needed()
                drawing = figure.locator(".main-svg").first
                expect(drawing).to_be_visible()
                outer, inner = figure.bounding_box(), drawing.bounding_box()
                assert outer
                assert inner
                assert inner["y"] + inner["height"] <= outer["y"] + outer["height"]
        screenshot(opened, f"dashboard-{panel}")
        assert overflow(page) <= 0
        assert violations(page, exclude=DASH) == []
    assert opened.errors == []
    assert opened.foreign_requests == []


@pytest.mark.parametrize(("width", "theme"), APPEARANCES)
def test_late_data_are_marked(
    visit: Callable[..., Visit], champion: ModelVersion, width: int, theme: str
) -> None:
    now = timezone.now()
    create_rollups(champion)
    counted_until = now - timedelta(minutes=14)
    RollupProgress.objects.update_or_create(pk="database", defaults={"counted_until": counted_until})
    IncompleteHour.objects.create(
        origin="database",
        hour=now - timedelta(hours=5),
        error="ValueError in apps/monitoring/rollups/counter.py, line 289",
        retry_at=now,
    )
    schedules.record_failure(schedules.EVALUATE_RULES, ValueError())
    opened = visit("/monitoring/", user=User.objects.create_superuser("root"), width=width, theme=theme)
    page = opened.page
    for panel in ("health", "traffic", "system"):
        page.goto(f"/monitoring/?panel={panel}")
        mark = page.locator(".as-of.late")
        expect(mark).to_contain_text("Late: Data as of 20")
        expect(page.locator(".problems")).to_contain_text("Traffic has not been counted since")
        expect(page.locator(".problems")).to_contain_text("could not be counted and will be retried")
        screenshot(opened, f"late-{panel}")
        assert overflow(page) <= 0
        assert violations(page, exclude=DASH) == []
    RollupProgress.objects.update(counted_until=now)
    IncompleteHour.objects.all().delete()
    page.goto("/monitoring/?panel=traffic")
    expect(page.locator(".as-of.current")).to_contain_text("Data as of 20")
    expect(page.locator(".problems")).to_have_count(0)
    screenshot(opened, "current-traffic")
    assert opened.errors == []


@pytest.mark.usefixtures("start_of_hour")
def test_filter_changes_plot_and_download(visit: Callable[..., Visit], champion: ModelVersion) -> None:
    create_rollups(champion)
    opened = visit("/monitoring/?panel=traffic&window=24h", user=User.objects.create_superuser("root"))
    page = opened.page
    expect(page.locator(".answer")).to_have_text("7,200 comments were scored in this window.")
    page.goto("/monitoring/?panel=traffic&window=24h&community=a")
    expect(page.locator(".answer")).to_have_text("2,400 comments were scored in this window.")
    page.get_by_role("radio", name="A week", exact=True).check()
    expect(page.locator(".answer")).to_have_text("7,200 comments were scored in this window.")
    plot = page.locator("[id='traffic-by-source']  .js-plotly-plot")
    expect(plot).to_be_visible()
    drawn = plot.evaluate("plot => Array.from(plot.data[0].y)")
    with page.expect_download() as download:
        page.get_by_role("link", name="Download as CSV").click()
    rows = csv.DictReader(io.StringIO(download.value.path().read_text()))
    downloaded = [float(row["y"]) for row in rows if row["plot"] == "by source"]
    assert downloaded == drawn
    assert sum(downloaded) == 7200
