"""The training pages in headless Chromium: the progress of a run, and the challenger."""

from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import Group
from playwright.sync_api import expect

from apps.accounts.models import User
from apps.core.permissions import SYSTEM
from apps.moderation import actions as moderation
from apps.moderation.roles import create_roles
from apps.predictions.actions import score
from apps.predictions.models import Prediction
from apps.registry.gates import Gate
from apps.registry.models import Alias, ModelVersion
from apps.training.actions import create_run, score_in_shadow
from apps.training.models import Dataset, GateReport, TrainingRun
from toxicmod.testing.browser import APPEARANCES, Visit, assert_sound
from toxicmod.testing.factories import register_copy

# Django's inline tables have a header without text, and scroll by touch only where the window is narrow.
STOCK = {rule: {"enabled": False} for rule in ("empty-table-header", "scrollable-region-focusable")}
RUNS = "/admin/training/trainingrun/"
CONSOLE = "/admin/moderation/queueitem/console/"

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]


def test_watch_updates_progress(visit: Callable[..., Visit]) -> None:
    dataset = Dataset.objects.create(
        name="ours", version=1, sha256="0" * 64, source="ours.csv", rows=2, labelled=1, positives={"toxic": 1}
    )
    run = create_run(actor=SYSTEM, dataset=dataset)
    page = visit(f"{RUNS}{run.pk}/run/", user=User.objects.create_superuser("root"), width=390).page
    expect(page.locator("#run-status")).to_have_text("Queued")
    TrainingRun.objects.update(status="running", step="fit on 2 rows", progress=0.5)
    expect(page.locator("#run-step")).to_have_text("fit on 2 rows", timeout=10_000)
    assert page.locator("#run-progress").get_attribute("value") == "0.5"
    TrainingRun.objects.update(status="failed", error="The disk is full.")
    expect(page.get_by_role("alert")).to_have_text("The disk is full.", timeout=10_000)
    expect(page.get_by_text("Cancel run")).to_have_count(0)


@pytest.mark.parametrize(("width", "theme"), APPEARANCES)
def test_training_pages_pass_all_checks(
    visit: Callable[..., Visit], width: int, theme: str, settings: Any
) -> None:
    settings.SHADOW_SHARE = 1.0
    champion = ModelVersion.objects.get(alias=Alias.CHAMPION)
    visited = visit(user=User.objects.create_superuser("root"), width=width, theme=theme)
    page = visited.page

    def check_page(path: str, name: str, **options: Any) -> None:
        page.goto(path)
        assert_sound(visited, name, **options)

    check_page(f"{RUNS}start/", "start-none")
    check_page(f"{RUNS}challenger/", "challenger-none")
    check_page(f"{RUNS}roll-back/", "roll-back-none")

    dataset = Dataset.objects.create(
        name="ours", version=1, sha256="0" * 64, source="ours.csv", rows=2, labelled=1, positives={"toxic": 1}
    )
    check_page(f"{RUNS}start/", "start")
    page.locator("form").evaluate_all("forms => forms.forEach(form => form.noValidate = true)")
    page.fill("#id_seed", "-1")
    page.get_by_role("button", name="Start").click()
    expect(page.get_by_text("greater than or equal to 0")).to_be_visible()
    assert_sound(visited, "start-wrong")
    run = create_run(actor=SYSTEM, dataset=dataset)
    check_page(f"{RUNS}{run.pk}/run/", "run-queued")
    TrainingRun.objects.update(status="running", step="fit on 2 rows", progress=0.5)
    check_page(f"{RUNS}{run.pk}/run/", "run-running")
    TrainingRun.objects.update(status="failed", error="The disk is full.", metrics=champion.metrics)
    check_page(f"{RUNS}{run.pk}/run/", "run-failed")
    check_page(f"{RUNS}{run.pk}/change/", "run")
    check_page(RUNS, "runs")

    version = register_copy(champion)
    check_page(f"{RUNS}challenger/", "challenger-unmeasured")
    gates: list[Gate] = [
        Gate(name="mean ROC-AUC", figure=0.98, bound=0.97, passed=True),
        Gate(name="PR-AUC (threat)", figure=-0.1, bound=-0.01, passed=False, interval=(-0.2, -0.05)),
    ]
    report = GateReport.objects.create(version=version, champion=champion, dataset=dataset, gates=gates)
    check_page(f"/admin/registry/modelversion/{version.pk}/change/", "version", rules=STOCK)
    check_page(f"/admin/training/gatereport/{report.pk}/change/", "gates")
    score(texts=["you idiot", "a longword" * 30, "<b>kind</b> words"], source=Prediction.Source.API)
    score_in_shadow()
    check_page(f"{RUNS}challenger/", "challenger")
    promote = page.get_by_role("button", name="Promote")
    promote.click()
    expect(page.locator("#id_reason:invalid")).to_be_focused()
    page.fill("#id_reason", "Learned from October’s decisions")
    promote.click()
    expect(page.get_by_role("alert")).to_contain_text("fails its gates")
    assert_sound(visited, "challenger-refused")
    page.check("#id_force")
    page.get_by_role("button", name="Start canary").click()
    expect(page.get_by_text("Stop canary")).to_be_visible()
    assert_sound(visited, "canary")
    page.fill("#id_reason", "Enough seen")
    page.get_by_role("button", name="Stop canary").click()
    page.fill("#id_reason", "Learned from October’s decisions")
    page.check("#id_force")
    promote.click()
    expect(page.get_by_text("is the champion now: within 5 seconds it serves all requests")).to_be_visible()
    check_page(f"{RUNS}roll-back/", "roll-back")
    page.fill("#id_reason", "Too strict on sarcasm")
    page.get_by_role("button", name="Roll back to").click()
    expect(page.get_by_text("is the champion again")).to_be_visible()
    assert_sound(visited, "promotions")


@pytest.mark.parametrize(("width", "theme"), APPEARANCES)
def test_active_learning_pages_pass_all_checks(visit: Callable[..., Visit], width: int, theme: str) -> None:
    create_roles()
    moderation.install_default_policy()
    lea = User.objects.create_user("lea", is_staff=True, all_communities=True)
    lea.groups.add(Group.objects.get(name="lead"))
    visited = visit(f"{CONSOLE}?view=learn", user=lea, width=width, theme=theme)
    assert_sound(visited, "learn-none")
    score(texts=["you are not so clever", "have a nice day"], source=Prediction.Source.API)
    moderation.queue_for_labeling(count=2)
    visited.page.goto(f"{CONSOLE}?view=learn")
    visited.page.wait_for_load_state("networkidle")
    assert_sound(visited, "learn")
