"""Training as somebody watches it in a browser: a run, and the challenger."""

from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import expect

from apps.accounts.models import User
from apps.predictions.actions import score
from apps.predictions.models import Prediction
from apps.registry.actions import start_canary
from apps.registry.models import Alias, ModelVersion
from apps.registry.tests.test_actions import another
from apps.training.models import Dataset, Gate, GateReport, TrainingRun
from apps.training.runs import queue_run
from apps.training.shadow import score_in_shadow
from toxicmod.tests.browser import Visit, overflow, screenshot

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


def _assert_fits(shown: Visit, name: str) -> None:
    screenshot(shown, name)
    assert overflow(shown.page) <= 0
    assert shown.errors == shown.elsewhere == []


@pytest.mark.parametrize("width", [1440, 390])
def test_the_challenger_is_shown_whole(visit: Callable[..., Visit], width: int, settings: Any) -> None:
    settings.SHADOW_SHARE = 1.0
    champion = ModelVersion.objects.get(alias=Alias.CHAMPION)
    version = another(champion)
    gates: list[Gate] = [
        Gate(name="mean ROC-AUC", figure=0.98, bound=0.97, passed=True),
        Gate(name="PR-AUC (threat)", figure=-0.1, bound=-0.01, passed=False, interval=(-0.2, -0.05)),
    ]
    GateReport.objects.create(version=version, champion=champion, gates=gates)
    score(texts=["you idiot", "a longword" * 30, "<b>kind</b> words"], source=Prediction.Source.API)
    score_in_shadow()
    root = User.objects.create_superuser("root")
    page = "/admin/training/trainingrun/challenger/"
    _assert_fits(visit(page, user=root, width=width), "challenger")
    start_canary(version=version, share=0.05, reason="Learned from October’s decisions", actor="root")
    shown = visit(page, user=root, width=width)
    expect(shown.page.get_by_text("Take it out of service")).to_be_visible()
    _assert_fits(shown, "canary")
