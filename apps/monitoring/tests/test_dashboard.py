import csv
import io
import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
from django.core.cache import cache
from django.core.checks import run_checks
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from django_plotly_dash import access as dash_access

from apps.accounts.models import User
from apps.classifier.labels import LABELS
from apps.core.permissions import SYSTEM
from apps.moderation import actions as moderation
from apps.moderation.models import Decision, Delivery, Policy
from apps.monitoring.dashboard import PANELS, Filters
from apps.monitoring.dashboard.charts import Kind, Panel, Plot, Series, csv_rows, plotly_figure
from apps.monitoring.dashboard.panels.fairness import fairness_panel
from apps.monitoring.dashboard.panels.health import health_panel
from apps.monitoring.dashboard.statistics import confusion_rates, format_milliseconds, percentile
from apps.monitoring.models import Alert, AlertRule, Baseline, HourlyRollup, RequestMinute
from apps.monitoring.rollups.hours import start_of_hour
from apps.registry.actions import rollback
from apps.registry.models import Alias, ModelVersion, Promotion
from apps.training.models import ShadowScore
from apps.webhooks.models import Endpoint
from toxicmod.testing.dashboard import CALLBACK, PAGE, callback_body
from toxicmod.testing.factories import (
    create_monitoring_records,
    create_rollups,
    promote_version,
    register_copy,
    restrict_to_communities,
)

pytestmark = [pytest.mark.django_db, pytest.mark.database, pytest.mark.usefixtures("start_of_hour")]


def ask(client: Client, search: str = "", changed: str = "", **values: str) -> Any:
    """Call the dashboard's callback as Dash's script does."""
    body = callback_body(search, changed, **values)
    return client.post(CALLBACK, body, content_type="application/json")


@pytest.fixture
def engineer(client: Client, person: Callable[..., User]) -> Client:
    """Return a client in which an engineer is signed in."""
    user = person("eva", "engineer")
    User.objects.filter(pk=user.pk).update(is_staff=True)
    client.force_login(User.objects.get(pk=user.pk))
    return client


def test_dashboard_redirects_or_rejects_anonymous_visitor(client: Client) -> None:
    assert client.get(PAGE).headers["Location"].startswith("/admin/login/?next=/monitoring/")
    assert client.get("/monitoring/health.csv").status_code == 302
    assert ask(client).status_code == 403
    for part in ("_dash-layout", "_dash-dependencies", ""):
        assert client.get(f"/monitoring/dash/app/dashboard/{part}").status_code == 403


def test_dashboard_rejects_moderator_without_permission(client: Client, ann: User) -> None:
    User.objects.filter(pk=ann.pk).update(is_staff=True)
    client.force_login(ann)
    for path in (PAGE, "/monitoring/health.csv", "/monitoring/dash/app/dashboard/_dash-layout"):
        assert client.get(path).status_code == 403
    assert ask(client).status_code == 403


@pytest.mark.parametrize(
    "part", ["", "_dash-layout", "_dash-dependencies", "_dash-routes", "_dash-update-component", "assets/1"]
)
def test_find_app_unknown_name_is_not_found(engineer: Client, part: str) -> None:
    path = f"/monitoring/dash/app/unknown/{part}"
    assert engineer.get(path).status_code == 404
    assert engineer.post(path, {"text": "a"}).status_code == 404


