"""A training run as somebody watches it in a browser."""

from collections.abc import Callable

import pytest
from playwright.sync_api import expect

from apps.accounts.models import User
from apps.training.models import Dataset, TrainingRun
from apps.training.runs import queue_run
from toxicmod.tests.browser import Visit

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]


def test_progress_is_shown_without_reloading(visit: Callable[..., Visit]) -> None:
    dataset = Dataset.objects.create(
        name="ours", version=1, sha256="0" * 64, source="ours.csv", rows=2, labelled=1, positives={"toxic": 1}
    )
    run = queue_run(dataset=dataset)
    page = visit(
        f"/admin/training/trainingrun/{run.pk}/watch/", user=User.objects.create_superuser("root"), width=390
    ).page
    expect(page.locator("#run-status")).to_have_text("Queued")
    TrainingRun.objects.update(status="running", step="fit on 2 rows", share=0.5)
    expect(page.locator("#run-step")).to_have_text("fit on 2 rows", timeout=10_000)
    assert page.locator("#run-share").get_attribute("value") == "0.5"
    TrainingRun.objects.update(status="failed", error="The disk is full.")
    expect(page.get_by_role("alert")).to_have_text("The disk is full.", timeout=10_000)
    expect(page.get_by_text("Cancel this run")).to_have_count(0)
