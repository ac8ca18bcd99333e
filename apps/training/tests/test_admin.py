"""The doors of training in the admin: start, watch, cancel, build, promote, roll back."""

from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import Permission
from django.test import Client

from apps.accounts.models import User
from apps.moderation import actions as moderation
from apps.moderation.models import Policy
from apps.predictions import actions as predictions
from apps.predictions.models import Prediction
from apps.registry.models import Alias, Canary, CanaryEnd, ModelVersion, Promotion
from apps.training import actions, runs, tasks
from apps.training.models import Dataset, GateReport, TrainingRun
from toxicmod.testing.factories import create_queue_item

pytestmark = pytest.mark.django_db
RUNS = "/admin/training/trainingrun/"
CHALLENGER = f"{RUNS}challenger/"


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    """What was sent to a worker."""
    messages: list[tuple] = []
    monkeypatch.setattr(runs, "send", lambda task, *args, **options: messages.append((task, *args)))
    return messages


@pytest.fixture
def staff(person: Callable[..., User], client: Client) -> Callable[[str], Client]:
    """The client, signed in as somebody of a role."""

    def sign_in(role: str) -> Client:
        user = person(f"some {role}", role)
        user.is_staff = True
        user.save()
        client.force_login(user)
        return client

    return sign_in


def test_a_run_is_started_watched_and_cancelled(
    staff: Callable[[str], Client], dataset: Dataset, sent: list[tuple]
) -> None:
    client = staff("engineer")
    assert "Start a run" in client.get(RUNS).text
    form = client.get(f"{RUNS}start/").text
    assert f'<option value="{dataset.pk}">made-up v1</option>' in form
    answer = client.post(f"{RUNS}start/", {"dataset": dataset.pk, "recipe": "two_level", "seed": 3})
    run = TrainingRun.objects.get()
    assert answer.url == f"{RUNS}{run.pk}/watch/"
    assert sent == [("train_model", run.pk)]
    assert run.seed == 3
    assert run.created_by.username == "some engineer"
    TrainingRun.objects.update(status="running", step="fit", share=0.5)
    page = client.get(f"{RUNS}{run.pk}/watch/").text
    assert all(part in page for part in ("Running", 'value="0.500"', "fit", "Cancel this run", "run.js"))
    assert client.get(f"{RUNS}{run.pk}/progress/").json() == {
        "status": "running",
        "status_display": "Running",
        "step": "fit",
        "share": 0.5,
    }
    page = client.post(f"{RUNS}{run.pk}/watch/", follow=True).text
    assert "Cancelled by some engineer." in page
    assert "Cancel this run" not in page


def test_who_may_not_start_sees_no_door_and_opens_none(
    staff: Callable[[str], Client], dataset: Dataset, sent: list[tuple]
) -> None:
    client = staff("moderator")
    assert (
        client.post(f"{RUNS}start/", {"dataset": dataset.pk, "recipe": "two_level", "seed": 0}).status_code
        == 403
    )
    run = runs.queue_run(dataset=dataset)
    assert client.get(f"{RUNS}{run.pk}/watch/").status_code == 403
    assert client.get(f"{RUNS}{run.pk}/progress/").status_code == 403
    assert client.post(f"{RUNS}{run.pk}/watch/").status_code == 403
    assert client.get(CHALLENGER).status_code == client.get(f"{RUNS}roll-back/").status_code == 403
    User.objects.get(username="some moderator").user_permissions.add(
        Permission.objects.get(codename="view_trainingrun")
    )
    assert "Start a run" not in client.get(RUNS).text
    assert not sent


def test_a_data_set_is_built_by_a_worker(
    staff: Callable[[str], Client], dataset: Dataset, sent: list[tuple], caplog: pytest.LogCaptureFixture
) -> None:
    client = staff("engineer")
    chosen = {"action": "build", "_selected_action": [dataset.pk]}
    assert "A worker builds" in client.post("/admin/training/dataset/", chosen, follow=True).text
    assert sent == [("build_dataset", "decisions", dataset.pk)]
    tasks.build_dataset("decisions", dataset.pk)
    assert "nobody spoke of a comment" in caplog.text
    Dataset.objects.update(is_built=True)
    assert "Select one imported" in client.post("/admin/training/dataset/", chosen, follow=True).text


def test_a_lead_promotes_over_a_gate_with_a_reason_and_rolls_back(
    staff: Callable[[str], Client],
    reversed_version: ModelVersion,
    champion: ModelVersion,
    dataset: Dataset,
    sent: list[tuple],
) -> None:
    client = staff("lead")
    page = client.get(CHALLENGER).text
    assert all(part in page for part in ('name="force"', "Measure the gates", "has scored no comment yet"))
    assert "A worker measures" in client.post(CHALLENGER, {"measure": "1"}, follow=True).text
    assert sent == [("measure_gates", reversed_version.pk)]
    tasks.measure_gates(reversed_version.pk)
    page = client.get(CHALLENGER).text
    assert all(part in page for part in ("mean ROC-AUC", "failed", "passed", "interval"))
    choice = {"share": "5", "promote": "1"}
    assert "This field is required" in client.post(CHALLENGER, choice | {"reason": " "}).text
    assert "fails its gates" in client.post(CHALLENGER, choice | {"reason": "hope"}).text
    page = client.post(CHALLENGER, choice | {"reason": "a drill", "force": "on"}, follow=True).text
    assert "is the champion" in page
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


def test_an_engineer_tries_and_promotes_what_passes_and_overrides_nothing(
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
    assert "serves no requests any more" in page
    assert CanaryEnd.objects.get().reason == "seen enough"
    page = client.post(CHALLENGER, {"reason": "good", "share": "5", "promote": "1"}, follow=True).text
    assert "is the champion" in page


def test_moderators_are_asked_from_the_page(
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
    assert "2 comments wait in the queue" in page
    assert page.count("in the queue</td>") == 2
    assert "Let moderators label these" not in page


def test_a_built_data_set_names_its_decisions(
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


def test_a_run_on_a_tracking_server_is_linked(
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


def test_a_succeeded_run_says_what_it_produced(
    staff: Callable[[str], Client],
    dataset: Dataset,
    equal_version: ModelVersion,
    champion: ModelVersion,
) -> None:
    run = runs.queue_run(dataset=dataset)
    metrics = {"mean": {"roc_auc": 0.9512, "pr_auc": 0.61234, "ece": 0.004}}
    TrainingRun.objects.filter(pk=run.pk).update(
        status="succeeded", version=equal_version, metrics=metrics, step=""
    )
    client = staff("engineer")
    pages = (RUNS, f"{RUNS}{run.pk}/watch/", f"{RUNS}{run.pk}/change/")
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
    # A reference makes no version.
    TrainingRun.objects.filter(pk=run.pk).update(version=None, recipe="tfidf_baseline")
    assert "A reference for comparison" in client.get(f"{RUNS}{run.pk}/watch/").text
    TrainingRun.objects.filter(pk=run.pk).update(status="failed", error="Broken.")
    html = client.get(f"{RUNS}{run.pk}/watch/").text
    assert "Broken." in html
    assert "ROC-AUC" not in html


def test_challenger_page_shows_failed_gates_first_with_their_rules(
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