def test_check_dashboard_permission_reports_missing_decorator(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "monitoring.E001" not in [message.id for message in run_checks()]
    monkeypatch.setattr(dash_access, "dash_view_decorator", None)
    assert "monitoring.E001" in [message.id for message in run_checks()]


def test_dashboard_page_has_no_inline_script(engineer: Client, champion: ModelVersion) -> None:
    answer = engineer.get(PAGE)
    policy = answer.headers["Content-Security-Policy"]
    assert "unsafe-eval" not in policy
    assert "script-src" not in policy  # the site's default, 'self', applies
    html = answer.content.decode()
    assert html.count("<script") == html.count("<script src=") + html.count('type="application/json"')
    assert "http://" not in html.replace("http://testserver", "")


@pytest.mark.parametrize("panel", PANELS)
def test_download_holds_the_numbers_of_the_panel(
    engineer: Client, champion: ModelVersion, panel: str
) -> None:
    create_rollups(champion)
    create_monitoring_records(champion)
    answer = ask(engineer, f"?panel={panel}&window=24h")
    assert answer.status_code == 200
    response = answer.json()["response"]
    assert response["panel"]["value"] == panel
    text = json.dumps(response["content"]["children"])
    assert "Download as CSV" in text
    file = engineer.get(f"/monitoring/{panel}.csv?panel={panel}&window=24h")
    rows = list(csv.DictReader(io.StringIO(file.content.decode())))
    drawn = graphs(response["content"]["children"])
    assert drawn or panel == "system"
    for title, figure in drawn.items():
        for trace in figure["data"]:
            numbers = [
                float(row["y"])
                for row in rows
                if (row["plot"], row["series"]) == (title, trace["name"]) and row["y"]
            ]
            drawn_numbers = [y for y in trace["y"] if y is not None]
            assert numbers == pytest.approx(drawn_numbers, rel=5e-6)  # the file has six significant digits
            assert numbers


def graphs(component: Any) -> dict[str, Any]:
    """Return the figures of Dash components by the key of their plot."""
    if isinstance(component, list):
        return {key: figure for child in component for key, figure in graphs(child).items()}
    if not isinstance(component, dict):
        return {}
    props = component.get("props", {})
    if "data-plot" in props:
        plots = [child["props"]["figure"] for child in props["children"] if child["type"] == "Graph"]
        return {props["data-plot"]: plots[0]} if plots else {}
    return graphs(props.get("children"))


@pytest.mark.parametrize("panel", PANELS)
def test_build_panel_without_data(engineer: Client, champion: ModelVersion, panel: str) -> None:
    answer = ask(engineer, f"?panel={panel}")
    assert answer.status_code == 200
    assert engineer.get(f"/monitoring/{panel}.csv").status_code == 200


def test_update_filter_changes_numbers_and_url(engineer: Client, champion: ModelVersion) -> None:
    create_rollups(champion)
    whole = ask(engineer, "?panel=traffic&window=24h").json()["response"]
    assert "7,200 comments were scored" in json.dumps(whole["content"])
    values = {"panel": "traffic", "window": "24h", "community": "=a"}
    part = ask(engineer, "?panel=traffic&window=24h", "community.value", **values).json()["response"]
    assert "2,400 comments were scored" in json.dumps(part["content"])
    assert part["url"]["search"] == "?panel=traffic&window=24h&community=a"
    again = ask(engineer, part["url"]["search"]).json()["response"]
    assert again["community"]["value"] == "=a"
    assert again["content"] == part["content"]


def test_update_shows_no_other_community(engineer: Client, champion: ModelVersion) -> None:
    create_rollups(champion)
    restrict_to_communities(User.objects.get(username="eva"), "a")
    for search in ("?panel=traffic&window=24h", "?panel=traffic&window=24h&community=b"):
        response = ask(engineer, search).json()["response"]
        assert "2,400 comments were scored" in json.dumps(response["content"])
        assert [option["label"] for option in response["community"]["options"]] == ["a"]
    assert "7200" not in engineer.get("/monitoring/traffic.csv?window=24h").content.decode()


@pytest.mark.parametrize("panel", PANELS)
def test_update_query_count_is_independent_of_rows(
    engineer: Client, champion: ModelVersion, panel: str
) -> None:
    def queries() -> int:
        cache.clear()  # the list of communities is cached for minutes
        with CaptureQueriesContext(connection) as captured:
            assert ask(engineer, f"?panel={panel}&window=30d").status_code == 200
        raw = [
            query["sql"] for query in captured.captured_queries if "predictions_prediction" in query["sql"]
        ]
        # Second reviews, and comments that both models scored: limited to a few thousand, read by key.
        assert len(raw) <= {"queue": 1, "quality": 4}.get(panel, 0)
        return len(captured)

    create_rollups(champion, days=1)
    create_monitoring_records(champion)
    queries()
    count = queries()
    HourlyRollup.objects.all().delete()
    Baseline.objects.all().delete()
    RequestMinute.objects.all().delete()
    create_rollups(champion, days=9)
    assert queries() == count
    assert count <= 30


def test_quality_panel_compares_challenger_on_same_comments(
    model: ModelVersion, policy: Policy, ann: User
) -> None:
    challenger = ModelVersion.objects.create(
        number=9, alias=Alias.CHALLENGER, recipe="two_level", sha256="1" * 64, manifest={}
    )
    for number, action in enumerate((Decision.Action.APPROVE, Decision.Action.REJECT, None)):
        answer = moderation.moderate(text=f"toxic=0.7 you {number}", community="forum", author_ref="x")
        assert answer.item is not None
        ShadowScore.objects.create(
            prediction=answer.item.submission.prediction,
            version=challenger,
            label_mask=number % 2,
            **dict.fromkeys(LABELS, 0.1),
        )
        if action:
            item = moderation.claim(item_id=answer.item.pk, user=ann)
            rule = None if action == Decision.Action.APPROVE else policy.rules.get(label="toxic")
            moderation.decide(item_id=item.pk, version=item.version, user=ann, action=action, rule=rule)
    plots = {plot.key: plot for plot in PANELS["quality"][1](Filters()).plots}
    flags, accuracy = plots["challenger"], plots["challenger, accuracy"]
    assert "agree on 33.3% of them" in flags.caption
    assert [series.y[0] for series in flags.series] == pytest.approx([1, 1 / 3])
    assert "Moderators decided 2" in accuracy.caption
    # The champion predicted toxic for both and is right once, the challenger only for the rejected comment.
    assert [series.y[0] for series in accuracy.series] == [0.5, 1.0]
    assert accuracy.series[1].low is not None
    assert accuracy.series[1].low[0] == pytest.approx(0.342, abs=1e-3)
    of_one = PANELS["quality"][1](Filters(community="forum")).plots
    assert "challenger" not in [plot.key for plot in of_one]


def test_queue_panel_counts_undone_decisions_as_open(
    champion: ModelVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In every hour 15 items are added, 12 are decided, and 3 decisions and an escalation are undone."""
    create_rollups(champion)
    HourlyRollup.objects.overall().update(reversed=4, escalations_reversed=1)
    monkeypatch.setattr("apps.monitoring.live_metrics.open_items", lambda community: 1_000)
    panel = PANELS["queue"][1](Filters("24h"))
    stats = {stat.name: stat.value for stat in panel.stats}
    assert (stats["In a day"], stats["Undone"]) == ("1,144", "25.0%")
    drawn = {series.name: series.y for plot in panel.plots for series in plot.series}
    assert drawn["undone"][-2:] == [3, 3]
    assert drawn["open"][-3:] == [988, 994, 1_000]


def test_panels_use_singular_for_one(
    model: ModelVersion, policy: Policy, ann: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = timezone.now()
    answer = moderation.moderate(text="toxic=0.7 you", community="forum", author_ref="x")
    assert answer.item is not None
    item = moderation.claim(item_id=answer.item.pk, user=ann)
    decided = moderation.decide(
        item_id=item.pk, version=item.version, user=ann, action=Decision.Action.APPROVE
    )
    endpoint = Endpoint.objects.create(origin="https://example.org")
    for status, error in ((Delivery.Status.FAILED, ""), (Delivery.Status.PENDING, "refused")):
        Delivery.objects.create(
            decision=decided.decision, endpoint=endpoint, url="https://example.org/", payload={},
            event=Delivery.Event.DECIDED, status=status, error=error, send_after=now, retry_until=now,
        )  # fmt: skip
    HourlyRollup.objects.create(
        hour=start_of_hour(now), version=model, source="api", overall=True, requests=1, errors=1,
        feedback_right=1, queued=1, approved=1, outcomes={"approve": 1},
    )  # fmt: skip
    RequestMinute.objects.create(
        minute=now, source="api", process="a:1", requests=1, client_errors=0, errors=1
    )
    monkeypatch.setattr("apps.monitoring.live_metrics.open_items", lambda community: 1)
    monkeypatch.setattr("apps.monitoring.live_metrics.broker_depths", lambda: {"default": 1})
    texts = {}
    for name, (_, build) in PANELS.items():
        panel = build(Filters("24h"))
        texts[name] = " ".join([panel.answer, *(plot.caption for plot in panel.plots)])
    for name, sentence in (
        ("health", "1 request was answered in the last hour; 1 failed."),
        ("traffic", "1 comment was scored in this window."),
        ("traffic", "1 model version was in service. "),
        ("traffic", "The policy was applied to 1 comment: "),
        ("traffic", "1 request was answered with a server error"),
        ("quality", "By feedback: right 1 time, wrong 0 times. "),
        ("queue", "1 item is open. In this window 1 was added and 1 was decided: "),
        ("queue", "At the rate of this window 1 item will be open in a day."),
        ("system", "1 webhook failed, 1 webhook is being retried"),
        ("system", "1 message is waiting in the broker."),
    ):
        assert sentence in texts[name]


def test_traffic_panel_marks_promotions(engineer: Client, champion: ModelVersion) -> None:
    create_rollups(champion)
    Promotion.objects.create(kind="promote", version=champion, replaced=champion, actor="a", reason="b")
    drawn = graphs(ask(engineer, "?panel=traffic&window=24h").json()["response"]["content"]["children"])
    assert "v1 promote" in [note["text"] for note in drawn["latency"]["layout"]["annotations"]]
    assert len(drawn["latency"]["layout"]["shapes"]) == Promotion.objects.count()


def test_quality_panel_compares_the_versions_of_a_quick_rollback(champion: ModelVersion) -> None:
    other = ModelVersion.objects.create(
        number=2, alias=Alias.CHALLENGER, recipe="two_level", sha256="1" * 64, manifest={}
    )
    now = start_of_hour(timezone.now())
    for hours, version, flagged in ((30, champion, 10), (2, other, 90), (0, champion, 10)):
        HourlyRollup.objects.create(
            hour=now - timedelta(hours=hours),
            version=version,
            source="api",
            overall=True,
            requests=100,
            flagged=[flagged] * 6,
        )
    for hours, version, replaced in ((3, other, champion), (1, champion, other)):
        Promotion.objects.create(
            kind="promote",
            version=version,
            replaced=replaced,
            actor="a",
            reason="b",
            created_at=now - timedelta(hours=hours),
        )
    plots = {plot.key: plot for plot in PANELS["quality"][1](Filters("24h")).plots}
    before, after = plots["flag rate, promotion"].series
    assert (before.name, set(before.y)) == ("v2, week before", {0.9})
    assert (after.name, set(after.y)) == ("v1, week after", {0.1})


def test_download_escapes_formulas(engineer: Client, champion: ModelVersion) -> None:
    create_rollups(champion)
    HourlyRollup.objects.filter(community="a").update(community="=cmd()")
    file = engineer.get("/monitoring/traffic.csv?community==cmd()").content.decode()
    assert not [row for row in csv.reader(io.StringIO(file)) for cell in row if cell.startswith("=")]
    assert engineer.get("/monitoring/nothing.csv").status_code == 404


def test_confusion_rates() -> None:
    confusion = np.zeros((10, 2, 2, 2))
    confusion[9, 1, 1], confusion[9, 1, 0], confusion[0, 0, 1] = (8, 8), (2, 2), (2, 2)
    rates = confusion_rates(confusion)
    assert rates.precision is not None
    assert rates.precision[0] == 0.8
    assert rates.recall is not None
    assert rates.recall[0] == 0.8


def test_percentile_interpolates_within_bin() -> None:
    counts = np.zeros(60)
    counts[10:20] = 10  # 100 values from 100 to 1,000, ten in each bin
    edges = np.logspace(1, 7, 61)
    assert percentile(counts, edges, 0.5) == pytest.approx(10**2.5)
    assert percentile(np.zeros(60), edges, 0.5) is None


def test_figures_and_download_round_numbers() -> None:
    series = [
        Series(name, [0.1 + 0.2, 0.5], [-3.3e-16, 1 / 3], kind, [-0.1, 0.1], [0.1, 0.7])
        for kind in Kind
        for name in (kind.value,)
    ]
    plot = Plot("agreement", "", series, "kappa")
    figure = plotly_figure(plot)
    for trace in figure["data"]:
        assert (trace["x"], trace["y"]) == ([0.3, 0.5], [0.0, 0.333333333])
        assert trace["error_y"]["array"] == [0.1, 0.366666667]
        assert str(trace["y"][0]) == "0.0"
    assert figure["layout"]["yaxis"]["hoverformat"] == ",.4~f"
    rows = list(csv_rows(Panel("", "", plots=[plot])))
    assert rows[1][2:] == [0.3, 0.0, -0.1, 0.1]


def test_format_milliseconds() -> None:
    values = (None, 690, 41_270, 1_570_400)
    assert [format_milliseconds(value) for value in values] == ["–", "0.69 ms", "41.3 ms", "1,570 ms"]


def test_charts_have_a_style_for_each_label() -> None:
    from apps.monitoring.dashboard.charts import COLOURS, DASHES, MARKERS, PATTERNS

    assert {len(COLOURS), len(DASHES), len(MARKERS), len(PATTERNS)} == {len(LABELS)}


def test_fairness_panel_shows_the_audit_of_the_version_in_service(champion: ModelVersion) -> None:
    new = register_copy(champion)
    promote_version(new)
    assert f"no bias audit of {new}" in fairness_panel(Filters()).answer
    for version in (champion, new):
        bias = {"women": {"bpsn": 0.9, "bnsp": 0.9, "subgroup": 0.9}}
        Baseline.objects.create(version=version, bias=bias)
    assert f"{new} does worst" in fairness_panel(Filters()).answer
    rollback(actor=SYSTEM, reason="bad")
    assert f"{champion} does worst" in fairness_panel(Filters()).answer
    assert f"{new} does worst" in fairness_panel(Filters(version=new.number)).answer


def test_health_panel_counts_all_alerts(champion: ModelVersion) -> None:
    for number in range(7):
        rule = AlertRule.objects.create(
            name=f"rule {number}", metric="queue_items", threshold=1, window_hours=1
        )
        Alert.objects.create(
            rule=rule, metric=rule.metric, comparison="above", threshold=1, window_hours=1,
            value=2, low=2, high=2, opened_at=timezone.now(),
        )  # fmt: skip
    panel = health_panel(Filters())
    assert "7 alerts are open" in panel.answer
    (stat,) = (stat for stat in panel.stats if stat.name == "Alerts")
    assert stat.value == "7"
