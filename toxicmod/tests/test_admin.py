"""The pages of the admin: they open, and nobody can change append-only rows."""

import re

import pytest
from django.contrib import admin
from django.contrib.auth.models import Permission
from django.db.models import Model
from django.test import Client
from django.urls import reverse

from apps.accounts.actions import create_api_key
from apps.accounts.models import APIKey, User
from apps.core.admin import ReadOnlyAdmin
from apps.core.permissions import SYSTEM
from apps.predictions.actions import give_feedback, score
from apps.predictions.models import Feedback, Prediction
from apps.registry.models import Canary, CanaryEnd, ModelVersion, Promotion
from apps.training.actions import create_run
from apps.training.models import Dataset, GateReport, TrainingRun
from toxicmod import urls

pytestmark = [pytest.mark.django_db, pytest.mark.database]

EVIDENCE: list[type[Model]] = [
    Prediction,
    Feedback,
    ModelVersion,
    Promotion,
    Canary,
    CanaryEnd,
    Dataset,
    TrainingRun,
    GateReport,
]
assert urls.urlpatterns  # they register what the admin shows
OURS = [model for model in admin.site._registry if model.__module__.startswith("apps.")]


def test_admin_passes_django_checks() -> None:
    # `manage.py check` may ask before the URLs are loaded.
    assert OURS
    assert admin.site.check(None) == []


def _url(model: type[Model], page: str, *args: object) -> str:
    return reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_{page}", args=args)


@pytest.fixture
def administrator(client: Client) -> Client:
    client.force_login(User.objects.create_superuser("root"))
    return client


@pytest.fixture
def records(champion: ModelVersion) -> dict[type[Model], Model]:
    """One row of each kind of evidence."""
    key, _ = create_api_key(actor=SYSTEM, name="forum")
    text = "<script>alert(1)</script> \u202e hostile"
    (prediction,), _ = score(texts=[text], source=Prediction.Source.API, api_key=key)
    feedback = give_feedback(prediction=prediction, is_right=False, remark="<img src=x onerror=alert(1)>")
    dataset = Dataset.objects.create(
        name="ours", version=1, sha256="0" * 64, source="ours.csv", rows=2, labelled=1, positives={"toxic": 1}
    )
    promotion = Promotion.objects.filter(version=champion).first()
    assert promotion is not None
    rows: list[Model] = [
        prediction,
        feedback,
        dataset,
        create_run(actor=SYSTEM, dataset=dataset),
        champion,
        promotion,
        key,
    ]
    gates = [{"name": "<script>alert(1)</script>", "figure": 0.1, "bound": None, "passed": True}]
    rows.append(GateReport.objects.create(version=champion, champion=champion, gates=gates))
    canary = Canary.objects.create(version=champion, champion=champion, share=0.1, gates=gates)
    rows += [canary, CanaryEnd.objects.create(canary=canary, outcome="withdrawn", guardrails=gates)]
    return {type(row): row for row in rows}


@pytest.mark.parametrize("model", OURS, ids=lambda model: model._meta.label)
def test_admin_lists_open(administrator: Client, records: object, model: type[Model]) -> None:
    assert administrator.get(_url(model, "changelist")).status_code == 200


def test_feedback_names_its_labels(administrator: Client, records: dict[type[Model], Model]) -> None:
    prediction = records[Prediction]
    assert isinstance(prediction, Prediction)
    for labels in ([], ["threat", "insult"]):
        give_feedback(
            prediction=prediction, is_right=False, true_labels=labels, known_labels=["threat", "insult"]
        )
    html = administrator.get(_url(Feedback, "changelist")).content.decode()
    cells = re.findall(r'<td class="field-stated_labels">(.*?)</td>', html)
    assert cells == ["threat, insult", "none of threat, insult", "-"]


BAD_LOOKUPS = (
    "submission__community=x",
    "nonsense=1",
    "pk__nonsense=1",
    "pk__in=a,b",
    "created_at__gte=yesterday",
    "id__community__isnull=maybe",
)


def test_bad_lookups_of_admin_lists_are_rejected_without_traceback(
    administrator: Client, records: object, caplog: pytest.LogCaptureFixture
) -> None:
    for model in OURS:
        for lookup in BAD_LOOKUPS:
            response = administrator.get(f"{_url(model, 'changelist')}?{lookup}")
            assert response.status_code in (200, 302, 400), (model, lookup)
            if response.status_code == 400:
                assert "Bad request" in response.content.decode()
    # The format of the site's log leaves out the traceback of records of `django.security`.
    assert {entry.name.rpartition(".")[0] for entry in caplog.records if entry.exc_info} <= {
        "django.security"
    }


