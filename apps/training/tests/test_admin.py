"""The training pages of the admin: start, show, cancel, build, promote, roll back."""

import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from django.contrib.auth.models import Permission
from django.template import Context, Template
from django.test import Client
from django.utils import timezone

from apps.accounts.models import User
from apps.core.permissions import SYSTEM
from apps.moderation import actions as moderation
from apps.moderation.models import Policy
from apps.predictions import actions as predictions
from apps.predictions.models import Prediction
from apps.registry import actions as registry
from apps.registry.models import Alias, Canary, CanaryEnd, ModelVersion, Promotion
from apps.training import actions, tasks
from apps.training.actions import evaluation, runs
from apps.training.actions.rollout import CANARY_CHECK
from apps.training.actions.runs import HEARTBEAT_TIMEOUT
from apps.training.models import Dataset, GateReport, TrainingRun
from toxicmod.testing.factories import (
    create_queue_item,
    promote_version,
    register_copy,
    restrict_to_communities,
)

pytestmark = pytest.mark.django_db
RUNS = "/admin/training/trainingrun/"
CHALLENGER = f"{RUNS}challenger/"


@pytest.fixture
def enqueued(monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    """The tasks that are enqueued, with their arguments."""
    messages: list[tuple] = []
    for module in (runs, evaluation):
        monkeypatch.setattr(module, "enqueue", lambda task, *args, **options: messages.append((task, *args)))
    return messages


@pytest.fixture
def staff(person: Callable[..., User], client: Client) -> Callable[[str], Client]:
    """The client, signed in as a user with a role."""

    def sign_in(role: str) -> Client:
        user = person(f"some {role}", role)
        user.is_staff = True
        user.save()
        client.force_login(user)
        return client

    return sign_in


def test_start_show_and_cancel_run(
    staff: Callable[[str], Client], dataset: Dataset, enqueued: list[tuple]
) -> None:
    client = staff("engineer")
    assert "Start a run" in client.get(RUNS).text
    assert "Select data set to view" in client.get("/admin/training/dataset/").text
    form = client.get(f"{RUNS}start/").text
    assert f'<option value="{dataset.pk}">made-up v1</option>' in form
    answer = client.post(f"{RUNS}start/", {"dataset": dataset.pk, "recipe": "two_level", "seed": 3})
    run = TrainingRun.objects.get()
    assert answer.url == f"{RUNS}{run.pk}/run/"
    assert enqueued == [(tasks.train_model, run.pk)]
    assert run.seed == 3
    assert run.created_by.username == "some engineer"
    TrainingRun.objects.update(status="running", step="fit", progress=0.5)
    page = client.get(f"{RUNS}{run.pk}/run/").text
    assert all(part in page for part in ("Running", 'value="0.500"', "fit", "Cancel run", "run.js"))
    assert client.get(f"{RUNS}{run.pk}/progress/").json() == {
        "status": "running",
        "status_display": "Running",
        "step": "fit",
        "progress": 0.5,
        "explanation": "",
    }
    page = client.post(f"{RUNS}{run.pk}/run/", follow=True).text
    assert "Cancelled by some engineer." in page
    assert "Cancel run" not in page


def test_training_pages_require_permission(
    staff: Callable[[str], Client], dataset: Dataset, enqueued: list[tuple]
) -> None:
    client = staff("moderator")
    assert (
        client.post(f"{RUNS}start/", {"dataset": dataset.pk, "recipe": "two_level", "seed": 0}).status_code
        == 403
    )
    run = actions.create_run(actor=SYSTEM, dataset=dataset)
    assert client.get(f"{RUNS}{run.pk}/run/").status_code == 403
    assert client.get(f"{RUNS}{run.pk}/progress/").status_code == 403
    assert client.post(f"{RUNS}{run.pk}/run/").status_code == 403
    assert client.get(CHALLENGER).status_code == client.get(f"{RUNS}roll-back/").status_code == 403
    User.objects.get(username="some moderator").user_permissions.add(
        Permission.objects.get(codename="view_trainingrun")
    )
    assert "Start a run" not in client.get(RUNS).text
    assert not enqueued


def test_build_enqueues_task(
    staff: Callable[[str], Client], dataset: Dataset, enqueued: list[tuple], caplog: pytest.LogCaptureFixture
) -> None:
    client = staff("engineer")
    selection = {"action": "build", "_selected_action": [dataset.pk]}
    assert "A worker is building" in client.post("/admin/training/dataset/", selection, follow=True).text
    assert enqueued == [(tasks.build_dataset, "decisions", dataset.pk)]
    tasks.build_dataset("decisions", dataset.pk)
    assert "no stored comment has a label" in caplog.text
    Dataset.objects.update(is_built=True)
    assert "Select one imported" in client.post("/admin/training/dataset/", selection, follow=True).text


def test_challenger_lead_overrides_gates_and_rolls_back(
    staff: Callable[[str], Client],
    reversed_version: ModelVersion,
    champion: ModelVersion,
    dataset: Dataset,
    enqueued: list[tuple],
) -> None:
    client = staff("lead")
    page = client.get(CHALLENGER).text
    assert all(part in page for part in ('name="force"', "Measure gates", "has not scored a comment yet"))
    assert "A worker is measuring" in client.post(CHALLENGER, {"measure": "1"}, follow=True).text
    assert enqueued == [(tasks.measure_gates, reversed_version.pk)]
    choice = {"share": "5", "promote": "1"}
    unmeasured = client.post(CHALLENGER, choice | {"reason": "hope"}, follow=True).text
    assert f"The gates of {reversed_version} have not been measured" in unmeasured
    tasks.measure_gates(reversed_version.pk)
    tasks.measure_gates(reversed_version.pk)
    assert GateReport.objects.count() == 1
    page = client.get(CHALLENGER).text
    assert all(part in page for part in ("mean ROC-AUC", "failed", "passed", "interval"))
    assert "This field is required" in client.post(CHALLENGER, choice | {"reason": " "}).text
    assert "fails its gates" in client.post(CHALLENGER, choice | {"reason": "hope"}, follow=True).text
    # The page shows the error and the fields after a redirect, so that Back sends nothing again.
    answer = client.post(CHALLENGER, choice | {"reason": "hope", "share": "7"})
    assert (answer.status_code, answer.url) == (302, CHALLENGER)
    page = client.get(CHALLENGER).text
    assert all(part in page for part in ('value="hope"', 'value="7"'))
    assert 'value="hope"' not in client.get(CHALLENGER).text
    # A promotion needs no share.
    choice |= {"share": "500", "reason": "a drill", "force": "on"}
    page = client.post(CHALLENGER, choice, follow=True).text
    assert f"Model version {reversed_version} is the champion" in page
    promotion = Promotion.objects.first()
    assert promotion is not None
    assert (promotion.version, promotion.forced, promotion.by.username) == (
        reversed_version,
        True,
        "some lead",
    )
    assert promotion.gates
    assert "is the champion again" in client.post(f"{RUNS}roll-back/", {"reason": "worse"}, follow=True).text
    champion.refresh_from_db()
    assert champion.alias == Alias.CHAMPION


def test_challenger_engineer_starts_canary_and_promotes(
    staff: Callable[[str], Client],
    equal_version: ModelVersion,
    dataset: Dataset,
) -> None:
    client = staff("engineer")
    tasks.measure_gates(equal_version.pk)
    assert 'name="force"' not in client.get(CHALLENGER).text
    page = client.post(CHALLENGER, {"reason": "try it", "share": "5", "canary": "1"}, follow=True).text
    assert all(part in page for part in ("serves 5.0% of the requests", "It has scored 0 comments", "try it"))
    canary = Canary.objects.get()
    assert (canary.share, canary.by.username) == (0.05, "some engineer")
    page = client.post(CHALLENGER, {"reason": "seen enough", "withdraw": "1"}, follow=True).text
    assert "The canary is stopped: within 5 seconds v2 serves no requests." in page
    assert CanaryEnd.objects.get().reason == "seen enough"
    page = client.post(CHALLENGER, {"reason": "good", "share": "5", "promote": "1"}, follow=True).text
    assert "is the champion" in page


def test_challenger_sends_comments_to_moderators(
    staff: Callable[[str], Client],
    reversed_version: ModelVersion,
    policy: Policy,
    settings: Any,
) -> None:
    settings.SHADOW_SHARE = 1.0
    predictions.score(texts=["<b>you</b> stupid idiot", "thank you"], source=Prediction.Source.API)
    tasks.score_in_shadow()
    client = staff("engineer")
    page = client.get(CHALLENGER).text
    assert "&lt;b&gt;you&lt;/b&gt; stupid idiot" in page
    page = client.post(CHALLENGER, {"label": "1"}, follow=True).text
    assert "2 comments were sent to moderators" in page
    assert page.count("queued</td>") == 2
    assert "Send to moderators" not in page


def test_dataset_lists_visible_decisions(
    staff: Callable[[str], Client], model: ModelVersion, policy: Policy, ann: User
) -> None:
    item = create_queue_item("insult=0.7 you fool")
    claimed = moderation.claim(item_id=item.pk, user=ann)
    decided = moderation.decide(item_id=item.pk, version=claimed.version, user=ann, action="approve")
    built, _ = actions.build_dataset(name="ours")
    page = staff("engineer").get(f"/admin/training/dataset/{built.pk}/change/").text
    assert "1 that you may see: " in page
    assert f"/admin/moderation/decision/{decided.decision.pk}/change/" in page
    built.path.unlink()
    assert "is missing" in staff("administrator").get(f"/admin/training/dataset/{built.pk}/change/").text


def test_version_links_run_on_tracking_server(
    staff: Callable[[str], Client], champion: ModelVersion, settings: Any
) -> None:
    ModelVersion.objects.filter(pk=champion.pk).update(mlflow_run_id="abc123")
    page = f"/admin/registry/modelversion/{champion.pk}/change/"
    assert "abc123" in staff("lead").get(page).text
    settings.MLFLOW_TRACKING_URI = "https://user:secret@mlflow.example/base/"
    client = staff("engineer")
    assert 'href="https://mlflow.example/base/#/runs/abc123"' in client.get(page).text
    assert "secret" not in client.get(page).text
    assert CHALLENGER in client.get("/admin/registry/modelversion/").text


def test_run_shows_result(
    staff: Callable[[str], Client],
    dataset: Dataset,
    equal_version: ModelVersion,
    champion: ModelVersion,
) -> None:
    run = actions.create_run(actor=SYSTEM, dataset=dataset)
    metrics = {"mean": {"roc_auc": 0.9512, "pr_auc": 0.61234, "ece": 0.004}}
    TrainingRun.objects.filter(pk=run.pk).update(
        status="succeeded", version=equal_version, metrics=metrics, step=""
    )
    client = staff("engineer")
    pages = (RUNS, f"{RUNS}{run.pk}/run/", f"{RUNS}{run.pk}/change/")
    for page in pages:
        html = client.get(page).text
        assert f"/registry/modelversion/{equal_version.pk}/change/" in html
        assert f"Model version {equal_version}" in html
        assert "ROC-AUC 0.9512" in html
        assert f"(champion v1: {champion.metrics['mean']['roc_auc']:.4f})" in html
        assert "Gates: not measured yet" in html
    gates = [{"name": str(n), "figure": 0.1, "bound": 0.2, "passed": n > 5} for n in range(19)]
    GateReport.objects.create(version=equal_version, champion=champion, dataset=dataset, gates=gates)
    for page in pages:
        assert "6 of 19 failed" in client.get(page).text
    # A baseline is no model version.
    TrainingRun.objects.filter(pk=run.pk).update(version=None, recipe="tfidf_baseline")
    assert "A baseline for comparison" in client.get(f"{RUNS}{run.pk}/run/").text
    TrainingRun.objects.filter(pk=run.pk).update(status="failed", error="Broken.")
    html = client.get(f"{RUNS}{run.pk}/run/").text
    assert "Broken." in html
    assert "ROC-AUC" not in html


def test_admin_links_only_to_pages_that_the_user_may_view(
    client: Client,
    dataset: Dataset,
    equal_version: ModelVersion,
    champion: ModelVersion,
) -> None:
    run = actions.create_run(actor=SYSTEM, dataset=dataset)
    TrainingRun.objects.filter(pk=run.pk).update(status="succeeded", version=equal_version)
    report = GateReport.objects.create(version=equal_version, champion=champion, dataset=dataset, gates=[])
    Promotion.objects.create(kind="promote", version=champion, replaced=equal_version, actor="a", reason="b")
    pages = {
        f"training.view_{name}": f"/admin/training/{name}/{row.pk}/change/"
        for name, row in (("trainingrun", run), ("gatereport", report), ("dataset", dataset))
    }
    pages["registry.view_modelversion"] = f"/admin/registry/modelversion/{equal_version.pk}/change/"
    pages["registry.view_promotion"] = (
        f"/admin/registry/promotion/{Promotion.objects.latest('pk').pk}/change/"
    )
    root = User.objects.create_superuser("root")
    for permission, page in pages.items():
        app, codename = permission.split(".")
        user = User.objects.create_user(codename, is_staff=True)
        user.user_permissions.add(Permission.objects.get(content_type__app_label=app, codename=codename))
        urls = {page, f"{page.rsplit('/', 3)[0]}/"}
        if codename == "view_trainingrun":
            urls.add(f"{RUNS}{run.pk}/run/")
        for url in urls:
            client.force_login(root)
            assert client.get(url).status_code == 200
            client.force_login(user)
            answer = client.get(url)
            assert answer.status_code == 200
            content = answer.text[answer.text.index('id="content"') :]
            for link in re.findall(r'href="(/admin/[^"?]+)', content):
                assert client.get(link, follow=True).status_code == 200, (url, link)


def test_challenger_shows_failed_gates_first(
    staff: Callable[[str], Client],
    dataset: Dataset,
    equal_version: ModelVersion,
    champion: ModelVersion,
) -> None:
    gate = {"figure": -0.1384, "bound": -0.01, "passed": False, "rule": "at_least"}
    gates = [gate | {"name": f"good {n}", "figure": 0.0, "passed": True} for n in range(13)]
    gates += [gate | {"name": f"bad {n}"} for n in range(6)]
    GateReport.objects.create(version=equal_version, champion=champion, dataset=dataset, gates=gates)
    html = staff("lead").get(CHALLENGER).text
    assert html.index("6 of 19 failed") < html.index('id="rollout"')
    assert html.index("bad 5") < html.index("good 0")
    row = "<td>must be at least -0.0100</td><td>-0.1384</td><td>failed</td>"
    assert html.count(row) == 6


def test_run_page_explains_what_a_queued_run_waits_for(
    staff: Callable[[str], Client], dataset: Dataset, enqueued: list[tuple]
) -> None:
    first, second = (actions.create_run(actor=SYSTEM, dataset=dataset) for _ in range(2))
    client = staff("engineer")

    def explanation() -> str:
        sentence = client.get(f"{RUNS}{second.pk}/progress/").json()["explanation"]
        assert sentence in client.get(f"{RUNS}{second.pk}/run/").text
        return sentence

    assert explanation() == f"Waits for run {first.pk}, which was queued before it."
    now = timezone.now()
    TrainingRun.objects.filter(pk=first.pk).update(status="running", heartbeat_at=now)
    assert explanation() == f"Waits for run {first.pk}, which is being trained."
    client.post(f"{RUNS}{first.pk}/run/")
    assert explanation() == f"Waits for run {first.pk}, which is being stopped."
    TrainingRun.objects.filter(pk=first.pk).update(finished_at=now - HEARTBEAT_TIMEOUT)
    assert explanation() == "Waits for a worker."
    TrainingRun.objects.filter(pk=second.pk).update(status="cancelled")
    assert explanation() == ""


def test_run_page_states_whether_an_interrupted_run_has_restarted(
    staff: Callable[[str], Client], dataset: Dataset
) -> None:
    run = actions.create_run(actor=SYSTEM, dataset=dataset)
    TrainingRun.objects.filter(pk=run.pk).update(interruptions=1)
    client = staff("engineer")
    assert "It restarts from the beginning." in client.get(f"{RUNS}{run.pk}/run/").text
    TrainingRun.objects.filter(pk=run.pk).update(status="running", heartbeat_at=timezone.now())
    page = client.get(f"{RUNS}{run.pk}/run/").text
    assert "It has restarted from the beginning." in page
    assert "It restarts" not in page


def test_challenger_shows_end_of_last_canary(
    staff: Callable[[str], Client], equal_version: ModelVersion, champion: ModelVersion
) -> None:
    registry.start_canary(version=equal_version, share=0.1, reason="a trial", actor=SYSTEM)
    client = staff("lead")
    assert "last-canary" not in client.get(CHALLENGER).text
    guardrail = {"name": "error rate", "figure": 0.5, "bound": 0.001, "passed": False, "rule": "at_most"}
    end = registry.end_canary(
        actor=CANARY_CHECK,
        outcome=CanaryEnd.Outcome.ROLLED_BACK,
        reason="It violated a guardrail: error rate.",
        guardrails=[guardrail],
    )
    pages = [client.get(CHALLENGER).text]
    ModelVersion.objects.filter(pk=equal_version.pk).update(alias=None)
    pages.append(client.get(CHALLENGER).text)
    assert "There is no challenger" in pages[1]
    for page in pages:
        section = page[page.index('id="last-canary"') :]
        assert "Last canary: rolled back" in section
        assert f"{equal_version} served 10.0% of the requests" in section
        assert f"to {end.created_at:%Y-%m-%d %H:%M} UTC. Ended by canary check" in section
        assert "“It violated a guardrail: error rate.”" in section
        assert "1 of 1 failed" in section
    ended = client.get("/admin/registry/canary/").text
    assert "Rolled back. It violated a guardrail: error rate." in ended


def test_times_end_without_full_stop(
    staff: Callable[[str], Client], equal_version: ModelVersion, champion: ModelVersion
) -> None:
    moment = datetime(2026, 11, 29, 13, 2, tzinfo=UTC)
    assert Template("{{ moment }}.").render(Context({"moment": moment})) == "2026-11-29 13:02 UTC."
    canary = registry.start_canary(version=equal_version, share=0.1, reason="a trial", actor=SYSTEM)
    assert f"since {canary.created_at:%Y-%m-%d %H:%M} UTC. " in staff("lead").get(CHALLENGER).text


@pytest.mark.parametrize("role", ["lead", "engineer"])
def test_user_of_one_community_cannot_change_model(
    staff: Callable[[str], Client], champion: ModelVersion, role: str
) -> None:
    promote_version(register_copy(champion))
    challenger = register_copy(champion, "newer")
    client = staff(role)
    user = User.objects.get(username=f"some {role}")
    restrict_to_communities(user, "alpha")
    before = Promotion.objects.count()
    rollout = {"reason": "faster", "share": 5, "force": "on"}
    for path, data in {
        CHALLENGER: rollout | {"promote": "1"},
        f"{CHALLENGER}?": rollout | {"canary": "1"},
        f"{RUNS}roll-back/": {"reason": "slower"},
    }.items():
        html = client.get(path).text
        assert registry.ALL_COMMUNITIES in html
        for button in ("Start canary", 'name="promote"', 'name="reason"'):
            assert button not in html
        assert client.post(path, data).status_code == 403
    gates = [{"name": "mean ROC-AUC", "figure": 0.99, "bound": 0.95, "passed": True}]
    Canary.objects.create(version=challenger, champion=champion, share=0.1, gates=gates)
    html = client.get(CHALLENGER).text
    assert registry.ALL_COMMUNITIES in html
    assert "Stop canary" not in html
    assert client.post(CHALLENGER, {"reason": "slower", "withdraw": "1"}).status_code == 403
    assert Promotion.objects.count() == before
    assert Canary.objects.running() is not None


def hidden_version(page: str) -> dict[str, str]:
    (number,) = set(re.findall(r'name="version" value="([0-9]+)"', page))
    return {"version": number}


def test_second_click_on_roll_back_changes_nothing(
    staff: Callable[[str], Client], champion: ModelVersion
) -> None:
    promote_version(register_copy(champion))
    client = staff("lead")
    form = {"reason": "worse"} | hidden_version(client.get(f"{RUNS}roll-back/").text)
    for _ in range(2):  # a double click, or two leads who read the same page
        page = client.post(f"{RUNS}roll-back/", form, follow=True).text
    assert "nothing was changed" in page
    champion.refresh_from_db()
    assert champion.alias == Alias.CHAMPION


@pytest.mark.parametrize("button", ["promote", "canary", "measure", "label"])
def test_version_that_the_page_did_not_show_is_not_changed(
    staff: Callable[[str], Client], champion: ModelVersion, button: str
) -> None:
    register_copy(champion)
    client = staff("lead")
    form = {"share": "5", "reason": "read it", "force": "on", button: "1"}
    form |= hidden_version(client.get(CHALLENGER).text)
    other = register_copy(champion, "trained meanwhile")
    page = client.post(CHALLENGER, form, follow=True).text
    assert f"The challenger is {other} now: nothing was changed." in page
    assert "read it" in page
    other.refresh_from_db()
    assert other.alias == Alias.CHALLENGER