@pytest.mark.parametrize("model", EVIDENCE)
def test_append_only_rows_are_escaped_and_read_only(
    administrator: Client, records: dict[type[Model], Model], model: type[Model]
) -> None:
    assert isinstance(admin.site._registry[model], ReadOnlyAdmin)
    url = _url(model, "change", records[model].pk)
    page = administrator.get(url)
    assert page.status_code == 200
    assert b"<script>alert" not in page.content
    assert b"<img src=x" not in page.content
    assert b'name="_save"' not in page.content
    assert administrator.post(url, {}).status_code == 403
    assert administrator.get(_url(model, "add")).status_code == 403
    assert administrator.post(_url(model, "delete", records[model].pk), {"post": "yes"}).status_code == 403


@pytest.mark.parametrize(
    ("model", "target"),
    [
        (Feedback, Prediction),
        (Prediction, ModelVersion),
        (Promotion, ModelVersion),
        (TrainingRun, Dataset),
        (GateReport, ModelVersion),
    ],
)
def test_append_only_rows_link_to_related_rows(
    administrator: Client, records: dict[type[Model], Model], model: type[Model], target: type[Model]
) -> None:
    page = administrator.get(_url(model, "change", records[model].pk)).content.decode()
    assert _url(target, "change", records[target].pk) in page


def test_new_api_key_is_shown_once(administrator: Client) -> None:
    response = administrator.post(
        _url(APIKey, "add"),
        {"name": "forum", "scopes": '["predict"]', "rate_per_minute": "60"},
        follow=True,
    )
    page = response.content.decode()
    secret = page.split("not shown again: ")[1].split("<")[0].strip()
    key = APIKey.objects.for_secret(secret)
    assert f"forum ({secret[:8]}…)" in page.split("was added")[0]
    assert key.name == "forum"
    assert key.created_by.username == "root"
    assert secret not in administrator.get(_url(APIKey, "changelist")).content.decode()


def test_api_key_rate_is_at_least_one_per_minute(administrator: Client) -> None:
    response = administrator.post(
        _url(APIKey, "add"), {"name": "forum", "scopes": '["predict"]', "rate_per_minute": "0"}
    )
    assert "at least one request a minute" in response.content.decode()
    assert not APIKey.objects.exists()


def test_admin_links_respect_permissions(client: Client, records: dict[type[Model], Model]) -> None:
    viewer = User.objects.create_user("vera", is_staff=True, all_communities=True)
    viewer.user_permissions.add(Permission.objects.get(codename="view_prediction"))
    client.force_login(viewer)
    page = client.get(_url(Prediction, "change", records[Prediction].pk)).content.decode()
    assert str(records[ModelVersion]) in page
    for target in (ModelVersion, APIKey):
        assert _url(target, "change", records[target].pk) not in page


@pytest.mark.parametrize("model", OURS, ids=lambda model: model._meta.label)
def test_admin_pages_round_numbers(
    administrator: Client, records: dict[type[Model], Model], model: type[Model]
) -> None:
    long = re.compile(r"[>\s]-?\d+\.\d{9,}")
    assert not long.search(administrator.get(_url(model, "changelist")).content.decode())
    if model in records:
        page = administrator.get(_url(model, "change", records[model].pk)).content.decode()
        assert not long.search(page)


@pytest.mark.parametrize("model", OURS, ids=lambda model: model._meta.label)
def test_admin_pages_name_the_time_zone_of_times(
    administrator: Client, records: dict[type[Model], Model], model: type[Model]
) -> None:
    times = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d(?: UTC)*")
    pages = [_url(model, "changelist")]
    if model in records:
        pages.append(_url(model, "change", records[model].pk))
    shown = [time for page in pages for time in times.findall(administrator.get(page).text)]
    assert shown or model not in EVIDENCE
    assert [time for time in shown if time.count("UTC") != 1] == []


def test_two_runs_of_a_data_set_differ_in_the_admin(
    administrator: Client, records: dict[type[Model], Model]
) -> None:
    run = records[TrainingRun]
    assert isinstance(run, TrainingRun)
    runs = [run, create_run(actor=SYSTEM, dataset=run.dataset)]
    page = administrator.get(_url(TrainingRun, "changelist")).text
    for number in (run.pk for run in runs):
        assert f"two_level on ours v1 (run {number})</a>" in page
